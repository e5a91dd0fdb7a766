"""Training on a pretend accelerator, in a process in which no backward pass has run before.

Autograd counts the devices at its first one, and would not know the accelerator.
"""

from __future__ import annotations

from pathlib import Path

from forked_tools import run_forked
from pretend_device import OWN_PROCESS

PROGRAM = f"""
import os, sys
os.environ[{OWN_PROCESS!r}] = "1"
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_training_on_a_device(tmp_path):
    tests = Path(__file__).with_name("test_training_on_a_device.py")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # by the process that this one is forked from
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", imported, tests]
    process = run_forked(program, options, tmp_path / "logs", strict=False)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-1000:]
