"""The version, importable without torch (setup.cfg reads it), and those of what the numbers depend on."""

import importlib.metadata
import platform

__version__ = "0.1.0"
_PACKAGES = ("torch", "torchvision", "sam3", "numpy", "pycocotools", "faster-coco-eval")


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of others; by default of all that the numbers depend on."""
    found = {} if packages else {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in packages or _PACKAGES}
    return {"sam3_hyperet": __version__, **found}
