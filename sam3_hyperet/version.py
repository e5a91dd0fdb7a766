"""The version, importable without torch (setup.cfg reads it), and those of what the numbers depend on."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

__version__ = "0.1.0"
_PACKAGES = ("torch", "torchvision", "sam3", "numpy", "pycocotools", "faster-coco-eval")


def versions(*packages: str) -> dict[str, str]:
    """Versions of this package and of others; by default of all that the numbers depend on."""
    found = {} if packages else {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in packages or _PACKAGES}
    return {"sam3_hyperet": __version__, **found}


def commit() -> str:
    """Commit of the clone that the package runs from, with a + where its files differ from it; "" outside of one."""
    package = Path(__file__).resolve().parent
    if not (package.parent / ".git").exists():  # of a clone, and not of a project that has the package installed
        return ""
    try:
        head, changed = (
            subprocess.run(["git", "-C", package, *command], check=True, capture_output=True, text=True, timeout=10)
            for command in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "-uno", "--", "."])
        )
    except (OSError, subprocess.SubprocessError):  # git is not there, or does not trust the folder
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
