"""`sam3-hyperet forecast`: which steps fit on which cards, and how, without a card."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from sam3_hyperet.choices import AUTO, BF16
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.step_memory import may_split, prompts_of_image, step_kind
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import write_json
from sam3_hyperet.modeling.config import SCHEMES, HyperETConfig
from sam3_hyperet.training.memory.choice import USABLE, Choice, choose
from sam3_hyperet.training.memory.forecast import OBJECTS, Forecaster
from sam3_hyperet.training.options import StageOptions
from sam3_hyperet.wording import count_of

_GIB = 2**30


def main(argv: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the tool; returns a row for each scheme, stage and card. Raises ConfigError or ForecastError."""
    config = parse_command("forecast", argv)[1]
    values: dict[str, Any] = plain(config)
    cards = values["cards"]
    if not isinstance(cards, list) or not cards or not all(type(card) in (int, float) and card > 0 for card in cards):
        raise ConfigError(f"cards={cards}; expected GB of memory, such as cards=[12,24]")
    options = read_run(values)
    precision = BF16 if options.train.precision == AUTO else options.train.precision
    options = replace(options, train=replace(options.train, precision=precision))
    images, (present, prompts) = options.train.batch_size, prompts_of_image(options)
    console = Console(highlight=False, soft_wrap=True)
    boxes = " and have a box" if step_kind(options, "cuda").boxes else ""
    side, asked = options.model.resolution or "its own", count_of(prompts, "prompt")
    console.print(
        f"{options.model.name} at {side} resolution, {precision}: a step of {count_of(images, 'image')} with {asked} "
        f"each, of which {present} show {OBJECTS} objects{boxes}; {USABLE:.0%} of a card is taken to be usable"
    )
    table = Table(Column("scheme", overflow="fold"), "stage", "as it is", *(f"{card:g} GB" for card in cards))
    rows: list[dict[str, Any]] = []
    for name, one in _runs(options, compare=values["compare"]):
        forecaster = Forecaster(step_kind(one, "cuda"))
        train = one.train
        given = {name: getattr(train, name) for name in ("prompts_at_once", "checkpoint_activations")}
        given["may_split"] = may_split(one)
        chosen = [choose(forecaster, images, prompts, round(card * 1e9), **given) for card in cards]
        rows += [_row(name, one.stage.last, card, choice) for card, choice in zip(cards, chosen, strict=True)]
        table.add_row(name, str(one.stage.last), f"{chosen[0].plain / _GIB:.1f} GiB", *map(_cell, chosen))
    console.print(table)
    console.print(
        "a cell: GiB; prompts_at_once in brackets, where the batch is split; c where activations are recomputed; "
        "- where nothing fits"
    )
    if values["out"] is not None:
        write_json(values["out"], rows)
    return rows


def _runs(options: RunOptions, *, compare: bool) -> Iterator[tuple[str, RunOptions]]:
    """The run itself and, to compare, those with other schemes and at other stages, by the scheme's name."""
    own = options.hyperet.place or "none"
    yield own, options
    if not compare:
        return
    for scheme in SCHEMES:
        hyperet = HyperETConfig(scheme=scheme)
        if not hyperet.is_empty and hyperet.resolved_sites != options.hyperet.resolved_sites:
            yield scheme, replace(options, hyperet=hyperet)
    for stage in (2, 3):
        if stage != options.stage.last:
            yield own, replace(options, stage=StageOptions(stage))


def _row(name: str, stage: int, card: float, choice: Choice) -> dict[str, Any]:
    return {
        "sites": name,
        "stage": stage,
        "card_gb": card,
        "fits": choice.fits,
        "prompts_at_once": choice.passes.prompts_at_once,
        "checkpoint_activations": choice.passes.checkpoint_activations,
        "gib": round(choice.peak / _GIB, 2),
        "plain_gib": round(choice.plain / _GIB, 2),
    }


def _cell(choice: Choice) -> str:
    if not choice.fits:
        return "-"
    split = f" ({choice.passes.prompts_at_once})" if choice.passes.prompts_at_once else ""
    return f"{choice.peak / _GIB:.1f}{split}{' c' if choice.passes.checkpoint_activations else ''}"
