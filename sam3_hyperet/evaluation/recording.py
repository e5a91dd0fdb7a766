"""Records of several models on one task: what decides them, and those that are missing made by all processes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from lightning_fabric import Fabric

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.digest import sha256
from sam3_hyperet.evaluation.runner import ModelRun, record_images
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.training.gathering import from_first, wait_for_all
from sam3_hyperet.version import versions

RECORDS = "records"
"""Folder of a run with the records of its evaluation."""
Say = Callable[[str], None]
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


def record_runs(
    runs: Sequence[ModelRun],
    facts: Sequence[Mapping[str, object]],
    fabric: Fabric,
    *,
    resume: bool,
    say: Say,
    progress: Progress,
) -> None:
    """Make all records of the runs, whose images are of one task; all processes have to call this.

    facts: what decides the records of each run, for the first process; records that other facts decided start over.
    """

    def prepare() -> None:
        for run, of_run in zip(runs, facts, strict=True):
            if why := run.store.prepare(of_run, resume):
                say(why)

    from_first(fabric, prepare)
    positions = own_positions(runs, fabric, say)
    images = len(set().union(*positions))
    models, task = [run.predictor.model for run in runs], runs[0].task
    inputs = max(run.tiles_an_image() for run in runs)
    with progress(images) as on_image, shared_encoding(models, inputs), compiled_regions(models):
        record_images(runs, positions, task.split.images.load_image, workers=task.protocol.workers, on_image=on_image)
    wait_for_all(fabric)


def run_facts(run: ModelRun, of_model: Mapping[str, object], of_split: Mapping[str, object]) -> dict[str, object]:
    """All that decides a run's records, by `model_facts` of its model and `split_facts` of its images."""
    own = {"resolution": run.predictor.resolution, "evaluators": list(run.evaluators)}
    own |= {"spare_below": run.predictor.spare_below} if run.predictor.spare_below else {}
    own |= {"curvatures": run.probe.curvatures()} if run.probe else {}
    return {**of_model, **of_split, **own}


def split_facts(data: DataOptions, task: EvalTask) -> dict[str, object]:
    """All that decides a model's records on a split, as plain facts: equal facts, equal records.

    A file is known by its name, size and time.
    """
    split = task.split
    files = [split.images.files(i) for i in task.positions]
    if split.labels is not None and split.labels is not split.images:
        files += [split.labels.files(i) for i in task.positions]
    values: dict[str, tuple[object, ...]] = {
        "vocabulary": (task.vocabulary,),
        "categories": (split.images.categories, split.labels.categories if split.labels else (), task.groups),
    }
    if task.kept:
        values["kept"] = (task.kept.digest,)
    return {
        "records": 2,  # raise it whenever a record of the same means something else
        **{f"protocol.{name}": value for name, value in task.protocol.deciding().items()},
        "data": f"{data.name}, {split.name} split, {len(task.positions)} of {len(split.images)} images",
        **{name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in values.items()},
        "files": files_digest(files),
        "annotations": sha256(split.coco_file) if split.coco_file else None,
        **{f"version.{name}": version for name, version in versions().items()},
    }


def files_digest(files: Iterable[Iterable[Path]]) -> str:
    """Of names, sizes and times of files, by image."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for of_image in files for file in of_image]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def own_positions(runs: Sequence[ModelRun], fabric: Fabric, say: Callable[[str], None]) -> list[list[int]]:
    """The images of each run that this process records, of those without a record.

    An image is one process's for all runs, which then share its encoding, and the times of which compare. Those that
    as many runs lack are dealt out evenly: a process with much more to do than another would let it wait at the end,
    longer than NCCL lets a process wait.
    """
    # read by one process: another one that has begun would change what is missing
    found = from_first(fabric, lambda: [run.store.missing(run.positions) for run in runs])
    lacking = Counter[int]()
    for run, (missing, damaged) in zip(runs, found, strict=True):
        lacking.update(missing)
        if damaged or len(missing) < len(run.positions):
            because = f", {damaged} of them for a damaged record" if damaged else ""
            say(f"{run.name}: goes on with {len(missing)} of {len(run.positions)} images{because}")
    dealt = sorted(lacking, key=lambda position: (-lacking[position], position))
    own = set(dealt[fabric.global_rank :: fabric.world_size])
    return [[position for position in missing if position in own] for missing, _ in found]
