"""The rule by which a run chooses the step whose weights it keeps, or the dial of its adapter; without torch.

    loss                                                       the lowest loss of the matched queries
    segm/AP                                                    the highest of a metric
    max group/segm/AP where object/segm/AP >= base-0.02        under one condition, or several joined by `and`

A metric without `max` or `min` is to be high; `loss`, `forgetting/…` and `…/unassigned` are to be low. The bound of a
condition is a number, or `base`, which is the same metric before training and without adapters, or `base-0.02`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3_hyperet.choices import KEPT
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import close

LOSS = "loss"
_FORGETTING = "forgetting/"
_OPTION = "train.best"
_ROUNDING = 1e-9  # .98 - .02 is more than .96 in floats
_OF_BOTH_SIDES = ("cgF1", "IL_MCC")  # metrics that need present and absent concepts
_NAME = r"[^<>=\s](?:[^<>=]*?[^<>=\s])?"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(rf"(?:(?P<way>max|min)\s+)?(?P<metric>{_NAME})(?:\s+where\s+(?P<where>.*))?", re.DOTALL)
_CONDITION = re.compile(
    rf"(?P<metric>{_NAME})\s*(?P<sign>>=|<=)\s*(?:(?P<base>base)\s*(?P<margin>[+-]\s*\d*\.?\d+)?|(?P<bound>{_NUMBER}))"
    r"(?:\s+and\s+(?=\S)|\s*$)"
)
_EXPECTED = (
    "expected loss, a metric such as segm/AP, or a rule such as max group/segm/AP where object/segm/AP >= base-0.02"
)


@dataclass(frozen=True)
class Condition:
    """A bound that a metric keeps: a number, or a margin to the base's value."""

    metric: str
    sign: str
    bound: float
    of_base: bool

    def limit(self, base: Mapping[str, float]) -> float:
        """The bound as a number; `base` has the metrics of the base."""
        return self.bound + (base[self.metric] if self.of_base else 0.0)

    def shortfall(self, values: Mapping[str, float], base: Mapping[str, float]) -> float:
        """How far the metric is beyond its bound: 0 where it keeps it, infinite where it is not a number."""
        missing = self.limit(base) - values[self.metric]
        missing = missing if self.sign == ">=" else -missing
        if math.isnan(missing):
            return math.inf
        return missing if missing > _ROUNDING else 0.0

    def __str__(self) -> str:
        if not self.of_base:
            return f"{self.metric} {self.sign} {self.bound:g}"
        return f"{self.metric} {self.sign} base{f'{self.bound:+g}' if self.bound else ''}"


@dataclass(frozen=True)
class Rule:
    """One metric that is to be high or low, under conditions."""

    metric: str
    highest: bool
    conditions: tuple[Condition, ...] = ()
    option: str = field(default=_OPTION, compare=False)  # which it is the value of, for messages

    @classmethod
    def parse(cls, text: str, option: str = _OPTION) -> "Rule":
        """The rule that a text says. Raises ConfigError."""
        found = _RULE.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"{option}={text!r}; {_EXPECTED}")
        metric, way, where = found["metric"], found["way"], found["where"]
        highest = way == "max" if way else not _is_to_be_low(metric)
        return cls(metric, highest, _conditions(f"{option}={text!r}", where), option)

    def __str__(self) -> str:
        where = f" where {self.where}" if self.conditions else ""
        return f"{'max' if self.highest else 'min'} {self.metric}{where}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that it names, each once."""
        return tuple(dict.fromkeys([self.metric, *(condition.metric for condition in self.conditions)]))

    @property
    def names_kept(self) -> bool:
        """Whether it names a metric whose truth is the base's own answers."""
        return any(map(is_kept, self.metrics))

    @property
    def where(self) -> str:
        """The conditions as text."""
        return " and ".join(map(str, self.conditions))

    def check(self, known: Mapping[str, float], source: str, images: str = "train.validate_images") -> None:
        """Raise a ConfigError unless each metric is the loss, or one of those `known` and there defined.

        `source` says what was or will be measured, `images` is the option for how much of it, for the message.
        """
        for name in self.metrics:
            if name == LOSS:
                continue
            if name not in known:
                there = ", ".join([LOSS, *sorted(known)])
                near = close(name, known) + (f"; {_EXPECTED}" if " " in name else "")
                if is_kept(name):
                    near += "; what is kept needs names without labels (kept.names)"
                raise ConfigError(f"{self.option}: {source} have no metric {name!r}; expected one of {there}{near}")
            if math.isnan(known[name]):
                remedy = f"expected other images, a larger {images}, or a metric of what they show"
                if is_kept(name):
                    remedy = f"expected other kept.names, a lower kept.score_threshold, or a larger {images}"
                why = "show nothing of it" + (", or all of it each" if name.endswith(_OF_BOTH_SIDES) else "")
                raise ConfigError(f"{self.option}: {name} is undefined: {source} {why}; {remedy}")

    def rank(self, values: Mapping[str, float], base: Mapping[str, float]) -> tuple[float, float]:
        """By which steps are ordered, the best first: shortfall of the conditions together, then the metric.

        So a step that keeps the conditions comes before any that does not; if none does, the nearest is the best.
        """
        value = values[self.metric]
        signed = -value if self.highest else value
        shortfall = sum(condition.shortfall(values, base) for condition in self.conditions)
        return shortfall, math.inf if math.isnan(signed) else signed


def _conditions(given: str, where: str | None) -> tuple[Condition, ...]:
    found, place = [], 0
    while where is not None and place < len(where):
        condition = _CONDITION.match(where, place)
        if condition is None:
            expected = "expected METRIC >= NUMBER or METRIC <= base+NUMBER, several joined by and"
            raise ConfigError(f"{given}: {where[place:].strip()!r} is no condition; {expected}")
        if condition["base"] and condition["metric"].startswith(_FORGETTING):  # the base has none
            measured = f"{condition['metric']} is a difference from the base already"
            raise ConfigError(f"{given}: {measured}; expected a number in place of base")
        bound = (condition["margin"] or "0").replace(" ", "") if condition["base"] else condition["bound"]
        found.append(Condition(condition["metric"], condition["sign"], float(bound), bool(condition["base"])))
        place = condition.end()
    return tuple(found)


def is_kept(metric: str) -> bool:
    """Whether the truth of a metric is the base's own answers."""
    return KEPT in metric.split("/")


def _is_to_be_low(metric: str) -> bool:
    return metric == LOSS or metric.startswith(_FORGETTING) or metric.endswith("unassigned")
