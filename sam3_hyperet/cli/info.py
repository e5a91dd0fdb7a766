"""`sam3-hyperet info`: what an adapter is, where it comes from and what it reached, without loading a model."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.digest import sha256
from sam3_hyperet.hub.adapter_info import AdapterInfo, read_adapter_info
from sam3_hyperet.hub.card import adapter_facts, training_facts
from sam3_hyperet.hub.card_tables import card_rows
from sam3_hyperet.hub.repository import optional_file
from sam3_hyperet.hub.run_info import RunInfo, read_run_info
from sam3_hyperet.modeling.adapter_source import HubReference, commit_of, is_on_hub, locate_adapter
from sam3_hyperet.report.tables import Row, between, number, signed
from sam3_hyperet.training.run_files import CONFIG_FILE, METRICS_FILE, VERSIONS_FILE


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print what an adapter is; returns it. Raises CheckpointError for what is no adapter."""
    _, config = parse_command("info", argv)
    given = str(config.adapter)
    path = locate_adapter(given)
    adapter = read_adapter_info(path)
    if is_on_hub(given):
        commit = HubReference(HubReference.of(given).repository, commit_of(path))
        for name in (CONFIG_FILE, METRICS_FILE, VERSIONS_FILE):
            optional_file(commit, name)
        given = str(commit)
    run = read_run_info(path)
    rows = card_rows(run.metrics)
    found = _values(given, path, adapter, run, rows)
    console = Console(highlight=False)
    if config.json:
        console.print(json.dumps(found, indent=1, ensure_ascii=False), markup=False, soft_wrap=True)
        return found
    facts = {"adapter": given, "SHA-256": found["sha256"], **adapter_facts(adapter)}
    if run.dial not in (None, adapter.dial):
        facts["dial"] += f"; the metrics were measured at dial {run.dial:g}"
    facts |= {"base": f"{facts['base']}; trained as {run.base}"} if run.base and not adapter.base_name else {}
    trained = {"trained on": "unknown: no config.yaml beside it"} if not run.config else training_facts(run)
    for name, fact in {**facts, **trained}.items():
        console.print(f"{name}: {fact}", markup=False, soft_wrap=True)
    for row in rows:
        console.print(_line(row), markup=False, soft_wrap=True)
    if not rows:
        console.print("metrics: none beside it", markup=False)
    return found


def _values(given: str, path: Path, adapter: AdapterInfo, run: RunInfo, rows: Sequence[Row]) -> dict[str, Any]:
    metrics = {
        f"{row.metric.key} {row.label}": {
            "base": row.base,
            "adapted": row.cells[0].value,
            "difference": row.cells[0].difference,
            "interval_95": row.cells[0].interval,
        }
        for row in rows
    }
    return {
        "adapter": given,
        "sha256": sha256(path),
        "config": asdict(adapter.config),
        "scheme": adapter.scheme,
        "sites": list(adapter.config.resolved_sites),
        "encoder": list(adapter.encoder),
        "gates": adapter.gates,
        "parameters": adapter.parameters,
        "dial": adapter.dial,
        "dial_of_metrics": run.dial,
        "base": adapter.base,
        "base_name": adapter.base_name or run.base,
        "version": adapter.version,
        "trained_on": run.trained_on,
        "training": training_facts(run) if run.config else {},
        "metrics": metrics,
    }


def _line(row: Row) -> str:
    cell = row.cells[0]
    interval = f", 95 % interval {between(cell.interval)}" if cell.interval else ""
    values = f"{number(row.base, 3)} → {number(cell.value, 3)} ({signed(cell.difference)}{interval})"
    return f"{row.metric.name}, {row.label}: {values}"
