"""A plan file: worlds, bases, arms, seeds, how arms are tuned and dialled, and which pairs are compared."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sam3_hyperet.ablation.rows import RUNS
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_fields,
    one_of,
    read_options,
)
from sam3_hyperet.reading import read_yaml
from sam3_hyperet.training.choice import is_kept

Options = Mapping[str, object]
"""Options of `train` by their path, as on its command line."""
PRETRAIN = "pretrain"
"""In a base's entry: options of `pretrain`, by which the base is made first."""
GAIN, LOST = "gain", "lost"
"""Columns of what a run gains and loses against its base, in the metrics that its world names for it."""
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")


@dataclass(frozen=True)
class DialRule:
    """How the dial of an adapter is chosen on the tuning images: the largest gain with at most so much lost.

    Attributes:
        grid: dials that are tried; 0, which is the base, is always among them.
        lost: most that the metric of what is known may lose against the base.
    """

    grid: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.25)
    lost: NonNegativeFloat = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "dial")
        if not self.grid or any(not 0 <= one <= 2 for one in self.grid) or len(set(self.grid)) < len(self.grid):
            raise ConfigError(f"dial.grid={list(self.grid)}; expected distinct numbers from 0 to 2")


@dataclass(frozen=True)
class Tuning:
    """The trials by which each arm's options are chosen, by the gain on the tuning images of a world's first base.

    Attributes:
        options: values that are tried, by option of `train`: `{optim.lr: [0.002, 0.004]}`; every combination of them.
        seed: of the trials.
        steps: `train.max_steps` of a trial; None for as many as a run has.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    seed: NonNegativeInt = 1000
    steps: PositiveInt | None = None

    def __post_init__(self) -> None:
        check_fields(self, "tune")
        for name, values in self.options.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"tune.options.{name}={values!r:.60}; expected a list of values")

    def tried(self, option: str) -> list[str]:
        """The values of an option, each as an argument `option=value`."""
        values = self.options[option]
        assert isinstance(values, list)
        return [one for value in values for one in overrides({option: value})]


@dataclass(frozen=True)
class World:
    """A data set with the bases that are adapted to it and the metrics that count there.

    Attributes:
        options: of `train`, as `data`, `data.splits`, `train.best`.
        bases: options of `train` by the base's name, as `model.checkpoint`; or `pretrain`, with options of `pretrain`,
            by which the base is made first.
        metrics: a metric's key, as `held_out/segm/AP`, by its short name.
        gain: the short name of the metric that is to be gained.
        lost: of the one that is not to be lost; None where nothing is known before.
    """

    gain: str
    metrics: Mapping[str, str]
    lost: str | None = None
    options: Options = field(default_factory=dict)
    bases: Mapping[str, Options] = field(default_factory=lambda: {"base": {}})

    @property
    def measures_kept(self) -> bool:
        """Whether the truth of a metric is the base's own answers."""
        return any(map(is_kept, self.metrics.values()))

    def rule(self, dial: DialRule) -> str:
        """The rule of the dial, as `train.best` has it."""
        kept = f" where {self.metrics[self.lost]} >= base-{dial.lost:g}" if self.lost else ""
        return f"max {self.metrics[self.gain]}{kept}"


@dataclass(frozen=True)
class Plan:
    """What a study compares.

    Attributes:
        name: the first column of its rows; by default the file's name.
        question: what the study is to answer, in a sentence.
        common: options of `train` for every run.
        data: worlds by name.
        arms: options of `train` by the arm's name.
        seeds: of the runs of each arm on each base.
        images: `data.train_images` of a run, chosen by its seed; 0 for all.
        dial, tune: as in `DialRule` and `Tuning`.
        comparisons: pairs of arms, the second of which is subtracted from the first.
        margin: of the gain, within which two arms count as equal.
    """

    name: str
    data: Mapping[str, World]
    arms: Mapping[str, Options]
    question: str = ""
    common: Options = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    images: tuple[int, ...] = (0,)
    dial: DialRule = field(default_factory=DialRule)
    tune: Tuning = field(default_factory=Tuning)
    comparisons: tuple[tuple[str, str], ...] = ()
    margin: PositiveFloat = 0.02

    def __post_init__(self) -> None:
        check_fields(self, "plan")
        for what in ("seeds", "images"):
            values = getattr(self, what)
            if not values or len(set(values)) < len(values) or min(values) < 0:
                raise ConfigError(f"{what}={list(values)}; expected distinct integers from 0")
        bases = [f"{world}'s base {base}" for world, one in self.data.items() for base in one.bases]
        for name in (self.name, *self.data, *self.arms, *(text.split()[-1] for text in bases)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f"{name!r:.60}: a plan's names have letters, digits and _ . + - alone")
        if not self.data or not self.arms or not all(world.bases for world in self.data.values()):
            raise ConfigError("a plan needs data, arms, and a base of each data set at least")
        for name, world in self.data.items():
            _check_metrics(f"data.{name}", world)
        for pair in self.comparisons:
            if pair[0] == pair[1]:
                raise ConfigError(f"comparisons: {list(pair)}; expected two different arms")
            for arm in pair:
                one_of("comparisons", arm, self.arms)

    def restricted(self, chosen: Mapping[str, Sequence[Any] | None]) -> "Plan":
        """The plan with some of its arms, `only`, `worlds`, `bases`, `seeds` and `images`; None for all of them."""
        worlds = {name: self.data[name] for name in _some("worlds", chosen.get("worlds"), self.data)}
        every = dict.fromkeys(base for world in worlds.values() for base in world.bases)
        bases = _some("bases", chosen.get("bases"), every)
        for name, world in worlds.items():
            kept = {base: options for base, options in world.bases.items() if base in bases}
            if not kept:
                raise ConfigError(f"bases={', '.join(bases)}: {name} has none of them; it has {', '.join(world.bases)}")
            worlds[name] = replace(world, bases=kept)
        arms = {name: self.arms[name] for name in _some("only", chosen.get("only"), self.arms)}
        pairs = tuple(pair for pair in self.comparisons if set(pair) <= arms.keys())
        numbers = {name: chosen.get(name) for name in ("seeds", "images")}
        seeds, images = (getattr(self, name) if one is None else tuple(map(int, one)) for name, one in numbers.items())
        return replace(self, data=worlds, arms=arms, comparisons=pairs, seeds=seeds, images=images)


def read_plan(file: Path) -> Plan:
    """Read a plan file, whose entries replace those of the plan beside it that `extends` names.

    Of `data`, worlds are added, and a world that is null is left out; of a world that both plans have, the entries
    replace the other plan's, and `options` are replaced one by one.
    Raises ConfigError naming the file and the entry that cannot be.
    """
    try:
        return _plan({"name": file.stem, **_content(file)})
    except ConfigError as error:
        raise error if str(error).startswith(str(file)) else ConfigError(f"{file}: {error}") from None


def _content(file: Path, below: tuple[Path, ...] = ()) -> dict[str, object]:
    """The entries of a plan file and of those that it extends."""
    found = _mapping(read_yaml(file), "a plan")
    if (name := found.pop("extends", None)) is None:
        return found
    other = file.with_name(f"{name}.yaml")
    if other in (file, *below):
        raise ConfigError(f"extends={name}: the plans extend each other")
    extended = _content(other, (file, *below))
    extended.pop("name", None)
    worlds = _extended_worlds(_mapping(extended.pop("data", None), "data"), _mapping(found.pop("data", None), "data"))
    return {**extended, **found, "data": worlds}


def _extended_worlds(extended: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """The entries of `data` of a plan and of the plan that it extends."""
    worlds = dict(extended)
    for name, entry in own.items():
        if entry is None:
            one_of("data's worlds to be left out", name, worlds)
            del worlds[name]
            continue
        of_both = [_mapping(one, f"data.{name}") for one in (worlds.get(name), entry)]
        options = [_mapping(one.get("options"), f"data.{name}.options") for one in of_both]
        worlds[name] = {**of_both[0], **of_both[1], "options": {**options[0], **options[1]}}
    return worlds


def overrides(options: Options) -> list[str]:
    """Options as arguments of a command line, `key=value`."""
    texts = ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in options.items())
    return [f"{name}={text}" for name, text in texts]


def _plan(content: dict[str, object]) -> Plan:
    made = dict(content)
    for section, cls in (("dial", DialRule), ("tune", Tuning)):
        made[section] = read_options(cls, _mapping(made.get(section), section), section)
    worlds: dict[str, World] = {}
    for name, entry in _mapping(made.get("data"), "data").items():
        values = _mapping(entry, f"data.{name}")
        if bases := _mapping(values.get("bases"), f"data.{name}.bases"):
            values["bases"] = {base: _base(one, f"data.{name}.bases.{base}") for base, one in bases.items()}
        worlds[name] = read_options(World, values, f"data.{name}")
    made["data"] = worlds
    made["arms"] = {name: _mapping(one, f"arms.{name}") for name, one in _mapping(made.get("arms"), "arms").items()}
    pairs = made.get("comparisons") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ConfigError(f"comparisons: {pairs!r:.100}; expected a list of pairs of two arms, [one, other]")
    made["comparisons"] = tuple(tuple(map(str, pair)) for pair in pairs)
    return read_options(Plan, made, "plan")


def _base(entry: object, where: str) -> Options:
    options = _mapping(entry, where)
    if PRETRAIN in options:
        if len(options) > 1:
            raise ConfigError(f"{where}: expected {PRETRAIN} alone, or options of train")
        options[PRETRAIN] = _mapping(options[PRETRAIN], f"{where}.{PRETRAIN}")
    return options


def _check_metrics(where: str, world: World) -> None:
    taken = {*RUNS.key, *RUNS.setup, *RUNS.cost, GAIN, LOST}
    for name, key in world.metrics.items():
        if not _NAME.fullmatch(name) or name in taken:
            raise ConfigError(f"{where}.metrics.{name}: expected a name of letters and digits that is no other column")
        if not isinstance(key, str) or not key:
            raise ConfigError(f"{where}.metrics.{name}={key!r}; expected the key of a metric, as held_out/segm/AP")
    one_of(f"{where}.gain", world.gain, world.metrics)
    if world.lost is not None:
        one_of(f"{where}.lost", world.lost, world.metrics)


def _some(option: str, chosen: Sequence[object] | None, there: Iterable[str]) -> list[str]:
    names = [str(one) for one in (there if chosen is None else chosen)]
    for name in names:
        one_of(option, name, tuple(there))
    return [name for name in there if name in names]


def _mapping(value: object, where: str) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {value!r:.60}; expected a mapping, {{name: …}}")
    return {str(key): one for key, one in value.items()}
