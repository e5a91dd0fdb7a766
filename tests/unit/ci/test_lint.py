"""`.ci/lint`, which `make lint` and the pre-commit hooks run: it needs no active environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
TOOLS = ("ruff", "mypy", "codespell", "yamllint", "hadolint")


@pytest.fixture
def lint(tmp_path):
    """A function that runs a copy of the script without any tool on the PATH."""
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(REPOSITORY / ".ci" / "lint", tmp_path / ".ci" / "lint")

    def run(*checks: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
        return subprocess.run(
            ["bash", script, *checks], env=environment, cwd="/", capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture
def installed(tmp_path):
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for tool in TOOLS:
        (folder / tool).write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        (folder / tool).chmod(0o755)
    return folder


def test_the_tools_are_those_of_the_virtual_environment(lint, installed):
    process = lint()
    assert process.returncode == 0, process.stderr
    ran = [line.split()[0] for line in process.stdout.splitlines()]
    assert ran == ["ruff", "ruff", "mypy", "codespell", "yamllint", "hadolint"]


def test_a_failing_tool_fails(lint, installed):
    (installed / "codespell").write_text("#!/bin/sh\nexit 65\n")
    assert lint("spelling").returncode != 0
    assert lint().returncode != 0
    assert lint("yaml").returncode == 0


def test_mistakes(lint, installed):
    shutil.rmtree(installed)
    process = lint("spelling")
    assert process.returncode == 1
    assert process.stderr == "lint: codespell is not installed; run `make lint` once, which sets up .venv\n"
    process = lint("speling")
    assert process.returncode == 2
    assert "no check named speling; there are ruff" in process.stderr


def test_hooks_are_the_checks():
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    for check in ("ruff", "mypy", "spelling", "yaml", "docker"):
        assert f"entry: .ci/lint {check}\n" in text
    assert "language: python" not in text  # those are installed from a registry
