"""Which image belongs to which label map: by their paths below two folders, without the endings."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sam3_hyperet.data.annotations import some
from sam3_hyperet.data.class_names import text_lines
from sam3_hyperet.data.finding import IMAGE_ENDINGS, LABEL_ENDINGS, composed, find_by_stem
from sam3_hyperet.errors import DataError
from sam3_hyperet.override import override
from sam3_hyperet.wording import count_of


def image_label_pairs(
    folder: Path,
    label_folder: Path,
    image_ending: str | None,
    label_ending: str | None,
    listed: Path | str | None,
) -> dict[str, tuple[Path, Path]]:
    """Image and label map by what their paths have in common. Raises DataError for one without the other."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    maps = find_by_stem(label_folder, (label_ending,) if label_ending else LABEL_ENDINGS)
    images = find_by_stem(folder, (image_ending,) if image_ending else IMAGE_ENDINGS, apart_from=maps.values())
    if listed is not None:
        images = _only_listed(Path(listed), images, folder)
        maps = _only_listed(Path(listed), maps, label_folder)
    image_alone = (images, maps, "image", "without a label map in", label_folder)
    map_alone = (maps, images, "label map", "without an image in", folder)
    for these, others, what, how, where in (image_alone, map_alone):
        if alone := sorted(these.keys() - others.keys()):
            remedy = _endings(images, maps) if others.keys() - these.keys() else ""
            found = f"{count_of(len(alone), what)} {how} {where}: {some(alone)}"
            raise DataError(f"{these[alone[0]].parent}: {found}{remedy}")
    return {stem: (images[stem], maps[stem]) for stem in sorted(images)}


def with_same_names(stems: Iterable[str], folder: Path, ending: str | None) -> list[Path]:
    """The maps in another folder with the same names. Raises DataError where one is missing."""
    found = find_by_stem(folder, (ending,) if ending else LABEL_ENDINGS)
    if missing := [stem for stem in stems if stem not in found]:
        raise DataError(f"{folder}: {len(missing)} images have no map of objects: {some(missing)}")
    return [found[stem] for stem in stems]


def _endings(images: Mapping[str, Path], maps: Mapping[str, Path]) -> str:
    """What to say where files are paired by other names than their own."""
    for option, stems, others in (("label", maps, images), ("image", images, maps)):
        ends = {stem[len(other) :] for other in others for stem in stems if stem.startswith(other)}
        suffixes = {path.suffix for path in stems.values()}
        for end in sorted(ends - {""}) if len(suffixes) == 1 else ():
            if {stem.removesuffix(end) for stem in stems} == set(others):
                stated = override(f"data.{option}_ending", f"{end}{suffixes.pop()}")
                return f"; if all of them end in {end!r} before the suffix: {stated}"
    return f"; there are {some(sorted(maps))} for {some(sorted(images))}"


def _only_listed(path: Path, files: dict[str, Path], folder: Path) -> dict[str, Path]:
    stems = [composed(line.strip()) for line in text_lines(path)]
    if not stems or len(set(stems)) != len(stems):
        raise DataError(f"{path}: {len(stems)} images are listed, {len(set(stems))} different ones")
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{path}: {len(missing)} of {len(stems)} listed images are not in {folder}: {some(missing)}")
    return {stem: files[stem] for stem in stems}
