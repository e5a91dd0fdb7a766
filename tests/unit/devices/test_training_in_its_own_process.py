"""Training on a pretend accelerator, in a process in which no backward pass has run before.

Autograd counts the devices at its first one, and would not know the accelerator.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pretend_device import OWN_PROCESS


def test_training_on_a_device():
    tests = Path(__file__).with_name("test_training_on_a_device.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    own = os.environ | {OWN_PROCESS: "1"}
    process = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr[-1000:]
