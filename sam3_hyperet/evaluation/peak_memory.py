"""The most memory that was held for a while, on a device or by this process."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux
_PEAK = "VmHWM:"


class PeakMemory:
    """Most bytes held since it was made: by tensors on a CUDA device, else by the process.

    What was held before, as by a training in the same process, does not count, except for what the process's allocator
    keeps of it. Where a system does not start its count anew, all of it counts: on macOS, and in a container without
    access to `/proc/self/clear_refs`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                _RESET.write_text("5")

    def bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        with contextlib.suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith(_PEAK):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
