"""What the machine offers: GPUs, precision, memory, disk, shared memory, cores."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet.choices import AUTO, BF16, FP32, TF32
from sam3_hyperet.doctor.findings import Finding, failed, ok, warning
from sam3_hyperet.training.loaders import MaskLoad, bytes_ahead
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.wording import count_of

_GIB = 2**30
_FEW_FILES = 1_000  # that can still be made on a file system: a run makes some dozens, records one an image
_MORE_MEMORY = "a machine with more memory, or, for stages 2 and 3, train.strategy=fsdp over several devices"
_WITHOUT_CUDA = "install the CUDA build of torch and torchvision: the command for your driver is on pytorch.org"


@dataclass(frozen=True)
class Gpus:
    """What PyTorch and the system say of GPUs.

    build: the CUDA or ROCm that PyTorch was built for, or None.
    names, free, total, supported: of each GPU that PyTorch sees; memory in bytes; whether PyTorch has code for it.
    has_bf16: whether all of them compute in bfloat16 themselves.
    nodes: NVIDIA's device files. driver: the version that it states, or "". hidden: CUDA_VISIBLE_DEVICES, if set.
    """

    build: str | None = None
    names: tuple[str, ...] = ()
    free: tuple[int, ...] = ()
    total: tuple[int, ...] = ()
    supported: tuple[bool, ...] = ()
    has_bf16: bool = False
    nodes: tuple[str, ...] = ()
    driver: str = ""
    hidden: str | None = None


def find_gpus() -> Gpus:
    """The GPUs of this machine; PyTorch must be importable."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    memory = [torch.cuda.mem_get_info(i) for i in range(count)]
    version = Path("/proc/driver/nvidia/version")
    return Gpus(
        build=torch.version.cuda or torch.version.hip,
        names=tuple(torch.cuda.get_device_name(i) for i in range(count)),
        free=tuple(free for free, _ in memory),
        total=tuple(total for _, total in memory),
        supported=tuple(
            _has_code(torch.cuda.get_arch_list(), torch.cuda.get_device_capability(i)) for i in range(count)
        ),
        has_bf16=bool(count) and torch.cuda.is_bf16_supported(including_emulation=False),
        nodes=tuple(map(str, sorted(Path("/dev").glob("nvidia[0-9]*")))),
        driver=driver_version(version.read_text()) if version.is_file() else "",
        hidden=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def driver_version(text: str) -> str:
    """The version of NVIDIA's driver in what its kernel module says of itself, which may name x86_64 before; or ""."""
    stated = re.search(r"Kernel Module.*?\b(\d+\.[\d.]+)", text)
    return stated[1] if stated else ""


def gpu_rows(train: TrainOptions, gpus: Gpus) -> Iterator[Finding]:
    """Whether the run gets the GPUs that it wants, and whether these are free."""
    if train.accelerator == "cpu":
        yield ok("gpu", "not used: train.accelerator=cpu")
    elif not gpus.names:
        found, remedy = _without_gpu(gpus)
        if train.accelerator in ("cuda", "gpu"):
            yield failed("gpu", found, f"a GPU for train.accelerator={train.accelerator}", remedy)
        elif gpus.nodes:
            yield warning("gpu", f"{found}; the run would train on the CPU", "the GPU of this machine", remedy)
        else:
            yield ok("gpu", "none; the run trains on the CPU")
    elif len(gpus.names) < train.devices:
        remedy = f"train.devices={len(gpus.names)}"
        yield failed("gpu", count_of(len(gpus.names), "GPU"), f"train.devices={train.devices}", remedy)
    elif not all(gpus.supported[: train.devices]):
        name = gpus.names[gpus.supported.index(False)]
        yield failed("gpu", f"PyTorch (CUDA {gpus.build}) has no code for {name}", "a build for it", _WITHOUT_CUDA)
    else:
        used = range(train.devices)
        found = ", ".join(
            f"{gpus.names[i]}, {size_text(gpus.free[i])} of {size_text(gpus.total[i])} free" for i in used
        )
        found = f"{found}; CUDA {gpus.build}, driver {gpus.driver or 'unknown'}"
        if any(gpus.free[i] < 0.8 * gpus.total[i] for i in used):
            yield warning("gpu", found, "free memory", "`nvidia-smi` lists the processes that use the card")
        else:
            yield ok("gpu", found)


def precision_rows(train: TrainOptions, gpus: Gpus) -> Iterator[Finding]:
    """Whether the device computes in the run's precision."""
    name, on_gpu = train.precision, bool(gpus.names) and train.accelerator != "cpu"
    device, native = gpus.names[0] if on_gpu else "the CPU", on_gpu and gpus.has_bf16
    if name == BF16 and on_gpu and not native:
        expected = "a GPU of compute capability 8.0 or later"
        yield failed("precision", f"{name} on {device}", expected, f"train.precision={AUTO}")
    elif name == BF16 and not on_gpu:
        yield warning("precision", f"{name} on a CPU", f"{FP32}, which is faster on most", f"train.precision={FP32}")
    elif name == TF32 and not native:
        yield warning("precision", f"{device} has no TF32: as {FP32}", remedy=f"train.precision={AUTO}")
    else:
        chosen = f"{BF16 if native else FP32} ({AUTO})" if name == AUTO else name
        yield ok("precision", f"{chosen} on {device}")


def memory_rows(needed: int, free: int, where: str, known: str, remedy: str = _MORE_MEMORY) -> Iterator[Finding]:
    """Whether `needed` bytes are free; `known` says what they are for."""
    found = f"{size_text(free)} free {where}; {known}"
    if needed > free:
        yield failed("memory", found, f"{size_text(needed)} at least, without activations", remedy)
    else:
        yield ok("memory", f"{found}: {size_text(needed)}, and activations on top")


def disk_rows(check: str, folder: Path, needed: int, remedy: str) -> Iterator[Finding]:
    """Whether `needed` bytes can be written below a folder, which need not exist."""
    parent = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    expected = "a folder that can be written to"
    try:
        with tempfile.TemporaryFile(dir=parent) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield failed(check, f"{parent}: {error.strerror or error}", expected, remedy)
        return
    free, inodes = shutil.disk_usage(parent).free, os.statvfs(parent)
    found = f"{size_text(free)} free at {parent}"
    if needed > free:
        yield failed(check, found, f"about {size_text(needed)}", f"free some space, or {remedy}")
    elif inodes.f_files > 0 and inodes.f_favail < _FEW_FILES:
        yield failed(check, f"{inodes.f_favail} more files fit on {parent}", f"{_FEW_FILES:,} (inodes)", remedy)
    else:
        yield ok(check, f"{found}; about {size_text(needed)} needed")


def shared_memory_rows(
    train: TrainOptions, workers: int, side: int, load: MaskLoad, folder: Path = Path("/dev/shm")
) -> Iterator[Finding]:
    """Whether the batches of the loader processes, which pass through /dev/shm, fit there; `side` in pixels."""
    if not workers:
        yield ok("shared memory", "not used: no loader processes")
    elif not folder.is_dir():
        yield ok("shared memory", f"this system has no {folder}")
    else:
        needed = bytes_ahead(train, workers, side, load)
        free = shutil.disk_usage(folder).free
        found = f"{size_text(free)} free at {folder}"
        if needed > free:
            remedy = f"docker run --shm-size={-(-2 * needed // _GIB)}g (or --ipc=host), fewer train.workers, or 0"
            masks = f"with {load.usual} masks of most images and {load.most} of one"
            expected = f"about {size_text(needed)} for {count_of(workers, 'loader process')}, {masks}"
            yield failed("shared memory", found, expected, remedy)
        else:
            yield ok("shared memory", f"{found}; about {size_text(needed)} needed")


def core_rows(train: TrainOptions, workers: int, cores: int, where: str) -> Iterator[Finding]:
    """Whether there are cores for the threads and loader processes of the run's processes on a machine."""
    processes = train.devices * (max(train.threads, 1) + workers)
    threads = count_of(max(train.threads, 1), "thread")
    found = f"{count_of(cores, 'core')} {where}"
    wanted = f"{train.devices} x ({threads} + {count_of(workers, 'loader process')})"
    if processes > cores:
        yield warning("cores", found, wanted, "fewer train.workers or train.threads, or more cores")
    else:
        yield ok("cores", f"{found}; {wanted} used")


def _without_gpu(gpus: Gpus) -> tuple[str, str]:
    """Why PyTorch sees no GPU, and the remedy."""
    if not gpus.nodes:
        return "this machine has no GPU", "train.accelerator=cpu, or a machine with a GPU"
    if gpus.build is None:
        return f"PyTorch was built without CUDA, and {gpus.nodes[0]} is there", _WITHOUT_CUDA
    if gpus.hidden is not None:
        return f"CUDA_VISIBLE_DEVICES={gpus.hidden!r} hides {gpus.nodes[0]}", "unset CUDA_VISIBLE_DEVICES"
    driver = f"driver {gpus.driver}" if gpus.driver else "no driver loaded"
    found = f"PyTorch (CUDA {gpus.build}) cannot use {gpus.nodes[0]} ({driver})"
    return found, f"a newer driver (`nvidia-smi` shows what works), or {_WITHOUT_CUDA}"


def _has_code(built_for: list[str], capability: tuple[int, int]) -> bool:
    """Whether PyTorch's kernels run at a compute capability: compiled for its major version, or as PTX below it."""
    for name in built_for:
        kind, _, digits = name.partition("_")
        if numbers := re.match(r"\d+", digits):
            major, minor = divmod(int(numbers[0]), 10)
            if kind == "sm" and major == capability[0] and minor <= capability[1]:
                return True
            if kind == "compute" and (major, minor) <= capability:
                return True
    return not built_for or built_for[0].startswith("gfx")  # ROCm's names say nothing of capabilities


def size_text(size: float) -> str:
    """Bytes for people."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / 2**20:.0f} MiB"
