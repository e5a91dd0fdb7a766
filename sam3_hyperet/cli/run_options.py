"""All options of a training run, read from its configuration and checked before anything starts."""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sam3_hyperet.choices import AUTO
from sam3_hyperet.cli.of_run import read_yaml
from sam3_hyperet.cli.sections import MORE_DATA, SECTIONS
from sam3_hyperet.data.options import DataOptions, KeptOptions, RehearsalOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.options import NonNegativeInt, Switch, check_fields, read_options
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.training.options import FSDP, STAGES, CacheOptions, FitOptions
from sam3_hyperet.training.run_files import CONFIG_FILE

_SAME_RESULT = {
    *("protocol", "kept", "logger", "evaluate", "cache.folder", "model.compile", "train.checkpoint_activations"),
    *("train.workers", "train.log_every", "train.save_every", "train.max_bad_steps", "train.threads"),
    *("train.accelerator", "train.epochs", "train.memory", "train.memory_gb"),
}
"""Options that a resumed run may change: they decide nothing of its weights, up to rounding."""


_FILES = ("model.checkpoint", "init_adapter")


@dataclass(frozen=True, kw_only=True)
class RunOptions(FitOptions):
    """The sections of a configuration of `train`, each by its name there.

    more_data: sets that are trained on beside `data`. init_adapter: adapter to begin with, as for `load_adapter`.
    """

    model: ModelOptions
    hyperet: HyperETConfig
    data: DataOptions
    loss: LossOptions
    cache: CacheOptions
    protocol: Protocol
    seed: NonNegativeInt
    evaluate: Switch
    more_data: Mapping[str, DataOptions] = field(default_factory=dict)
    init_adapter: str | None = None
    rehearsal: RehearsalOptions = field(default_factory=RehearsalOptions)
    kept: KeptOptions = field(default_factory=KeptOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self)
        self.hyperet.check_sites()
        self.hyperet.check_learns()
        if self.train.strategy == FSDP:
            self._check_sharding()
        if self.loss.alignment and self.train.prompts_at_once == 1:
            found = (
                f"train.prompts_at_once=1, but loss.alignment={self.loss.alignment:g} compares the prompts of a pass"
            )
            raise ConfigError(f"{found} and is 0 for one alone; expected 0, or more prompts")
        for section, purpose in ((self.rehearsal, "to rehearse"), (self.kept, "that could be kept")):
            if section.names and self.model.is_random:
                raise ConfigError(f"{section.SECTION}.names: the base has random weights, which know nothing {purpose}")

    def check_alone(self) -> None:
        """Raise a ConfigError for options that `train` alone cannot use.

        So for steps and epochs at once, and for names of `kept` that nobody would ask for.
        """
        self.train.check_length()
        if self.kept.names and not self.evaluate and not Rule.parse(self.train.best).names_kept:
            unread = "with evaluate=false, and a train.best that names no metric of kept, nobody asks for them"
            raise ConfigError(f"kept.names={self.kept.names!r:.80}: {unread}; expected one of these, or no kept.names")

    @property
    def deciding(self) -> dict[str, Any]:
        """By its key, every option that decides what is trained."""
        values: dict[str, Any] = {}
        for section in fields(self):
            value = getattr(self, section.name)
            if section.name == MORE_DATA:
                for name, data in self.more_data.items():
                    values |= {f"{MORE_DATA}.{name}.{key}": one for key, one in _deciding(data).items()}
            elif section.name not in _SAME_RESULT:
                of_section = _deciding(value) if is_dataclass(value) else {"": value}
                values |= {f"{section.name}.{key}".rstrip("."): one for key, one in of_section.items()}
        rule = Rule.parse(self.train.best)
        if rule.names_kept:
            values |= self.kept.by_key()
        if rule.metrics != (LOSS,):  # the protocol then chooses the step
            scored = self.protocol.for_validation(self.train.validate_images).deciding()
            values |= {f"protocol.{key}": value for key, value in scored.items()}
        if self.rehearsal.names:
            values["rehearsal.precision"] = self.protocol.precision  # with which the base answers
        if not self.cache.folder:
            values["cache.dtype"] = CacheOptions().dtype  # at which a cache changes nothing
        values["train.prompts_at_once"] = self.train.prompts_at_once or 0
        return {key: value for key, value in values.items() if key not in _SAME_RESULT}

    def check_same(self, run_dir: Path, where: str) -> None:
        """Raise a ConfigError if these options would train something else than the run in `run_dir` did.

        `where` says what there would be gone on from or replaced, for the message.
        """
        file = run_dir / CONFIG_FILE
        if not os.path.lexists(file):
            return
        config = OmegaConf.to_container(read_yaml(file, f"run_dir={run_dir}"))
        try:
            run = read_run(config)  # type: ignore[arg-type]
        except ConfigError as error:
            raise ConfigError(f"{file}: not the configuration of a run ({error}); use another run_dir") from error
        before, after = run.deciding, self.deciding
        read = [one for options in (self, run) for one in (options.data, *options.more_data.values())]
        differing = {f"hyperet.{key}" for key in self.hyperet.differences(run.hyperet)}
        is_recognised = "auto" not in [data.format for data in read]
        is_known = self.train.max_steps is not None and run.train.max_steps is not None
        for key in dict.fromkeys([*after, *before]):
            now, then = (values.get(key, "not there") for values in (after, before))
            is_decided_later = (key == "train.precision" and AUTO in (now, then)) or (
                key == "train.max_steps" and not is_known  # of epochs, whose steps follow once the data is opened
            )
            is_read = is_recognised or not key.startswith(("data.", f"{MORE_DATA}."))
            is_same = key.startswith("hyperet.") and key not in differing  # the same sites by another name
            is_same |= (key in _FILES or key.endswith(".root")) and _one_place(now, then)
            if now != then and is_read and not is_decided_later and not is_same:
                found = f"{key} is {now}, but {then} in the run of {where}"
                raise ConfigError(f"{found}; use another run_dir, or resume=never, which removes that run")

    def _check_sharding(self) -> None:
        if self.stage.number != STAGES[-1]:
            last = f" to {self.stage.last}" if self.stage.last > self.stage.number else ""
            raise ConfigError(f"train.strategy={FSDP} in stage {self.stage.number}{last}; expected stage=3 alone")
        if self.train.prompts_at_once:
            passes = "needs equally many passes in all processes; use train.prompts_at_once=0"
            raise ConfigError(f"train.strategy={FSDP} {passes}")
        if self.model.compile:
            raise ConfigError(f"train.strategy={FSDP} was not tried with the compiler; use model.compile=false")
        for name in ("learn_curvature", "learn_residual"):
            if getattr(self.hyperet, name):
                raise ConfigError(f"train.strategy={FSDP} cannot split single numbers; expected hyperet.{name}=false")
        if self.train.scored_images:
            scores = "scores no image while it trains; expected train.validate_images=0, for the loss alone"
            raise ConfigError(f"train.strategy={FSDP} {scores}")
        if self.train.ema:
            raise ConfigError(f"train.strategy={FSDP} keeps no moving average; expected train.ema=0")
        if self.loss.prune_probability:
            encodes = "needs equally many texts to be encoded in all processes; expected loss.prune_probability=0"
            raise ConfigError(f"train.strategy={FSDP} {encodes}")


def read_run(values: Mapping[str, Any]) -> RunOptions:
    """Read a configuration's plain values, and check them by themselves and together."""
    sections = {field.name: SECTIONS[field.name] for field in fields(RunOptions) if field.name in SECTIONS}
    values = {"rehearsal": {}, "kept": {}, **values}  # an earlier version's run has none, nor the last two
    if missing := [name for name in (*sections, "seed", "evaluate") if name not in values]:
        raise ConfigError(f"{', '.join(missing)}: missing; expected the configuration of a run")
    options: dict[str, Any] = {name: read_options(cls, values[name], name) for name, cls in sections.items()}
    more = values.get(MORE_DATA) or {}
    if not isinstance(more, Mapping):
        raise ConfigError(f"{MORE_DATA}={more!r:.60}; expected data sets by name")
    return RunOptions(
        **options,
        seed=values["seed"],
        evaluate=values["evaluate"],
        more_data={name: read_options(DataOptions, one, f"{MORE_DATA}.{name}") for name, one in more.items()},
        init_adapter=values.get("init_adapter"),
    )


def _one_place(now: object, then: object) -> bool:
    """Whether two paths lead to one file or folder that is there."""
    if not isinstance(now, str) or not isinstance(then, str):
        return False
    with contextlib.suppress(OSError):
        return os.path.samefile(*map(os.path.expanduser, (now, then)))
    return False


def _deciding(section: Any) -> dict[str, Any]:
    """The options of a section by name, without those that decide nothing: words, exemplars and rehearsal of none."""
    if isinstance(section, RehearsalOptions) and not section.names:
        return {}
    values, off = asdict(section), tuple[str, ...]()
    if isinstance(section, DataOptions):
        off = ("groups_note", *(() if section.exemplars else ("exemplars", "exemplars_alone")))
    return {name: value for name, value in values.items() if name not in off}
