"""Checks of a job that runs models without training them, on a machine that need not be like the job's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sam3_hyperet.doctor import cluster, weights
from sam3_hyperet.doctor.findings import Examination, Finding, ok
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions


def examine_job(
    launcher: SlurmOptions,
    run_dir: Path,
    options: ModelOptions | None = None,
    adapters: Iterable[Path] = (),
    inputs: Mapping[str, Callable[[Any], Iterable[Finding]]] | None = None,
) -> Iterator[Finding]:
    """The rows of all checks: of the cluster and, of a job with a model, its weights, adapter files and inputs.

    inputs: checks by name; each gets the base model without weights.
    """
    examination = Examination()
    yield from cluster.rows(examination, launcher, run_dir)
    if options is None:
        return
    models: list[Any] = []

    def build() -> Iterator[Finding]:
        from sam3_hyperet.modeling.outline import outline

        models.append(outline(options, HyperETConfig(scheme="none")))
        yield ok("model", options.name)

    yield from examination.check("model", build)
    yield from weights.rows(examination, options, lambda: models[0], "model")
    for path in adapters:
        yield from examination.check("adapter", partial(_adapter_rows, path))
    for name, rows in (inputs or {}).items():
        yield from examination.check(name, lambda rows=rows: rows(models[0]), "model")  # type: ignore[misc]


def _adapter_rows(path: Path) -> Iterator[Finding]:
    from sam3_hyperet.modeling.adapter_file import read_adapter_config

    yield ok("adapter", f"{path}: {', '.join(read_adapter_config(path).resolved_sites)}")
