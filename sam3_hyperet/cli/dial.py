"""`evaluate`'s options of the dial: one value, several along it, or the value that a rule chooses on tuning images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from sam3_hyperet.choices import AUTO
from sam3_hyperet.cli.of_run import config_of_run, listed
from sam3_hyperet.cli.tables import print_table
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.disjoint import check_unscored
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import Split, open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.dial import GRID, DialFront
from sam3_hyperet.evaluation.models import BASE, EvalModel, TrainedFiles
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import EvalTask, open_task
from sam3_hyperet.evaluation.validation_score import known_metrics, open_validation
from sam3_hyperet.modeling.adapter_file import read_adapter_dial, write_adapter_dial
from sam3_hyperet.modeling.adapter_source import is_in_package, is_on_hub
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.dial import dial_of, set_dial
from sam3_hyperet.report.tables import MISSING, front_rows
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.wording import count_of

DIAL_RULE = "dial_rule"
"""The option that a rule is of which the user gave for the dial."""
OpenKept = Callable[[Split], AnsweredImages | None]
_EXAMPLE = "'max segm/AP where presence/accuracy_absent >= base-0.02'"


@dataclass(frozen=True)
class DialOptions:
    """The options of the dial, checked by themselves.

    dial: a number for all adapted models, several along which one of them is scored, "auto", or None for those that
    the adapters' files say. rule: what "auto" chooses by and a front shows; None where nothing says it.
    """

    dial: float | tuple[float, ...] | str | None
    rule: Rule | None
    grid: tuple[float, ...]
    save: bool

    @classmethod
    def of(cls, config: DictConfig) -> "DialOptions":
        """The options in a configuration. Raises ConfigError for those that do not go together."""
        values: Any = OmegaConf.to_container(config)
        dial, text, grid, save = (values[key] for key in ("dial", DIAL_RULE, "dial_grid", "save_dial"))
        several, found = isinstance(dial, list), "no dial" if dial is None else f"dial={dial}"
        if several and len(set(dial)) < max(2, len(dial)):
            raise ConfigError(f"dial={dial}; expected a number, or a list of two different ones at least")
        if grid is not None and dial != AUTO:
            raise ConfigError(f"dial_grid={grid} is for dial=auto; found {found}")
        if text is not None and not several and dial != AUTO:
            raise ConfigError(f"dial_rule is for dial=auto and for several dials; found {found}")
        if save and (several or dial is None):
            raise ConfigError(f"save_dial=true needs one dial, dial=NUMBER or dial=auto; found {found}")
        for adapter in map(str, listed(values.get("adapter")) if save else ()):
            if is_on_hub(adapter) or is_in_package(adapter):
                remedy = (
                    "expected a file, as `pull` writes one" if is_on_hub(adapter) else "expected a copy of its file"
                )
                raise ConfigError(f"save_dial=true writes to the adapter's file, and {adapter} is none; {remedy}")
        rule = Rule.parse(text, DIAL_RULE) if text else _rule_of_run(values["run"])
        if rule is None and dial == AUTO:
            missing = "and train.best of the run has no metric" if values["run"] else "which chooses"
            raise ConfigError(f"dial=auto needs dial_rule=…, {missing}; such as dial_rule={_EXAMPLE}")
        if text and rule and LOSS in rule.metrics:
            raise ConfigError(f"dial_rule={text!r}: the loss is measured in training alone; expected metrics")
        dials = tuple(map(float, dial)) if several else float(dial) if isinstance(dial, int) else dial
        return cls(dials, rule, tuple(map(float, GRID if grid is None else grid)), save)

    @property
    def number(self) -> float | None:
        """The dial of all adapted models; None for several, for "auto", and for those that the files say."""
        return self.dial if isinstance(self.dial, float) else None

    @property
    def along(self) -> tuple[float, ...]:
        """The dials of one adapter that are scored side by side; none where it has one."""
        return self.dial if isinstance(self.dial, tuple) else ()

    @property
    def is_auto(self) -> bool:
        """Whether a rule chooses the dial."""
        return self.dial == AUTO

    def check(self, trained: Mapping[str, TrainedFiles], data: DataOptions, split: str) -> None:
        """Raise a ConfigError where the dial is of no adapter, or of too many, or there are no images to choose it."""
        adapted = [name for name, files in trained.items() if files.adapter]
        if self.dial is not None and not adapted:
            raise ConfigError(f"dial={self._shown}: there is no adapter; expected adapter=FILE, or a run that has one")
        if (self.along or self.is_auto) and len(trained) > 1:
            found = f"is of one adapter, found {len(trained)}: {', '.join(trained)}"
            raise ConfigError(f"dial={self._shown} {found}; expected one, or one dial=NUMBER for all")
        if self.is_auto and split == "tune":
            raise ConfigError("dial=auto chooses on the tune split; expected split=val to be scored")
        if self.is_auto and not {"train", "tune"} & set(data.splits):
            raise ConfigError(
                f"dial=auto chooses on tuning images, and data set {data.name} has neither a tune nor a train split, "
                f"but {', '.join(data.splits)}; expected data.splits.tune or data.splits.train, or dial=NUMBER"
            )

    def open_tuning(self, data: DataOptions, scored: Split, protocol: Protocol, kept: OpenKept) -> EvalTask | None:
        """The task on which the dial is chosen, None without "auto". Raises ConfigError for a rule of other metrics.

        So it does where a tuning image is scored as well. kept: what `open_kept` returns for a split.
        """
        if self.rule is None or not (self.along or self.is_auto):
            return None
        if self.along:
            few = known_metrics(open_task(scored, protocol.for_validation(1), kept(scored)))
            if self.rule.option == DIAL_RULE:  # that of a run is shown where it can be
                self.rule.check(dict.fromkeys(few, 0.0), f"images of the {scored.name} split")
            return None
        split = open_split(data, "tune")
        check_unscored("dial=auto", split.images, scored.images, scored.name)
        answered = kept(split) if self.rule.names_kept else None
        task = open_validation(split, protocol, protocol.calibration_images, answered)
        source = f"the {count_of(len(task.positions), 'tuning image')}"
        self.rule.check(known_metrics(task), source, "protocol.calibration_images")
        return task

    @property
    def _shown(self) -> str:
        return f"[{', '.join(f'{dial:g}' for dial in self.along)}]" if self.along else str(self.dial)


def set_dials(models: Sequence[EvalModel], dial: float | None, say: Callable[[str], None]) -> None:
    """Set the dial of every adapted model, if there is one, and say those that are not as trained."""
    for one in models:
        if one.name == BASE or adapter_config(one.model) is None:
            continue
        of_file = dial_of(one.model)
        if dial is not None:
            set_dial(one.model, dial)
        if dial is not None or of_file != 1.0:
            whose = "as its file says" if dial is None else f"its file says {of_file:g}"
            say(f"{one.name}: dial {dial_of(one.model):g} ({whose})")


def save_dials(models: Sequence[EvalModel], say: Callable[[str], None]) -> None:
    """Write the dial of every adapted model to its adapter's file."""
    for one in models:
        if one.adapter_file and one.name != BASE:
            before, now = read_adapter_dial(one.adapter_file), dial_of(one.model)
            if before != now:
                write_adapter_dial(one.adapter_file, now)
            say(f"{one.adapter_file}: dial {now:g}" + (f", before {before:g}" if before != now else ", as before"))


def tuned_on(run: object, data: DataOptions) -> str:
    """A warning that a run has trained on the images that choose its dial; "" for others."""
    for folder in listed(run) if "tune" not in data.splits else ():
        if not config_of_run(folder).get("train", {}).get("validate_every", 1):
            why = "train.validate_every=0 held none out of training"
            return f"warning: dial=auto chooses on images that {folder} has trained on, for {why}; it may be too high"
    return ""


def print_front(console: Console, front: DialFront) -> None:
    """Print what was measured at each dial, and which one was chosen, if one was."""
    names = (Column(name, overflow="fold") for name in front.rule.metrics)
    table = Table("dial", *names, "condition kept", "")
    for row in front_rows(front):
        values = (MISSING if found is None else f"{found:.4f}" for found, _ in row.cells)
        table.add_row(row.dial, *values, row.kept, row.remark)
    measured = front.choice() if front.chosen is not None else f"along the dial: {front.rule}, on {front.images}"
    print_table(console, table)
    console.print(measured, markup=False, soft_wrap=True)


def _rule_of_run(run: object) -> Rule | None:
    """The rule by which a run chose its step, unless that needs the loss."""
    folders = listed(run)
    best = config_of_run(folders[0]).get("train", {}).get("best") if len(folders) == 1 else None
    rule = Rule.parse(best, "train.best of the run") if isinstance(best, str) else None
    return None if rule is None or LOSS in rule.metrics else rule
