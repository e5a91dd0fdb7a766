"""The files of a repository: an adapter, its card, and what its run wrote, without local paths."""

import json
import ntpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.hub.adapter_info import AdapterInfo, read_adapter_info
from sam3_hyperet.hub.card import card_text
from sam3_hyperet.hub.card_metadata import CardOptions
from sam3_hyperet.hub.run_info import RunInfo, read_run_info, run_beside
from sam3_hyperet.modeling.adapter_source import ADAPTER_FILE
from sam3_hyperet.training.run_files import CONFIG_FILE, METRICS_FILE, VERSIONS_FILE, WEIGHTS

CARD_FILE = "README.md"
FILES = (CARD_FILE, ADAPTER_FILE, CONFIG_FILE, METRICS_FILE, VERSIONS_FILE)
_PRIVATE = ("paths", "launcher", "logger", "run_dir", "resume")
"""Sections and options of a run that are of its machine, its cluster and its accounts."""
_LOCAL = re.compile(r"[/~\\]|[A-Za-z]:[/\\]")
"""The beginning of a path that is of one machine."""


@dataclass(frozen=True)
class Publication:
    """The content of each file by its name, the adapter's by its path, and what was changed, for people."""

    adapter: AdapterInfo
    files: Mapping[str, bytes | Path]
    notes: tuple[str, ...]


def prepare_publication(adapter: Path, repository: str, options: CardOptions) -> Publication:
    """What is pushed of an adapter file and of the run in its folder.

    Raises CheckpointError for what is no adapter file, and for one whose base weights were trained along with it.
    """
    info, folder = read_adapter_info(adapter), run_beside(adapter)
    if folder and (folder / WEIGHTS["best"]).is_file():
        found = (
            f"{folder}: the run trained base weights too ({WEIGHTS['best']}), without which its adapter fits no base"
        )
        raise CheckpointError(f"{found}; expected a run in stage 1, or to share what `merge` writes")
    run = read_run_info(adapter)
    shortened: list[str] = []
    config = {key: value for key, value in run.config.items() if key not in _PRIVATE}
    config = _shortened(config, "", shortened)
    metrics = _shortened(dict(run.metrics), "", shortened)
    public = RunInfo(config, metrics, run.versions)
    texts: dict[str, str] = {CARD_FILE: card_text(repository, info, public, options)}
    if config:
        texts[CONFIG_FILE] = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if metrics:
        texts[METRICS_FILE] = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if run.versions:
        texts[VERSIONS_FILE] = json.dumps(run.versions, indent=1) + "\n"
    files: dict[str, bytes | Path] = {name: text.encode() for name, text in texts.items()}
    notes = [] if folder or config else ["no run beside the adapter: the card has no data, training and metrics"]
    if left := [key for key in _PRIVATE if key in run.config]:
        notes.append(f"left out of {CONFIG_FILE}: {', '.join(left)}")
    if shortened:
        notes.append(f"local paths shortened to their last part: {', '.join(shortened)}")
    return Publication(info, {**files, ADAPTER_FILE: adapter}, tuple(notes))


def write_publication(publication: Publication, folder: Path) -> None:
    """Write the files to a new folder, to be looked at. Raises ConfigError for one that is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"preview={folder}: is there already; expected a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in publication.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())


def _shortened(value: Any, key: str, changed: list[str]) -> Any:
    """The same values with absolute paths cut to their last part; the options that had one are added to `changed`."""
    if isinstance(value, Mapping):
        return {
            name: _shortened(inner, f"{key}.{name}" if key else str(name), changed) for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_shortened(inner, key, changed) for inner in value]
    if isinstance(value, str) and _LOCAL.match(value):
        changed += [] if key in changed else [key]
        return ntpath.basename(value.rstrip("/\\")) or "/"
    return value
