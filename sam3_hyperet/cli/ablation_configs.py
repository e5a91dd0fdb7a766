"""What each run of a plan is as a configuration of `train`, and its identity; without torch."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam3_hyperet.ablation.plan import PRETRAIN, Plan, World, overrides
from sam3_hyperet.ablation.runs import Run, identity_of
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.sections import MORE_DATA, SECTIONS
from sam3_hyperet.data.options import KeptOptions
from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.choice import Rule, is_kept

_PLACES = ("root",)  # options of a data set that say where it is, and nothing of what it is
_TRAINED_ON, _PROMPTED = ("train_images", "subset_seed"), ("prompt_weights", "negative_prompt_weights")
_OF_RUNS = ("seed", "run_dir", "resume", "evaluate", "data.train_images", "data.subset_seed")
_ZERO_LEFT_OUT = ("data.subset_seed", "train.prompts_at_once", "data.offset")
"""Options whose 0 is as good as null in an identity: it means the same, and an offset is a fact of the files."""
_WEIGHTS = (".safetensors", ".bin", ".pt")
_SAVE_EVERY = 100
RECIPE = "recipe"
"""The key of a recipe's digest in the file beside its base."""


@dataclass
class Composer:
    """Configurations of a plan's runs.

    plan: as the study has it. given: options of `train` of the command line, for every run, which replace the plan's.
    folder: of the study. Raises ConfigError where a run cannot be composed, CheckpointError for a base that is no file.
    """

    plan: Plan
    given: Sequence[str]
    folder: Path
    _composed: dict[tuple[object, ...], dict[str, Any]] = field(default_factory=dict)
    _bases: dict[tuple[str, str], str] = field(default_factory=dict)
    _recipes: dict[tuple[str, str], DictConfig] = field(default_factory=dict)
    _identities: dict[Run, str] = field(default_factory=dict)
    _kept: dict[str, KeptOptions] = field(default_factory=dict)  # by world, of its first run

    def __post_init__(self) -> None:
        keys = {argument.partition("=")[0] for argument in self.given}
        if fixed := sorted(keys.intersection(_OF_RUNS)):
            other = {"seed": "seeds=[…]", "data.train_images": "images=[…]"}.get(fixed[0], "run_dir=… of the study")
            raise ConfigError(f"{fixed[0]}= is each run's own; expected {other}")
        if tuned := sorted(keys.intersection(self.plan.tune.options)):
            raise ConfigError(f"{tuned[0]} is tuned by the plan; expected tune=false with it, or the plan without it")
        if "data" in keys and len(self.plan.data) > 1:
            names = ", ".join(self.plan.data)
            raise ConfigError(f"data= would replace each of the plan's {names}; expected worlds=NAME with it")
        for name, world in self.plan.data.items():
            if len(world.bases) > 1 and (same := sorted(keys.intersection(*map(set, world.bases.values())))):
                raise ConfigError(f"{same[0]}= would make the bases of {name} the same; expected bases=NAME with it")

    def run(self, run: Run) -> DictConfig:
        """The configuration of a run or trial."""
        return OmegaConf.create({**self.values(run), "run_dir": str(self.folder_of(run))})

    def values(self, run: Run) -> dict[str, Any]:
        """The configuration of a run or trial as plain values, but for its folder."""
        place = (run.data, run.base, run.arm, run.images, run.tuned, run.is_trial)
        if place not in self._composed:
            self._composed[place] = self._compose(run)
        values = self._composed[place]
        data = {**values["data"], "subset_seed": run.seed if run.images else None}
        return {**values, "data": data, "seed": run.seed}

    def folder_of(self, run: Run) -> Path:
        """The folder of a run or trial."""
        return self.folder / ("trials" if run.is_trial else "runs") / run.name

    def base(self, data: str, base: str) -> DictConfig | None:
        """The configuration of `pretrain` by which a base is made; None for one that is there."""
        recipe = self.plan.data[data].bases[base].get(PRETRAIN)
        if recipe is None:
            return None
        if (data, base) in self._recipes:
            return copy.deepcopy(self._recipes[data, base])
        assert isinstance(recipe, dict)
        where = f"run_dir={self.base_folder(data, base)}"
        paths = [one for one in self.given if one.startswith("paths.")]
        arguments = [*paths, *overrides({"logger": "none", **recipe}), where, "evaluate=false"]
        config = parse_command("pretrain", arguments)[1]
        read_run(plain(config))
        self._recipes[data, base] = config
        return copy.deepcopy(config)

    def base_folder(self, data: str, base: str) -> Path:
        """The folder of the run that makes a base by its recipe."""
        return self.folder / "bases" / f"{data}_{base}"

    def base_file(self, data: str, base: str) -> Path:
        """Where a base is put that is made by a recipe."""
        return self.folder / "bases" / f"{data}_{base}.safetensors"

    def has_base(self, data: str, base: str) -> bool:
        """Whether a base has been made, by the recipe that it has now if it is known by which."""
        file = self.base_file(data, base)
        made_by = recipe_file(file)
        is_same = not made_by.is_file() or read_json(made_by) == {RECIPE: self.recipe(data, base)}
        return file.is_file() and is_same

    def recipe(self, data: str, base: str) -> str:
        """A digest of the recipe by which a base is made."""
        if (data, base) not in self._bases:
            config = self.base(data, base)
            assert config is not None
            self._bases[data, base] = identity_of(_deciding(read_run(plain(config))))
        return self._bases[data, base]

    def identity(self, run: Run) -> str:
        """A digest of all that decides the row of a run or trial."""
        if run not in self._identities:
            self._identities[run] = self._identity(run)
        return self._identities[run]

    def _identity(self, run: Run) -> str:
        world, options = self.plan.data[run.data], read_run(self.values(run))
        scored = {f"scored.{key}": value for key, value in options.protocol.deciding().items()}
        metrics = {} if run.is_trial else {"metrics": dict(world.metrics)}
        chosen = {"rule": world.rule(self.plan.dial), "grid": self.plan.dial.grid}
        kept = _of_kept(options, world)
        return identity_of({"trained": self.trained(run, options), **scored, **metrics, **chosen, **kept})

    def trained(self, run: Run, options: RunOptions | None = None) -> str:
        """A digest of all that decides the adapter of a run or trial."""
        options = options or read_run(self.values(run))
        return identity_of({**_deciding(options), "base": self._base_digest(run, options)})

    def base_score(self, run: Run, split: str) -> str:
        """A digest of all that decides what a run's base scores on the images of a split, "tune" or "val".

        Which images are held out to tune on may depend on those that are trained on.
        """
        options, world = read_run(self.values(run)), self.plan.data[run.data]
        data = {key: value for key, value in _deciding(options).items() if key.startswith("data.")}
        left_out = _PROMPTED if split == "tune" else (*_PROMPTED, *_TRAINED_ON)
        data = {key: value for key, value in data.items() if key.partition(".")[2] not in left_out}
        scored = {**options.protocol.deciding(), **(world.metrics if split == "val" else {"split": split})}
        return identity_of({**data, **scored, **_of_kept(options, world), "base": self._base_digest(run, options)})

    def _base_digest(self, run: Run, options: RunOptions) -> str:
        place = (run.data, run.base)
        if self.base(*place) is not None:
            return self.recipe(*place)
        if place not in self._bases:
            self._bases[place] = weights_digest(options.model)
        return self._bases[place]

    def _compose(self, run: Run) -> dict[str, Any]:
        world, steps = self.plan.data[run.data], self.plan.tune.steps
        base = dict(world.bases[run.base])
        if recipe := self.base(run.data, run.base):
            of_recipe = {f"model.{name}": recipe.model[name] for name in ("name", "resolution")}
            base = {**of_recipe, "model.checkpoint": str(self.base_file(run.data, run.base))}
        layers = [
            ["logger=none", f"train.save_every={_SAVE_EVERY}"],
            overrides(self.plan.common),
            overrides(world.options),
            overrides(base),
            overrides(self.plan.arms[run.arm]),
            *([[f"train.max_steps={steps}"]] if run.is_trial and steps else []),
            list(run.tuned),
            list(self.given),
            [f"data.train_images={run.images}", f"name={run.arm}", "evaluate=false", "run_dir=runs"],
        ]
        try:
            values = plain(parse_command("train", in_layers(layers))[1])
            options = read_run(values)
            options.train.check_length()
            _check_kept(options, world, self._kept.setdefault(run.data, options.kept))
        except ConfigError as error:
            raise ConfigError(f"{run.data}, {run.base}, {run.arm}: {error}") from None
        if not options.train.save_every:
            raise ConfigError(f"{run.arm}: train.save_every=0; expected 1 at least, for a run goes on from its state")
        return values


def in_layers(layers: Sequence[Sequence[str]]) -> list[str]:
    """The arguments of all layers, without those that an option of a later layer replaces by another name.

    An arm's `scheme=` replaces `hyperet.sites=` of all arms, which would else decide.
    """
    kept: list[str] = []
    for layer in layers:
        replaced = {other for argument in layer for other in _replaced(argument.partition("=")[0])}
        kept = [one for one in kept if one.partition("=")[0] not in replaced] + list(layer)
    return kept


def _replaced(key: str) -> list[str]:
    """Options that one given later takes the place of."""
    found = [key]
    for section, cls in SECTIONS.items():
        for one, other in getattr(cls, "ALTERNATIVES", {}).items():
            if key in (f"{section}.{one}", one if section == "hyperet" else ""):
                found.append(f"{section}.{other}")
    return found if "." in key or len(found) > 1 else []


def recipe_file(base: Path) -> Path:
    """The file beside a base that tells by which recipe it was made."""
    return base.with_suffix(".recipe.json")


def weights_digest(model: ModelOptions) -> str:
    """What identifies base weights: the digest of their file or folder, or their name where a hub has it.

    Raises CheckpointError for a file that is not there.
    """
    if model.is_random:
        return f"random {model.seed}"
    if model.packaged:
        return sha256(model.packaged)
    checkpoint = str(model.checkpoint)
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return sha256(path)
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.is_file())
        return identity_of({one.name: sha256(one) if one.suffix in _WEIGHTS else one.stat().st_size for one in files})
    if checkpoint.startswith("facebook/"):
        return checkpoint
    raise CheckpointError(f"model.checkpoint={checkpoint}: no such file")


def _of_kept(options: RunOptions, world: World) -> dict[str, Any]:
    """The options of `kept`, where a metric needs them."""
    return options.kept.by_key() if world.measures_kept else {}


def _check_kept(options: RunOptions, world: World, first: KeptOptions) -> None:
    """Raise a ConfigError for metrics without names, or the reverse.

    So for options that are not those of the `first` run: two arms would be compared by different questions.
    """
    kept = options.kept
    if world.measures_kept and not kept.names:
        short, key = next(item for item in world.metrics.items() if is_kept(item[1]))
        found = f"metrics.{short}={key} needs names that the base is asked for"
        raise ConfigError(f"{found}; expected kept.names=[…], which the images show and the labels do not name")
    if kept.names and not world.measures_kept and not Rule.parse(options.train.best).names_kept:
        found = f"kept.names={kept.names!r:.80} decides nothing"
        raise ConfigError(f"{found}; expected a metric of it, such as kept/segm/AP, or no kept.names")
    if world.measures_kept and kept != first:
        raise ConfigError(f"{kept} differs from {first} of another run; expected the same kept in all arms and trials")


def _deciding(options: RunOptions) -> dict[str, Any]:
    """The options that decide what is trained, wherever it lies; of a data set to be recognised, its folder's name.

    0 and false are texts where null, the default, is something else: `identity_of` leaves out what is off.
    """
    values = {key: value for key, value in options.deciding.items() if not _is_place(key)}
    values |= {key: str(value) for key, value in values.items() if value in (0, False) and _is_null_by_default(key)}
    for section, data in {
        "data": options.data,
        **{f"{MORE_DATA}.{k}": v for k, v in options.more_data.items()},
    }.items():
        if data.format == "auto":
            values[f"{section}.root"] = Path(data.root).expanduser().resolve().name
    return values


def _is_null_by_default(key: str) -> bool:
    """Whether null is an option's default, and something else than 0 or false."""
    section, _, option = key.rpartition(".")
    section = "data" if section.startswith(f"{MORE_DATA}.") else section
    if section not in SECTIONS or f"{section}.{option}" in _ZERO_LEFT_OUT:
        return False
    return any(one.name == option and one.default is None for one in fields(SECTIONS[section]))


def _is_place(key: str) -> bool:
    section, _, option = key.rpartition(".")
    return key in ("model.checkpoint", "init_adapter") or (
        option in _PLACES and (section == "data" or section.startswith(f"{MORE_DATA}."))
    )
