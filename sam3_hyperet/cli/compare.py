"""Any number of models side by side on a split of a data set: metrics.json and report.html."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import write_json
from sam3_hyperet.data.hierarchy import hierarchy_of
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.prompts import prompt_texts
from sam3_hyperet.data.sources import Split
from sam3_hyperet.evaluation.comparison import (
    INSTANCES,
    Comparison,
    Outcome,
    Variant,
    all_metrics,
    differences,
    fast_minus_exact,
    prefixes,
)
from sam3_hyperet.evaluation.fingerprint import model_facts, split_facts
from sam3_hyperet.evaluation.protocol import Protocol, positions
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import Contender, evaluate_records, record_pictures
from sam3_hyperet.evaluation.task import Suite
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.report.comparison_report import shown_examples, write_comparison

RECORDS = "records"
EXACT = "last-model-exact"
_HEADLINE = ("segm/AP", "bbox/AP", "mIoU", "unassigned", "presence/accuracy_absent")


def compare(
    variants: Sequence[Variant],
    data: DataOptions,
    split: Split,
    protocol: Protocol,
    run_dir: Path,
    *,
    config_text: str,
    extra: Mapping[str, float],
    console: Console,
    fabric: Fabric,
    resume: str = "auto",
    keep_records: bool = False,
) -> dict[str, float]:
    """Ask all models about each picture in turn, score them, write metrics.json and report.html.

    What is there of an interrupted comparison of the same models on the same pictures is not asked again.

    Args:
        variants: the base first, if it is named "base".
        extra: more metrics to write.
        fabric: launched; its processes share the pictures.
        resume: "auto" goes on from the records in run_dir, "never" starts over.
        keep_records: leave them there when all is done.

    Returns:
        The metrics, flat: `base/<data>/<metric>` of the base, `<data>/<metric>` of the adapted model, of several
        `<name>/<data>/<metric>`; nothing in a process that is not the first.
    """
    run_dir = Path(fabric.broadcast(str(run_dir)))
    console.print(split.images.summary())
    suite = open_suite(split, protocol)
    contenders = [contender(variant, suite, run_dir / RECORDS) for variant in variants]
    exact = exact_contender(variants[-1], suite, run_dir / RECORDS)
    everyone = [*contenders, exact] if exact else contenders
    if fabric.is_global_zero:
        facts = split_facts(data, split, suite, protocol)
        for one, of_model in zip(everyone, model_facts([one.predictor.model for one in everyone]), strict=True):
            if why := one.store.prepare({**of_model, **facts, "evaluators": list(one.evaluators)}, resume == "auto"):
                console.print(why, markup=False, soft_wrap=True)
    fabric.barrier()
    share = _share(everyone, fabric, console)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("pictures", total=len(set().union(*share.values())))
        advance = partial(progress.advance, task)
        with shared_encoding([one.predictor.model for one in everyone]):
            record_pictures(everyone, share, split.images.picture, workers=protocol.workers, on_picture=advance)
    fabric.barrier()
    if not fabric.is_global_zero:
        return {}
    outcomes = tuple(_outcome(variant, one) for variant, one in zip(variants, contenders, strict=True))
    metrics = {**extra, **all_metrics(data, suite, outcomes)}
    metrics |= differences(data.name, outcomes, protocol.bootstrap)
    if exact:
        metrics |= fast_minus_exact(data.name, outcomes, exact)
    write_json(run_dir / "metrics.json", metrics)
    write_comparison(Comparison(data, split, suite, outcomes, metrics), run_dir, config_text)
    if not keep_records:
        shutil.rmtree(run_dir / RECORDS)
    return metrics


def open_suite(split: Split, protocol: Protocol) -> Suite:
    """The prompts and evaluators of a split under a protocol."""
    chosen = positions(split.images, protocol.limit)
    pairs, maps = shown_examples(split, chosen, protocol.examples)
    texts = prompt_texts(split.labels.categories) if protocol.synonyms and split.labels else None
    hierarchy = hierarchy_of(split.images.categories) if protocol.granularity else None
    return Suite(split, protocol, chosen, texts=texts, hierarchy=hierarchy, shown=pairs, shown_maps=maps)


def contender(variant: Variant, suite: Suite, folder: Path) -> Contender:
    """A model as the runner asks it; its records are kept below `folder`."""
    return _asked(variant.model, suite, suite.protocol, suite.positions, folder / variant.name)


def exact_contender(variant: Variant, suite: Suite, folder: Path) -> Contender | None:
    """The model once more, for the AP of `protocol.compare_exact` pictures without `min_score`.

    None where none is asked for, or the data has no instances.
    """
    count = suite.protocol.compare_exact
    if not count or not suite.category_of:
        return None
    chosen = tuple(suite.positions[k] for k in positions(suite.positions, count))
    twin = shared_copy(variant.model)  # what watches the model must not see it work twice
    asked = _asked(twin, suite, replace(suite.protocol, min_score=0.0, compare_exact=0), chosen, folder / EXACT)
    return replace(asked, evaluators={INSTANCES: asked.evaluators[INSTANCES]})


def _asked(model: host.Sam3Image, suite: Suite, protocol: Protocol, chosen: tuple[int, ...], folder: Path) -> Contender:
    predictor = Predictor(
        model, suite.vocabulary, resolution(model), protocol.prompts_at_once, protocol.min_score, protocol.precision
    )
    return Contender(folder.name, predictor, suite.evaluators(model), RecordStore(folder), chosen)


def _share(contenders: Sequence[Contender], fabric: Fabric, console: Console) -> dict[str, list[int]]:
    """The pictures that this process asks each model about: every world-size-th one that has no record."""
    share = {}
    for contender in contenders:
        mine = contender.positions[fabric.global_rank :: fabric.world_size]
        share[contender.name], damaged = contender.store.missing(mine)
        if damaged or len(share[contender.name]) < len(mine):
            console.print(
                f"{contender.name}: goes on with {len(share[contender.name])} of {len(mine)} pictures"
                + (f", {damaged} of them for a damaged record" if damaged else "")
            )
    return share


def _outcome(variant: Variant, contender: Contender) -> Outcome:
    records = contender.store.read_all(contender.positions)
    figures = evaluate_records(contender.evaluators, records, len(contender.predictor.vocabulary))
    return Outcome(variant, contender, records, figures)


def print_headline(console: Console, metrics: Mapping[str, float], names: Sequence[str]) -> None:
    """Print the metrics that models are judged by, a column for each of `names`; of two, their difference."""
    before = prefixes(names)
    keys: dict[str, None] = {}
    for key in metrics:
        prefix = max((one for one in before.values() if key.startswith(one)), key=len, default=None)
        if prefix is not None and key.endswith(_HEADLINE) and not key.startswith("difference/"):
            keys[key.removeprefix(prefix)] = None
    is_pair = len(names) == 2
    table = Table("metric", *names, *(["difference"] if is_pair else []))
    for key in keys:
        values = [metrics.get(f"{prefix}{key}") for prefix in before.values()]
        row = ["–" if value is None else f"{value:.4f}" for value in values]
        if is_pair:
            first, second = values
            row.append("–" if first is None or second is None else f"{second - first:+.4f}")
        table.add_row(key, *row)
    console.print(table)
