"""A study whose runs are made by a stub; nothing is imported for other tests."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import yaml
from stub_study import GAINS, PLAN

from sam3_hyperet.ablation.rows import RUNS, TRIALS, cell, leave_row, row_folder


@pytest.fixture(scope="module")
def composed_once():
    """Configurations of the same arguments are composed once for all tests."""
    from sam3_hyperet.cli import ablation_configs

    real = ablation_configs.parse_command
    known = functools.cache(lambda tool, arguments: real(tool, list(arguments)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ablation_configs, "parse_command", lambda tool, arguments: copy.deepcopy(known(tool, tuple(arguments)))
        )
        yield


@pytest.fixture
def study(tmp_path, composed_once):
    """A function that runs the tool on a plan in a folder, with changes to the plan."""
    from sam3_hyperet.cli import ablate

    def run(*arguments: str, tool=ablate.main, **changes: object):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
        return tool([str(file), f"run_dir={tmp_path / 'study'}", *arguments])

    return run


@pytest.fixture
def made(monkeypatch):
    """The configurations of the runs that were made by a stub, in their order."""
    from sam3_hyperet.ablation import evidence
    from sam3_hyperet.cli import ablation_inputs, ablation_run

    configs = []

    def stub(config):
        job = config.ablation
        configs.append(config)
        lr = config.optim.lr
        row = {**job.cells, "gain": GAINS[job.cells.arm] + lr, "lost": 0.01, "dial": 1.0, "seconds": 2.0}
        row |= {"gain@1": row["gain"], "lost@1": 0.05}
        row |= {"date": "2026-01-01", "identity": job.identity}
        row = {name: cell(value) for name, value in row.items()}
        leave_row(row_folder(Path(job.folder), TRIALS if job.is_trial else RUNS), Path(config.run_dir).name, row)
        return row

    monkeypatch.setattr(ablation_run, "run", stub)
    monkeypatch.setattr(evidence, "svg_of", lambda figure: "<svg/>\n")  # drawing takes longer than all the rest
    monkeypatch.setattr(ablation_inputs, "check_inputs", lambda study: None)
    return configs
