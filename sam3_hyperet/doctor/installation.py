"""Python, the versions of packages, and whether torch and sam3 can be imported."""

import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Sequence

from sam3_hyperet.doctor.findings import Finding, failed, ok

PYTHON = (3, 10)
REQUIRED = {  # as in setup.cfg
    "torch": "2.7",
    "torchvision": "0.22",
    "sam3": "0.1.4",
    "psutil": "5.9",
    "scipy": "1.10",
    "torchmetrics": "1.4",
    "open_clip_torch": "2.30",
    "huggingface_hub": "1.0",
    "httpx": "0.23",
    "numpy": "1.26",
    "pillow": "10",
    "opencv-python-headless": "4.9",
    "pycocotools": "2.0.10",
    "msgspec": "0.18",
    "faster-coco-eval": "1.6",
    "hydra-core": "1.3.2",
    "omegaconf": "2.3",
    "submitit": "1.5.2",
    "lightning-fabric": "2.4",
    "lightning-utilities": "0.11",
    "safetensors": "0.4.5",
    "tensorboard": "2.16",
    "rich": "13",
    "matplotlib": "3.8",
    "jinja2": "3.1",
    "pyyaml": "6",
}
_COMPILED = {  # module: package
    "numpy": "numpy",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "pycocotools.mask": "pycocotools",
    "safetensors": "safetensors",
    "scipy.optimize": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
}
_SHOWN = ("torch", "torchvision", "sam3", "numpy")
_REINSTALL = 'pip install --upgrade --force-reinstall "torch>=2.7" "torchvision>=0.22" (both from the same index)'
_BROKEN = (ImportError, OSError, RuntimeError, AttributeError, TypeError, ValueError)  # of a damaged or mixed install


def python_rows() -> Iterator[Finding]:
    """The version of Python."""
    wanted, found = ".".join(map(str, PYTHON)), platform.python_version()
    if sys.version_info[:2] < PYTHON:
        yield failed("python", found, f"{wanted} or later", f"an environment of Python {wanted} or later")
    else:
        yield ok("python", f"{found} on {platform.system()} {platform.machine()}")


def package_rows(extras: Sequence[str] = ()) -> Iterator[Finding]:
    """Versions of all packages that are needed; `extras` are those that this run's options need beyond them."""
    versions = {name: _version(name) for name in (*REQUIRED, *extras)}
    missing = [name for name, found in versions.items() if found is None]
    old = [
        f"{name} {found} (expected {REQUIRED[name]})"
        for name, found in versions.items()
        if found and name in REQUIRED and _numbers(found) < _numbers(REQUIRED[name])
    ]
    if missing or old:
        found = "; ".join(filter(None, [f"missing {', '.join(missing)}" if missing else "", ", ".join(old)]))
        names = [f'"{name}>={REQUIRED[name]}"' if name in REQUIRED else name for name in versions]
        wanted = [one for one, name in zip(names, versions, strict=True) if name in missing or name in " ".join(old)]
        yield failed("packages", found, "all that setup.cfg names", f"pip install {' '.join(wanted)}")
    else:
        yield ok("packages", ", ".join(f"{name} {versions[name]}" for name in (*_SHOWN, *extras)))


def torchvision_rows() -> Iterator[Finding]:
    """Whether torchvision was built for the installed torch, by its own requirement."""
    torch, torchvision = _version("torch"), _version("torchvision")
    if torch is None or torchvision is None:
        yield failed("torchvision", f"torch {torch}, torchvision {torchvision}", "both", _REINSTALL)
        return
    release, _, build = torch.partition("+")
    other = torchvision.partition("+")[2]
    stated = (re.match(r"torch *\(?(==|>=) *([\d.]+)", one) for one in importlib.metadata.requires("torchvision") or ())
    relation, wanted = next((match.groups() for match in stated if match), ("", ""))
    fits = {"==": release == wanted, ">=": _numbers(release) >= _numbers(wanted)}.get(relation, True)
    if not fits:
        expected = f"torch{relation}{wanted}"
        yield failed("torchvision", f"torchvision {torchvision} beside torch {torch}", expected, _REINSTALL)
    elif build and other and build != other:
        yield failed("torchvision", f"torch is built for {build}, torchvision for {other}", "one build", _REINSTALL)
    else:
        yield ok("torchvision", f"torchvision {torchvision} fits torch {torch}")


def import_rows() -> Iterator[Finding]:
    """Whether the packages with compiled code can be imported."""
    for module, package in _COMPILED.items():
        try:
            importlib.import_module(module)
        except _BROKEN as error:
            is_torch = module in ("torch", "torchvision")
            remedy = _REINSTALL if is_torch else f'pip install --force-reinstall "{package}>={REQUIRED[package]}"'
            yield failed("imports", f"import {module}: {_one_line(error)}", "an import without errors", remedy)
            return
    yield ok("imports", f"{', '.join(_COMPILED)}")


def sam3_rows() -> Iterator[Finding]:
    """Whether sam3 can be imported, and has all that this package extends."""
    try:
        host = importlib.import_module("sam3_hyperet.sam3_host")
        vocabulary = host.vocabulary_path()
    except _BROKEN as error:
        remedy = f'pip install --upgrade "sam3>={REQUIRED["sam3"]}" "open_clip_torch>={REQUIRED["open_clip_torch"]}"'
        yield failed("sam3", _one_line(error), f"sam3>={REQUIRED['sam3']}, whole", remedy)
        return
    yield ok("sam3", f"sam3 {host.SAM3_VERSION} has what this package extends; vocabulary {vocabulary}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0].partition("rc")[0]))


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
