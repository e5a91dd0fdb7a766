"""`sam3-hyperet doctor`: what would fail in a run, with the remedy, before it does."""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sam3_hyperet.cli.command import parse_command, user_message
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.of_run import config_of_run
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.doctor.examination import Setup, examine
from sam3_hyperet.doctor.findings import Finding, of_error
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.options import read_options
from sam3_hyperet.training.run_files import ADAPTER, WEIGHTS
from sam3_hyperet.version import __version__
from sam3_hyperet.wording import count_of

_OWN = ("run=", "adapter_file=", "trial=", "json=", "--")


def main(argv: list[str] | None = None) -> list[Finding]:
    """Run the tool; returns the rows. Ends with status 1 if a check has failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_json = "--json" in arguments or "json=true" in arguments
    findings = []
    with contextlib.redirect_stdout(sys.stderr if is_json else sys.stdout):  # of what is imported and loaded, too
        for finding in _findings(arguments, is_json):
            findings.append(finding)
            print("\n".join(_lines(finding)), flush=True)
    counts = Counter(finding.status for finding in findings)
    if is_json:
        rows = [asdict(finding) for finding in findings]
        content = {"sam3_hyperet": __version__, "ok": not counts["failed"], "counts": dict(counts), "checks": rows}
        print(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        healthy = "" if counts["failed"] else "; nothing was found that would fail"
        by_status = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        print(f"\n{count_of(len(findings), 'check')}: {by_status}{healthy}")
    if counts["failed"]:
        raise SystemExit(1)
    return findings


def _findings(arguments: list[str], is_json: bool) -> Iterable[Finding]:
    """The rows of all checks; in JSON, options that cannot be are a row, too. Raises ConfigError for them otherwise."""
    try:
        setup = setup_of(_values(arguments))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if not is_json:
            raise
        return [of_error("options", ConfigError(user_message(error)))]
    return examine(setup)


def _values(arguments: list[str]) -> dict[str, Any]:
    """The plain values of a command line's configuration, or of the run that it names."""
    runs = [one for one in arguments if one.startswith("run=") and one != "run=null"]
    others = [one for one in arguments if not one.startswith(_OWN)]
    if runs and others:
        raise ConfigError(f"{others[0]} beside {runs[0]}, whose own options are checked; expected one of them")
    _, config = parse_command("doctor", arguments)
    values: dict[str, Any] = plain(config)
    if runs:
        return values | _of_run(Path(config.run))
    read_run(values).check_alone()
    return values


def check_before_submission(values: dict[str, Any]) -> list[str]:
    """A line for each warning about a run that is about to be submitted. Raises ConfigError if something would fail.

    What the submitting machine cannot know is left out: GPUs, memory, and whatever needs the model's weights in memory.
    """
    return warnings_of(examine(setup_of(values)), values["run_dir"])


def warnings_of(findings: Iterable[Finding], run_dir: str) -> list[str]:
    """A line for each warning about a job that is about to be submitted. Raises ConfigError if something would fail."""
    found = list(findings)
    if failures := [_sentence(one) for one in found if one.status == "failed"]:
        remedy = "mend it, or submit it as it is with launcher.doctor=false"
        raise ConfigError(f"{run_dir} would fail: {' | '.join(failures)}; {remedy}")
    return ["\n".join(_lines(one)) for one in found if one.status == "warning"]


def setup_of(values: dict[str, Any]) -> Setup:
    """The setup that a configuration's plain values describe. Raises ConfigError.

    What a job will run is tried only where `trial=true` asks for it: this machine is likely to be another one.
    """
    run, adapter = read_run(values), values.get("adapter_file")
    launcher = read_options(SlurmOptions, values["launcher"], "launcher")
    if launcher.name == "slurm":
        launcher.check(run.train)
    return Setup(
        model=run.model,
        hyperet=run.hyperet,
        data=run.data,
        more_data=run.more_data,
        rehearsal=run.rehearsal,
        kept=run.kept,
        protocol=run.protocol,
        fit=run,
        loss=run.loss,
        cache=run.cache,
        launcher=launcher,
        run_dir=Path(values["run_dir"]),
        seed=run.seed,
        evaluate=run.evaluate,
        adapter=None if adapter is None else Path(adapter),
        tries=values.get("trial"),
        is_submitted=launcher.name == "slurm" and not values.get("trial"),
        open_folder=partial(_open_folder, values),
    )


def _open_folder(values: dict[str, Any]) -> str:
    """What a run would find in its folder. Raises ConfigError if that is another run's, or somebody else's.

    A saved state is read as the run reads it. Raises CheckpointError if it is damaged, or of other processes.
    """
    from sam3_hyperet.cli.train import open_folder  # imports torch, which may be broken
    from sam3_hyperet.training.state import read_state
    from sam3_hyperet.training.warm_start import initial_adapter

    options = read_run(values)
    run = open_folder(options, values)
    if run.resume:
        state = read_state(run.resume, options.train.devices * options.train.nodes)
        return f"{run.path}: goes on from {run.resume.name}, after step {state['progress']['step']}"
    begins = f"; begins with {initial_adapter(given, options.hyperet)[0]}" if (given := options.init_adapter) else ""
    found = "an earlier run's weights are replaced" if run.has_weights else "a new run"
    return f"{run.path}: {found}{begins}"


def _of_run(folder: Path) -> dict[str, Any]:
    """The options of a training run, with its own weights and adapter, as far as it has come."""
    values: dict[str, Any] = plain(config_of_run(folder))
    values["run_dir"] = str(folder)
    if (folder / WEIGHTS["best"]).is_file():
        values["model"]["checkpoint"] = str(folder / WEIGHTS["best"])
    if (folder / ADAPTER["best"]).is_file():
        values["adapter_file"] = str(folder / ADAPTER["best"])
    return values


def _sentence(finding: Finding) -> str:
    """A row in one line."""
    more = {"expected": finding.expected, "remedy:": finding.remedy}
    parts = [f"{finding.check}: {finding.found}", *(f"{name} {text}" for name, text in more.items() if text)]
    return " ".join("; ".join(parts).split())


def _lines(finding: Finding) -> list[str]:
    """A row for people: status, check and what was found; below, what was expected and the remedy."""
    more = {"expected": finding.expected, "remedy": finding.remedy}
    first = f"{finding.status:<9}{finding.check:<16} {finding.found}"
    return [first, *(f"{'':<9}{'':<17}{name}: {text}" for name, text in more.items() if text)]
