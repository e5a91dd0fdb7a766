"""Any number of models side by side on a split of a data set: metrics.json and report.html."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Column, Table

from sam3_hyperet.choices import KEPT
from sam3_hyperet.cli.dial import DIAL_RULE, print_front
from sam3_hyperet.cli.progress import counted
from sam3_hyperet.cli.tables import print_table
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import Split
from sam3_hyperet.digest import tensors_sha256
from sam3_hyperet.evaluation.compare import Comparison, compare, remove_records
from sam3_hyperet.evaluation.dial import DialFront, front_of
from sam3_hyperet.evaluation.metric_table import model_parts
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.models import BASE, EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.files import Manifest, write_json
from sam3_hyperet.report.comparison_report import write_comparison
from sam3_hyperet.report.short_names import short_names
from sam3_hyperet.report.tables import MISSING, value
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.training.run_files import ADAPTER_DIGEST, EVALUATION_FILES, METRICS_FILE

_PRINTED = ("segm/AP", "bbox/AP", "mIoU", "unassigned", "presence/accuracy_absent")


def compare_and_report(
    models: Sequence[EvalModel],
    data: DataOptions,
    split: Split,
    protocol: Protocol,
    run_dir: Path,
    *,
    config_text: str,
    extra: Mapping[str, float],
    console: Console,
    fabric: Fabric,
    tuning: AnnotatedImages | None = None,
    resume: str = "auto",
    keep_records: bool = False,
    kept: AnsweredImages | None = None,
    dial_rule: Rule | None = None,
    front: DialFront | None = None,
    base: str = "",
) -> dict[str, float]:
    """Compare models (see `evaluation.compare.compare`), print the main metrics, write metrics.json and report.html.

    `kept` is what `evaluation.kept.open_kept` returns for the split. `dial_rule` is what the front of models along a
    dial shows, if it can; `front` is the one that chose their dial. `base` names the base weights, `extra` has more
    metrics to write, `tuning` is for `compare`. `resume` is "auto" to go on from the records in `run_dir`, "never" to
    start over.
    Returns the metrics; nothing in a process that is not the first.
    """
    Manifest(run_dir).check(*EVALUATION_FILES)
    what = "images" if fabric.world_size == 1 else f"images of the first of {fabric.world_size} processes"
    say, progress = partial(console.print, markup=False, soft_wrap=True), partial(counted, console, what)
    for line in data_notes(split.images):
        say(line)
    task, goes_on = open_task(split, protocol, kept), resume == "auto"
    if protocol.asks_present:
        left_out = ", ".join(["cgF1", *_left_out(split, protocol)])
        say(f"prompts: {protocol.prompted_by}; not comparable with other protocols; without {left_out}")
    comparison = compare(models, data, task, run_dir, fabric, tuning=tuning, resume=goes_on, say=say, progress=progress)
    if comparison is None:
        return {}
    front = front or _front(comparison, dial_rule, say)
    metrics = {**extra, **(_of_tuning(front) if front and front.chosen is not None else {}), **comparison.metrics}
    Manifest(run_dir).claim(*EVALUATION_FILES)
    write_json(run_dir / METRICS_FILE, {**how_measured(comparison), **metrics})
    write_comparison(replace(comparison, metrics=metrics), run_dir, config_text, front, base)
    if not keep_records:
        remove_records(comparison, run_dir)
    print_metrics(console, metrics, [model.name for model in models])
    if front and front.chosen is None:
        print_front(console, front)
    return metrics


def _of_tuning(front: DialFront) -> dict[str, float]:
    """What the rule names, at each dial that was tried on tuning images."""
    names = front.rule.metrics
    return {f"dial/{dial:g}/{name}": found[name] for dial, found in front.metrics.items() for name in names}


def how_measured(comparison: Comparison) -> dict[str, object]:
    """What keeps metrics apart from others: protocol, data, the one adapter, and by their own keys the main parts."""
    protocol, split = comparison.task.protocol, comparison.task.split
    tiles = {} if protocol.tiling.is_whole else {"tiles": f"{protocol.tiles}, overlap {protocol.tile_overlap:g}"}
    prompts = {"prompted_by": protocol.prompted_by} if protocol.asks_present else {}
    data = {"name": comparison.data.name, "split": split.name, "images": len(comparison.task.positions)}
    data |= {"prompts": list(comparison.task.vocabulary)}
    if kept := comparison.task.kept:
        data |= {KEPT: {**asdict(kept.options), "names": [category.name for category in kept.categories]}}
    files = {one.model.adapter_file for one in comparison.results if one.model.adapter_file}
    adapter = {ADAPTER_DIGEST: tensors_sha256(*files)} if len(files) == 1 else {}
    return {"protocol": asdict(protocol), "data": data, "precision": protocol.precision, **adapter, **tiles, **prompts}


def _left_out(split: Split, protocol: Protocol) -> list[str]:
    """What is not scored where present concepts are asked for alone."""
    is_there = {"label maps": split.labels is not None, "the concept tree": protocol.granularity}
    return [name for name, there in is_there.items() if there]


def _front(comparison: Comparison, rule: Rule | None, say: Callable[[str], None]) -> DialFront | None:
    """The front along a dial that was compared; that it shows something else than what was asked is said."""
    front = front_of(comparison.results, rule, comparison.task)
    if front and rule and front.rule != rule and rule.option == DIAL_RULE:  # that of a run is shown where it can be
        lacking = ", ".join(replace(front, rule=rule).lacking())
        say(f"{rule.option}: not shown, for {front.images} defined no {lacking}; the front is of {front.rule}")
    return front


def print_metrics(console: Console, metrics: Mapping[str, float], names: Sequence[str]) -> None:
    """Print the metrics that models are judged by, a column for each of `names`; of two, their difference.

    Long names are short ones in the table, and whole in lines before it. A metric that does not exist, such as the AP
    of what no image shows, is printed as "–".
    """
    parts = model_parts(names).values()
    is_pair = len(names) == 2
    adapted, data = [name for name in names if name != BASE], [key.data for key in _judging(metrics)]
    heads = {BASE: BASE} | short_names(adapted, data)
    for name in (name for name in names if heads[name] != name):
        console.print(f"{heads[name]}: {name}", markup=False, soft_wrap=True)
    columns = [heads[name] for name in names] + ["difference"] * is_pair
    table = Table(*(Column(name, overflow="fold") for name in ("metric", *columns)))
    judging = (key for key in _judging(metrics) if key.model in parts)
    for key in dict.fromkeys(MetricKey.of(key, key.data) for key in judging):
        values = [value(metrics, MetricKey.of(key, key.data, part)) for part in parts]
        shown = [MISSING if found is None else f"{found:.4f}" for found in values]
        if is_pair:
            before, after = values
            shown.append(MISSING if before is None or after is None else f"{after - before:+.4f}")
        table.add_row(key, *shown)
    print_table(console, table)


def _judging(metrics: Mapping[str, float]) -> list[MetricKey]:
    """The keys of the metrics that are printed."""
    return [key for key in metrics if isinstance(key, MetricKey) and key.metric in _PRINTED and not key.category]
