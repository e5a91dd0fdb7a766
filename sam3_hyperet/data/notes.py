"""What a person should know of a data set before its numbers: lines that preparing, training and evaluating print."""

from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.choices import NUM_QUERIES
from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.directions import directional
from sam3_hyperet.data.image_files import has_orientation
from sam3_hyperet.data.options import FLIP
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.errors import DataError
from sam3_hyperet.wording import count_of

_LISTED = 40  # categories by name in a line
_MANY_RECTANGLES = 0.5  # fraction of the annotations
_MANY_CROWDS = 0.05  # fraction of the annotations; COCO's is .012
LOOKED_AT = 256  # images that are opened for a note


def data_notes(images: AnnotatedImages, listed: int = _LISTED) -> list[str]:
    """The summary, the categories with their counts, those without annotation, what is odd, and turned images.

    listed: how many categories a line names.
    """
    lines = [images.summary(), *(f"{images.name}: {remark}" for remark in images.remarks)]
    names = {category.id: category.name for category in images.categories}
    if of_values := images.value_lines(listed):
        lines += [f"{images.name}: {line}" for line in of_values]
    elif images.counts is not None:
        counts = sorted(((n, names[i]) for i, n in images.counts.items() if i in names), key=lambda one: -one[0])
        named = [f"{name} {n:,}" for n, name in counts]
        whole = f", in all {images.counted} images" if images.counted != len(images) else ""
        lines.append(f"{images.name}: annotations by category{whole}: {some(named, listed) or 'none'}")
        stated = images.unannotated - images.never_absent
        for taken, ids in (("so never taken as", images.never_absent), ("and where the file says so,", stated)):
            if of_these := [name for i, name in names.items() if i in ids]:
                lines.append(f"{images.name}: without any annotation, {taken} absent: {some(of_these, listed)}")
    annotations = sum((images.counts or {}).values())
    if images.boxed:
        lines.append(
            f"{images.name}: {images.boxed:,} of {annotations:,} annotations are boxes without a mask "
            "(data.boxes=instances): box AP is of these; in mask AP, each is a rectangle"
        )
    if images.crowds > _MANY_CROWDS * annotations:
        lines.append(
            f"{images.name}: warning: {images.crowds:,} of {annotations:,} annotations are crowds (iscrowd: 1), of "
            "which nothing is learnt; if each is one instance, as brush tools export them: data.crowds=instances"
        )
    if images.rectangles and images.rectangles >= _MANY_RECTANGLES * annotations:
        lines.append(
            f"{images.name}: warning: {images.rectangles:,} of {annotations:,} outlines are upright rectangles; boxes "
            "in place of masks teach the model to draw boxes"
        )
    lines += _crowded(images)
    turned, looked_at = _turned(images)
    if turned:
        what = "turned by it (data.exif=apply)" if images.is_upright else "shown as they are stored (data.exif=ignore)"
        lines.append(
            f"{images.name}: warning: {turned} of {looked_at} images looked at have an EXIF orientation, {what}; "
            "are the annotations drawn so?"
        )
    return lines


def flip_notes(images: AnnotatedImages, flip: float | None) -> list[str]:
    """What becomes of mirroring, `data.flip`, where names tell left from right."""
    if not (named := directional(images.categories)) or flip == 0:
        return []
    told = f"left and right are told apart by {some(named, _LISTED)}"
    if flip is None:
        return [f"{images.name}: images are not mirrored, since {told}; data.flip={FLIP} mirrors them nonetheless"]
    return [f"{images.name}: warning: data.flip={flip} mirrors images, though {told}"]


def prompt_notes(images: AnnotatedImages, sampler: PromptSampler) -> list[str]:
    """A warning where no image that was looked at lacks a concept that it can be prompted with as absent."""
    if sampler.num_negatives == 0:
        return []
    looked_at = spread(len(images), LOOKED_AT)
    if any(sampler.absent(images.present(i) | images.crowd_only(i), images.unlabelled(i)) for i in looked_at):
        return []
    return [
        f"{images.name}: warning: none of {len(looked_at)} images looked at lacks a concept, so the model learns that "
        "all prompts are there; name some that no image shows by data.absent_concepts=[dog,tree], or 65 common ones by "
        "data.absent_concepts=ov_all"
    ]


def _crowded(images: AnnotatedImages) -> list[str]:
    """A warning of images with more instances of a name than SAM 3 finds."""
    found = images.max_instances({category.id: category.id for category in images.categories})
    if found is None or not (full := int((found > NUM_QUERIES).sum())):
        return []
    found_by = f"SAM 3 finds up to {NUM_QUERIES} of a prompt in an image, so the others are neither learnt nor found"
    remedy = "crop these images; predict and evaluate split them (tiles=2x2, protocol.tiles=2x2)"
    shown = f"{full:,} of {count_of(len(images), 'image')} show more than {NUM_QUERIES} instances of one name"
    return [f"{images.name}: warning: {shown}, at most {found.max():,}; {found_by}: {remedy}"]


def _turned(images: AnnotatedImages) -> tuple[int, int]:
    """How many of some images, evenly spread, have an EXIF orientation, and how many were looked at."""
    turned, positions = 0, spread(len(images), LOOKED_AT)
    for i in positions:
        try:
            turned += has_orientation(images.files(i)[0])
        except DataError:
            continue  # named when the image is read
    return turned, len(positions)
