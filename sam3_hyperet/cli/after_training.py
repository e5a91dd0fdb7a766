"""What follows a training: the model with its best weights beside its base, and the next command."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import command_line
from sam3_hyperet.cli.predict_inputs import prompts_text
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.models import EvalModel, beside_base
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.training.run_files import ADAPTER, REPORT_FILE, WEIGHTS
from sam3_hyperet.training.run_folder import RunFolder, base_trains


def trained_models(
    model: host.Sam3Image, of_model: Mapping[str, Any], run: RunFolder, fabric: Fabric
) -> list[EvalModel]:
    """The base and, with the run's best weights, the model that was trained.

    `of_model` is the section `model` of the run. All processes must call this at once.
    """
    fabric.barrier()  # every process loads what the first one has written
    run.load_best(model, lambda: open_model(of_model))
    base = None
    if base_trains(model) and of_model.get("checkpoint") != "random":
        base = open_model(of_model).to(fabric.device)
    adapter, weights = run.path / ADAPTER["best"], run.path / WEIGHTS["best"]
    adapter_file = adapter if adapter_config(model) is not None else None
    return beside_base(model, base, adapter_file, weights_file=weights if weights.is_file() else None)


def print_next(say: Callable[[str], None], run_dir: Path, images: AnnotatedImages, pictures: AnnotatedImages) -> None:
    """Print where the results are, and a command to paste that uses them on the first of `pictures`.

    Its prompts are the first categories of `images` that are annotated.
    """
    files = [name for name in (ADAPTER["best"], WEIGHTS["best"], REPORT_FILE) if (run_dir / name).is_file()]
    say("wrote " + ", ".join(str(run_dir / name) for name in files))
    counts = images.counts or {}
    classes = [category for category in images.categories if category.id != images.background]
    annotated = [category for category in classes if counts.get(category.id)] or classes
    prompts = f"prompts={prompts_text([category.name for category in annotated[:3]])}"
    say("next: " + command_line("predict", f"run={run_dir}", f"images={pictures.image(0).path}", prompts))
