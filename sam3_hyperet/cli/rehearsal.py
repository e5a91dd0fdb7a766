"""The base's own answers on training images, as the labels of a run's rehearsal."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.cli.training_data import with_remedy
from sam3_hyperet.data.answers import Answers
from sam3_hyperet.data.rehearsal import RehearsedImages
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.kept import AnswerEvaluator
from sam3_hyperet.evaluation.models import at_dial
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.files import write_json
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.precision import float32_products
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.gathering import from_all, from_first
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

    All processes must call this at once; each asks about its share of the images. Raises DataError for an image or a
    file that cannot be read, ConfigError where no answer is clear.
    """
    file = run.path / REHEARSAL_FILE
    before = run.resume and run.resume.parent / REHEARSAL_FILE
    kept = from_first(fabric, lambda: _read(images, before) if before and before.is_file() else None)
    answers = kept or {}
    if not kept:
        own = range(fabric.global_rank, len(images), fabric.world_size)
        with counted(console, "images to rehearse", len(own)) as on_image:
            asked = partial(base_answers, model, images, own, options.protocol, on_image)
            answers = {i: one for share in from_all(fabric, asked) for i, one in share.items()}
    from_all(fabric, lambda: images.annotate(answers))
    from_first(fabric, lambda: None if kept and before == file else write_json(file, images.to_coco()))
    for line in images.lines_of_training():
        console.print(line, markup=False, soft_wrap=True)


def _read(images: RehearsedImages, file: Path) -> dict[int, Answers]:
    return images.from_coco(read_json(file), file)


def base_answers(
    model: host.Sam3Image,
    images: RehearsedImages,
    positions: Sequence[int],
    protocol: Protocol,
    on_image: Callable[[], None],
) -> dict[int, Answers]:
    """What a model without its adapters finds on some of the images, by position, computed as the protocol says."""
    base = (at_dial(model, 0.0) if adapter_config(model) else shared_copy(model)).eval()
    protocol, names = protocol.on(next(model.parameters()).device.type), [c.name for c in images.categories]
    least = images.options.unclear_threshold
    predictor = Predictor(base, names, resolution(model), protocol.prompts_at_once, least, protocol.precision)
    evaluator, answers = AnswerEvaluator(images), dict[int, Answers]()
    with float32_products(protocol.precision):
        for i in positions:
            with with_remedy():
                image = images.load_image(i)
            evaluator.start(i, {})
            for category, prediction in zip(images.categories, predictor.predict(image), strict=True):
                best = prediction.detections(image.height, image.width, None, score_threshold=least)
                evaluator.add(Prompt(category.name, category.id), best)
            answers |= evaluator.answers([i], [evaluator.finish()])
            on_image()
    return answers
