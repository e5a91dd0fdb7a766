"""A protocol that leaves something out beside the exact one, on some of the scored images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sam3_hyperet.evaluation.cascade import CASCADE, measured_recall
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.evaluation.models import EXACT, EvalModel
from sam3_hyperet.evaluation.protocol import evenly_spread
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import ModelRun, open_run, records_of, seconds_of
from sam3_hyperet.evaluation.task import INSTANCES, LABEL_MAPS, EvalTask
from sam3_hyperet.modeling.copies import shared_copy


def exact_runs(models: Sequence[EvalModel], task: EvalTask, folder: Path) -> list[ModelRun]:
    """Each model once more, by the exact protocol on `protocol.compare_exact` images; none for no images."""
    count = task.protocol.compare_exact
    chosen = tuple(evenly_spread(task.positions, count))
    runs = []
    for model in models if count else ():
        twin = EvalModel(f"{model.name}, exact", shared_copy(model.model))  # the model's probe has each image once
        run = open_run(twin, task, RecordStore(folder / EXACT / model.name), task.protocol.exact())
        kept = {name: one for name, one in run.evaluators.items() if name in (INSTANCES, LABEL_MAPS, CASCADE)}
        runs.append(replace(run, evaluators=kept, positions=chosen, probe=None))
    return runs


def minus_exact(run: ModelRun, exact: ModelRun) -> dict[str, float]:
    """What leaving out changed on the exact run's images.

    Of `protocol=fast`: `speed/fast_minus_exact/AP` and `…/mIoU`, as far as they are defined. Of a cascade:
    `speed/cascade_minus_exact/AP` and `…/mIoU`; `speed/cascade_recall`, and `speed/cascade_speedup`.
    """
    protocol = run.task.protocol
    kind = "cascade" if protocol.recall < 1 else "fast"
    ours, theirs = run.store.read_all(exact.positions), exact.store.read_all(exact.positions)
    found = {}
    for name, key, short in ((INSTANCES, "segm/AP", "AP"), (LABEL_MAPS, f"{protocol.fusion or 'fused'}/mIoU", "mIoU")):
        if name in exact.evaluators:
            change = _value(exact, name, key, ours) - _value(exact, name, key, theirs)
            found[f"speed/{kind}_minus_exact/{short}"] = change
    if CASCADE in exact.evaluators:
        spared, scores = records_of(ours, CASCADE), records_of(theirs, CASCADE)
        found["speed/cascade_recall"] = measured_recall(spared, scores, protocol.min_score)
        found["speed/cascade_speedup"] = seconds_of(theirs) / seconds_of(ours)
    return {key: value for key, value in found.items() if np.isfinite(value)}


def difference_line(model: str, found: Mapping[str, float], images: int, spared: float | None = None) -> str:
    """What `minus_exact` found on so many images, in one line for people.

    model: the name. spared: the fraction of the prompts of all scored images that a cascade spared.
    """
    changes = {key.rpartition("/")[2]: value for key, value in found.items() if "_minus_exact/" in key}
    shown = [f"{key} {value:+.4f}" for key, value in changes.items()]
    if "speed/cascade_recall" in found:
        shown.append(f"recall {found['speed/cascade_recall']:.4f}")
    if "speed/cascade_speedup" in found:
        shown.append(f"{found['speed/cascade_speedup']:.2f} x as fast as exact, calibration not counted")
    every = "" if spared is None else f"; {spared:.1%} of the prompts of all scored images were spared"
    beside = f"{model}, beside the exact protocol on {images} of the scored images"
    return f"{beside}: {', '.join(shown) or 'neither AP nor mIoU is defined'}{every}"


def unmeasured_line(model: str, spared: float) -> str:
    """What a cascade spared of all prompts, in one line for people, where it was not compared; `model` is the name."""
    return f"{model}: {spared:.1%} of the prompts were spared; with protocol.compare_exact=0, recall was not measured"


def _value(exact: ModelRun, evaluator: str, key: str, records: Sequence[Record]) -> float:
    once = np.ones(len(records), dtype=np.int64)
    return exact.evaluators[evaluator].headline(records_of(records, evaluator))(once)[key]
