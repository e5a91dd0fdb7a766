"""What the run beside an adapter says of it: the base, the data, the training and the metrics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.modeling.adapter_source import ADAPTER_FILE
from sam3_hyperet.modeling.config import is_packaged
from sam3_hyperet.reading import read_json, read_yaml
from sam3_hyperet.report.tables import METRICS
from sam3_hyperet.training.run_files import ADAPTER_DIGEST, CONFIG_FILE, METRICS_FILE, VERSIONS_FILE

_AT_DIAL = r"dial_([\d.]+)/(.+)"
"""Metrics of one of several dials of an adapter."""
_ADDED = "/params/added"
"""End of a metric that every model has, by its name where there are several."""


@dataclass(frozen=True)
class RunInfo:
    """The files of a run that describe its adapter; each is empty where there is no such file.

    config: of the run, by section. metrics: metrics.json. versions: of packages.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    def of(self, section: str, key: str, default: Any = None) -> Any:
        """An option of the run's configuration."""
        found = self.config.get(section)
        return found.get(key, default) if isinstance(found, Mapping) else default

    @property
    def base(self) -> str | None:
        """The base by its option: a repository, a file's name, or the packaged model's."""
        checkpoint = self.of("model", "checkpoint")
        return self.of("model", "name") if checkpoint in (None, "") else str(checkpoint)

    @property
    def dial(self) -> float | None:
        """The dial at which the one adapted model of the metrics was measured; None where they do not say."""
        return measured_dial(self.metrics)

    @property
    def trained_on(self) -> str | None:
        """The data sets, joined by "+", with what the base itself has labelled."""
        more = self.config.get("more_data")
        names = [self.of("data", "name"), *(more if isinstance(more, Mapping) else ())]
        if self.of("rehearsal", "names"):
            names.append("rehearsal (labels of the base)")
        return " + ".join(str(name) for name in names if name) or None


def run_beside(adapter: Path) -> Path | None:
    """The folder of the run that wrote an adapter file; None where there is no configuration beside it."""
    folder = adapter.parent
    return folder if adapter.name == ADAPTER_FILE and (folder / CONFIG_FILE).is_file() else None


def read_run_info(adapter: Path) -> RunInfo:
    """Read what is beside an adapter file of the run that wrote it. ConfigError and DataError for unreadable files."""
    if folder := run_beside(adapter):
        return RunInfo(_yaml(folder / CONFIG_FILE), read_metrics(folder / METRICS_FILE), _json(folder / VERSIONS_FILE))
    if is_packaged(adapter):  # one folder for several runs, whose files have a prefix
        config, metrics = (adapter.with_name(f"adapter_{name}") for name in (CONFIG_FILE, METRICS_FILE))
        return RunInfo(_yaml(config), read_metrics(metrics))
    return RunInfo()


def read_metrics(path: Path) -> dict[str, Any]:
    """Metrics of a file with their names taken apart, so that tables can be made of them; {} without a file."""
    found: dict[str, Any] = {}
    for key, value in _json(path).items():
        found[_key(key) or key] = value
    return found


def measured_dial(metrics: Mapping[str, Any]) -> float | None:
    """The dial of the one adapted model that metrics are of; None for several, and where they do not say."""
    found = metrics.get("dial")
    return float(found) if isinstance(found, float | int) else None


def metrics_at_dials(metrics: Mapping[str, Any]) -> dict[float, dict[str, Any]]:
    """Metrics of one adapter along its dial, by dial; the base is 0. Empty where no dial was tried."""
    found: dict[float, dict[str, Any]] = {}
    for key, value in metrics.items():
        if at := re.match(_AT_DIAL, key):
            found.setdefault(float(at[1]), {})[at[2]] = value
    if found:
        base = {key.removeprefix("base/"): value for key, value in metrics.items() if key.startswith("base/")}
        found.setdefault(0.0, base)
    return dict(sorted(found.items()))


def other_models(metrics: Mapping[str, Any], digest: str) -> str:
    """What metrics are of, in words, if not of the one adapter whose tensors have this digest; "" if they may be.

    Metrics of earlier versions do not say which adapter they are of.
    """
    names = [key.removesuffix(_ADDED) for key in metrics if key.endswith(_ADDED) and not re.match(_AT_DIAL, key)]
    if names:
        return f"metrics of {len(names)} models, {', '.join(names[:3])}"
    if metrics.get(_ADDED[1:]) == 0:
        return "metrics of a model without an adapter"
    found = metrics.get(ADAPTER_DIGEST, digest)
    return "" if found == digest else f"metrics of another adapter, whose tensors have the SHA-256 {str(found)[:12]}…"


def _key(text: str) -> MetricKey | None:
    """A metric of the main table by its parts; None for any other, of which no table is made."""
    if text.startswith(("difference/", "between/", "dial")) or "/forgetting/" in text:
        return None
    for metric in METRICS:
        if text.endswith(f"/{metric.key}"):
            model, parts = "", text.removesuffix(f"/{metric.key}").split("/")
            if parts[0] == "base":
                model = parts.pop(0)
            if parts:
                return MetricKey(metric.key, data=parts[0], group="/".join(parts[1:]), model=model)
    return None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}, expected keys with values")
    return found


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not the configuration of a run")
    return found
