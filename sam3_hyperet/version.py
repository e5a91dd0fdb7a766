"""The version, importable without torch (setup.cfg reads it), and those of what the numbers depend on."""

import importlib.metadata
import platform

__version__ = "0.1.0"
_PACKAGES = ("torch", "torchvision", "sam3", "numpy", "pycocotools", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"sam3_hyperet": __version__, "python": platform.python_version(), **found}
