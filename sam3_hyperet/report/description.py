"""What was compared, for people: each model's adapter, training and weights, the data, and when it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from sam3_hyperet.digest import sha256
from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.metric_table import EvalResult
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.config_words import geometry_in_words, sites_in_words, structure_in_words
from sam3_hyperet.modeling.parameters import base_state_dict, parameter_report
from sam3_hyperet.report.summary import duration
from sam3_hyperet.report.tables import GRANULARITIES, in_words, is_part, value
from sam3_hyperet.training import run_log
from sam3_hyperet.training.run_files import HISTORY_FILE
from sam3_hyperet.version import __version__, commit
from sam3_hyperet.wording import count_of

_DIGITS = 12  # of a hash that is shown
_MEMBERS = 8  # of a group that are named
_TINY = 50_000_000  # parameters; the official model has more than ten times as many


@dataclass(frozen=True)
class ModelDescription:
    """One adapted model in a row of a table; "" for what is not known."""

    name: str
    adapter: str  # the scheme and its sites, or the control
    geometry: str
    structure: str
    parameters: str
    training: str
    weights: str  # of the base, where they were trained


COLUMNS = ("adapter", "geometry", "structure", "parameters", "training", "weights")


def descriptions(comparison: Comparison) -> list[ModelDescription]:
    """The adapted models; along a dial, which has one adapter, the last of them."""
    adapted = [result for result in comparison.results if result.model.name != BASE]
    along = any(result.model.dial is not None for result in adapted)
    return [_described(comparison, result) for result in (adapted[-1:] if along else adapted)]


def kind_of_base(comparison: Comparison) -> str:
    """What the base is, by its size."""
    millions = _size(comparison.results[0]) / 1e6
    if 1e6 * millions >= _TINY:
        return f"SAM 3 ({millions:,.0f} million parameters)"
    return f"a tiny model of SAM 3's architecture ({millions:.1f} million parameters)"


def facts(comparison: Comparison, described: list[ModelDescription], base: str) -> dict[str, str]:
    """What the head of a report says by name: the adapter of a lone model, the base, the data, and when.

    base: name of the base weights.
    """
    found: dict[str, str] = {}
    if len(described) == 1:
        one = described[0]
        kind = ", ".join(filter(None, (one.adapter, one.geometry, one.structure)))
        found |= {"adapter": "; ".join(filter(None, (kind, one.parameters))), "training": one.training}
        found["trained base weights"] = one.weights
    digest = comparison.results[0].base_digest
    found["base"] = ", ".join(filter(None, (base, f"SHA-256 {digest[:_DIGITS]}…" if digest else "")))
    split, task = comparison.task.split, comparison.task
    images = f"{len(task.positions)} of {count_of(len(split.images), 'image')}"
    drawn = " (drawn pictures)" if comparison.data.format == "scenes" else ""
    prompts = f"{count_of(len(task.vocabulary), 'prompt')}, {task.protocol.prompted_by or 'absent ones included'}"
    found["data"] = f"{comparison.data.name}{drawn}, {split.name} split, {images}; {prompts}"
    found["groups"] = _groups(comparison)
    if kept := task.kept:
        masks = sum(len(kept.instances(i)) for i in task.positions)
        names = ", ".join(one.name for one in kept.categories[:_MEMBERS]) + ", …" * (len(kept.categories) > _MEMBERS)
        asked = f"{count_of(masks, 'mask')} of {count_of(len(kept.categories), 'name')} without labels ({names})"
        found["the base's own answers"] = asked
    of_software = f"sam3_hyperet {__version__}" + _commit()
    found["written"] = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC by {of_software}"
    return {name: text for name, text in found.items() if text}


def _groups(comparison: Comparison) -> str:
    """The data's own groups with their concepts, of many their number; those that are part of others left out."""
    names = {category.id: category.name for category in comparison.task.split.images.categories}
    found = []
    for group, ids in comparison.task.groups.items():
        if group in GRANULARITIES or is_part(group, comparison.task.groups):
            continue
        members = [names[i] for i in ids if i in names]
        text = ", ".join(members) if len(members) <= _MEMBERS else f"{len(members)} concepts"
        found.append(f"{in_words(group)}: {text}")
    return "; ".join(found)


def _commit() -> str:
    head = commit()
    return f", commit {head.removesuffix('+')}{' with changes' * head.endswith('+')}" if head else ""


def alone(described: Sequence[ModelDescription]) -> str:
    """Which two of several models differ in one thing alone, and in what."""
    things = ("adapter", "geometry", "structure", "training", "weights")
    found = []
    for k, one in enumerate(described):
        for other in described[:k]:
            differing = [name for name in things if getattr(one, name) != getattr(other, name)]
            if len(differing) == 1:
                found.append(f"{one.name} and {other.name} ({differing[0]})")
    if found:
        return f"In one of these alone differ {'; '.join(found)}."
    return "No two of these differ in one thing alone: what makes a difference between them is not told apart."


def _described(comparison: Comparison, result: EvalResult) -> ModelDescription:
    model, config = result.model.model, adapter_config(result.model.model)
    report = parameter_report(model)
    parameters = "" if config is None else f"{report['added']:,} added, {100 * report['added_ratio']:.2g} % of the base"
    scheme = "scheme " if config is not None and config.adapter == "hyperet" else ""
    is_lone = sum(one.model.name != BASE for one in comparison.results) == 1
    return ModelDescription(
        name=result.model.name,
        adapter="no adapter" if config is None else f"{scheme}{sites_in_words(config)}",
        geometry="" if config is None else geometry_in_words(config),
        structure="" if config is None else structure_in_words(config),
        parameters=parameters,
        training=_training(result, comparison.metrics if is_lone else {}),
        weights=_weights(comparison, result),
    )


def _training(result: EvalResult, metrics: Mapping[str, float]) -> str:
    """Steps and time of the run that wrote these metrics, or steps of the one whose folder the file is in."""
    if steps := value(metrics, "train/steps"):
        seconds, best, skipped = (value(metrics, f"train/{key}") for key in ("seconds", "best_step", "skipped_steps"))
        text = count_of(int(steps), "step") + (f" in {duration(seconds)}" if seconds else "")
        text += f", step {best:,.0f} kept" if best is not None else ""
        return text + (f", {count_of(int(skipped), 'step')} skipped" if skipped else "")
    file = result.model.adapter_file or result.model.weights_file
    history = run_log.read_history(file.parent / HISTORY_FILE) if file else []
    return count_of(int(history[-1]["step"]), "step") if history else ""


def _weights(comparison: Comparison, result: EvalResult) -> str:
    """How many weights of the base a run trained, with the hash of the file that has them."""
    base, file = comparison.results[0], result.model.weights_file
    ours = base_state_dict(result.model.model)
    if base.model.name != BASE or file is None:
        return f"all, {_hash(file)}" if file else ""
    if result.base_digest == base.base_digest:
        return ""
    theirs = base_state_dict(base.model.model)
    trained = sum(one.numel() for name, one in ours.items() if not _equal(one, theirs.get(name)))
    return f"{trained:,} of {_size(result):,}, {_hash(file)}"


def _size(result: EvalResult) -> int:
    """How many parameters the base of a model has."""
    return sum(one.numel() for one in base_state_dict(result.model.model).values())


def _equal(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and (one is other or (one.shape == other.shape and torch.equal(one, other)))


def _hash(file: Path) -> str:
    return f"{file.name} SHA-256 {sha256(file)[:_DIGITS]}…"
