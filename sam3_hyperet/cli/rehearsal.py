"""The base's own answers on training images, as the labels of a run's rehearsal."""

from collections.abc import Callable, Sequence
from functools import partial

from lightning_fabric import Fabric
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.data.rehearsal import Answer, RehearsedImages, from_coco, to_coco
from sam3_hyperet.evaluation.models import at_dial
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.files import write_json
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.precision import float32_products
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.gathering import from_all
from sam3_hyperet.training.run_files import REHEARSAL_FILE
from sam3_hyperet.training.run_folder import RunFolder


def rehearse(
    model: host.Sam3Image,
    images: RehearsedImages,
    options: RunOptions,
    run: RunFolder,
    fabric: Fabric,
    console: Console,
) -> None:
    """Annotate the images with the base's answers: those that the run goes on from, else new ones, which are written.

    All processes must call this at once; each asks about its share of the images. Raises DataError.
    """
    file, least = run.path / REHEARSAL_FILE, options.rehearsal.score_threshold
    if run.resume and file.is_file():
        answers = from_coco(images, read_json(file), file)
    else:
        own = range(fabric.global_rank, len(images), fabric.world_size)
        with counted(console, "images to rehearse", len(own)) as on_image:
            asked = partial(base_answers, model, images, own, options.protocol, least, on_image)
            answers = {i: found for share in from_all(fabric, asked) for i, found in share.items()}
        if fabric.is_global_zero:
            write_json(file, to_coco(images, answers))
    images.annotate(answers)
    for line in images.lines(least):
        console.print(line, markup=False, soft_wrap=True)


def base_answers(
    model: host.Sam3Image,
    images: RehearsedImages,
    positions: Sequence[int],
    protocol: Protocol,
    score_threshold: float,
    on_image: Callable[[], None],
) -> dict[int, list[Answer]]:
    """What a model without its adapters finds on some of the images, by position, computed as the protocol says."""
    base = (at_dial(model, 0.0) if adapter_config(model) else shared_copy(model)).eval()
    protocol, names = protocol.on(next(model.parameters()).device.type), [c.name for c in images.categories]
    how = {"prompts_at_once": protocol.prompts_at_once, "precision": protocol.precision}
    predictor = Predictor(base, names, resolution(model), min_score=score_threshold, **how)
    answers: dict[int, list[Answer]] = {}
    with float32_products(protocol.precision):
        for i in positions:
            image, answers[i] = images.load_image(i), []
            for category, prediction in zip(images.categories, predictor.predict(image), strict=True):
                found = prediction.detections(image.height, image.width, None, score_threshold=score_threshold)
                scores = found.scores.tolist()
                answers[i] += [(category.id, *one) for one in zip(found.rles(len(scores)), scores, strict=True)]
            on_image()
    return answers
