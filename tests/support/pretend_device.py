"""A pretend accelerator, "pretend": a PyTorch device of its own whose memory and kernels are the CPU's.

PyTorch's third-party backend (PrivateUse1) in plain Python, without a compiler. Every operator of the device ends in
`_Backend`, which sees the CPU's tensors in the same memory, so that it is the one place that finds

- operators of tensors on two devices, an error here as on CUDA (CUDA's indices and scalars on the CPU are allowed),
- float64, which accelerators have in name or not at all,
- synchronisations: whatever makes the CPU wait for a device, by the rules of `torch.cuda.set_sync_debug_mode`.

Autocast casts the operators that it casts on CUDA. What differs from CUDA: kernels and their rounding are the CPU's;
attention is the plain formula in place of fused kernels; there are no streams, so that no race shows; memory is not
counted; `device.type` is not "cuda".
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils import backend_registration

OWN_PROCESS = "SAM3_HYPERET_OWN_PROCESS"
"""Variable that is set in a process in which no backward pass has run: autograd counts the devices at its first."""

NAME = "pretend"
_CPU, _EXTENSION = 1, 12  # DLPack's kinds of devices; the second is PrivateUse1's
_WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
_CAST = {  # what CUDA's autocast makes of operators: https://docs.pytorch.org/docs/stable/amp.html
    "bfloat16": "addmm addmv addr baddbmm bmm conv1d conv2d conv3d conv_transpose2d.input linear matmul mm mv prelu "
    "scaled_dot_product_attention",
    "float32": "binary_cross_entropy_with_logits cosine_similarity cross_entropy_loss cumprod cumsum exp expm1 "
    "group_norm l1_loss layer_norm log log10 log1p log2 log_softmax.int mse_loss norm.Scalar norm.ScalarOpt_dim prod "
    "pow.Tensor_Scalar pow.Tensor_Tensor reciprocal rsqrt sinh cosh smooth_l1_loss softmax.int softplus sum "
    "sum.dim_IntList tan",
    "": "addcdiv addcmul atan2 cat cross grid_sampler index_put scatter_add stack tensordot",
}


class Watch:
    """What `watching` has seen: waits, and the places of float64, by (operator, line of ours or of SAM 3's)."""

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.float64: Counter[tuple[str, str]] = Counter()
        self.largest = 0  # bytes of one tensor that an operator made

    def ours(self) -> int:
        """Synchronisations in this package's own code."""
        return sum(count for (_, place), count in self.waits.items() if place.startswith("sam3_hyperet"))

    def hosts(self) -> int:
        """Synchronisations in SAM 3's code."""
        return sum(count for (_, place), count in self.waits.items() if place.startswith("sam3/"))


class _Backend:
    """The kernel of every operator."""

    watch: Watch | None = None
    available = False

    def __call__(self, op: Any, *args: Any, **kwargs: Any) -> Any:
        schema, name = op._schema, op._schema.name.rpartition("::")[2]
        found: list[Tensor] = []
        inputs = [self._as_cpu(value, found) for value in args]
        options = {key: self._as_cpu(value, found) for key, value in kwargs.items() if key != "pin_memory"}
        if name == "_copy_from":
            return self._copy(*args)
        if name == "as_strided":
            base, size, stride, offset = (*args, None)[:4]
            return _viewed(base, size, stride, 0 if offset is None else offset - base.storage_offset())
        self._check(name, found, args)
        for argument in schema.arguments:  # an output yet without a size gets memory of its own
            out = options.get(argument.name)
            if argument.is_out and isinstance(out, Tensor) and not out.numel():
                options[argument.name] = torch.empty(0, dtype=out.dtype)
        result = op(*inputs, **options)
        if not schema.returns:
            return None
        if self.watch is not None and isinstance(result, Tensor):
            self.watch.largest = max(self.watch.largest, result.nbytes)
        by_name = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
        outputs = [
            self._output(described, one, schema, by_name)
            for described, one in zip(schema.returns, result if len(schema.returns) > 1 else [result], strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _as_cpu(self, value: Any, found: list[Tensor]) -> Any:
        if isinstance(value, Tensor):
            found.append(value)
            return on_cpu(value)
        if isinstance(value, list | tuple):
            return type(value)(self._as_cpu(item, found) for item in value)
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def _check(self, name: str, found: Sequence[Tensor], args: Sequence[Any]) -> None:
        others = [t for t in found if t.device.type != NAME and t.dim()]
        if others and not (name.startswith(("index", "_index")) and args[0].device.type == NAME):
            kinds = ", ".join(f"{tuple(t.shape)} on {t.device.type}" for t in found)
            raise RuntimeError(f"{name}: tensors on several devices ({kinds}) at {_place()}")
        if self.watch is None:
            return
        masked = "index_put" in name and any(t.dtype == torch.bool for t in found[1:])  # else `nonzero` comes first
        if name in _WAITING or others or masked:
            self.watch.waits[name, _place()] += 1
        if any(t.dtype == torch.float64 for t in found):
            self.watch.float64[name, _place()] += 1

    def _copy(self, source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        crosses = source.device.type != target.device.type
        if crosses and non_blocking and target.device.type == "cpu":
            raise RuntimeError(f"a copy to the CPU that nothing waits for, at {_place()}")
        if self.watch is not None:
            if crosses and not non_blocking:
                self.watch.waits[f"copy to {target.device.type}", _place()] += 1
            if target.device.type == NAME and target.dtype == torch.float64:
                self.watch.float64["copy", _place()] += 1
        on_cpu(target).copy_(on_cpu(source))
        return target

    def _output(self, described: Any, value: Any, schema: Any, by_name: dict[str, Any]) -> Any:
        if isinstance(value, list | tuple):
            return [self._output(described, item, schema, by_name) for item in value]
        if not isinstance(value, Tensor):
            return value
        alias = described.alias_info
        if alias is None:
            return on_device(value)
        sets = alias.before_set
        base = next(by_name[a.name] for a in schema.arguments if a.alias_info and a.alias_info.before_set & sets)
        if alias.is_write:
            if value.shape != base.shape:
                base.data = on_device(value)
            return base
        if value.dtype != base.dtype:
            return on_device(value)
        ahead = (value.data_ptr() - on_cpu(base).data_ptr()) // value.element_size() if value.numel() else 0
        return _viewed(base, value.size(), value.stride(), ahead)


def _viewed(base: Tensor, size: Sequence[int], stride: Sequence[int], ahead: int) -> Tensor:
    view = partial(torch._C._dynamo.guards._reinterpret_tensor, base, size, stride, ahead)
    if base.is_inference() or not torch.is_inference_mode_enabled():
        return view()
    with torch.inference_mode(False):  # a view is of the kind of its base
        return view()


class _DLTensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("index", ctypes.c_int32))


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _relabelled(tensor: Tensor, kind: int) -> Tensor:
    capsule = torch._C._to_dlpack(tensor)
    _DLTensor.from_address(_pointer(capsule, b"dltensor")).kind = kind
    return torch._C._from_dlpack(capsule)


def on_cpu(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the CPU."""
    if tensor.device.type != NAME:
        return tensor
    relabelled = _relabelled(tensor, _CPU)
    relabelled = relabelled.conj() if tensor.is_conj() else relabelled
    return relabelled._neg_view() if tensor.is_neg() else relabelled


def on_device(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the device."""
    return _relabelled(tensor.resolve_conj().resolve_neg(), _EXTENSION)


def _place() -> str:
    """The innermost line of this package, of SAM 3 or of the training's other code that is running."""
    for frame in reversed(traceback.extract_stack(sys._getframe(2))):
        for package in ("sam3_hyperet", "sam3", "lightning_fabric", "torch/optim"):
            if f"/{package}/" in frame.filename:
                return f"{package}/{frame.filename.rpartition(f'/{package}/')[2]}:{frame.lineno} {frame.name}"
    node = torch._C._current_autograd_node()
    return "?" if node is None else f"backward of {node.name()}"


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    return on_device(torch.ops.aten.convolution(*(t if t is None else on_cpu(t) for t in (x, weight, bias)), *options))


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor | None, ...]:
    *shared, transposed, padding, groups, mask = options
    bias = [weight.shape[1] * groups if transposed else weight.shape[0]]
    on = map(on_cpu, (gradient, x, weight))
    found = torch.ops.aten.convolution_backward(*on, bias, *shared, transposed, padding, groups, mask)
    return tuple(one if one is None else on_device(one) for one in found)


def _cast(op: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """An operator under autocast, in the precision `name`, or in the widest of its tensors."""
    every = [t for value in (*args, *kwargs.values()) for t in (value if isinstance(value, list | tuple) else [value])]
    floats = [t.dtype for t in every if isinstance(t, Tensor) and t.is_floating_point() and t.device.type == NAME]
    dtype = getattr(torch, name) if name else torch.float32 if torch.float32 in floats else None

    def cast(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(cast, value))
        is_cast = isinstance(value, Tensor) and value.device.type == NAME and value.is_floating_point()
        return value.to(dtype) if is_cast and dtype is not None and value.dtype != torch.float64 else value

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return op(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})


class _Accelerator(CPUAccelerator):
    """Fabric's accelerator of the device."""

    def setup_device(self, device: torch.device) -> None:
        """There is nothing to set up, and the CPU's would refuse."""


def fabric_on(device: torch.device, precision: str = "32-true") -> Fabric:
    """Fabric with the device as its one accelerator."""
    plugin = MixedPrecision(precision, NAME) if precision == "bf16-mixed" else Precision()
    return Fabric(strategy=SingleDeviceStrategy(device, _Accelerator(), precision=plugin))


class _Module(
    backend_registration._DummyBackendModule if hasattr(backend_registration, "_DummyBackendModule") else object
):
    """`torch.pretend`, as far as PyTorch and Fabric ask for it."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return _backend.available

    is_initialized = is_available

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """The CPU's generator serves."""

    def device(self, index: int) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.random.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        torch.random.set_rng_state(state)


_backend = _Backend()


@cache
def _registered() -> list[torch.library.Library]:
    """Register the device, once for the process; the libraries, which it needs for as long."""

    class Hooks(backend_registration._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return _backend.available

    setup = backend_registration._setup_privateuseone_for_python_backend
    setup(NAME, backend_module=_Module(), hook=Hooks())
    every, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    every.fallback(_backend, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for view in ("Conjugate", "Negative"):  # else a copy asks for a copy without it
        aten.impl("_copy_from", torch.library.fallthrough_kernel, view)
    aten.impl("convolution_overrideable", _convolution, "PrivateUse1")
    aten.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    for name in ("native_group_norm", "native_layer_norm"):  # which CUDA has in one kernel too
        aten.impl(name, partial(_backend, getattr(torch.ops.aten, name).default), "PrivateUse1")
    for dtype, names in _CAST.items():
        for name in names.split():
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            aten.impl(name, partial(_cast, op, dtype), "AutocastPrivateUse1")
    return [every, aten]


@contextlib.contextmanager
def pretend_device(patch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, with what else is asked of CUDA answered for it; skips the test where PyTorch cannot have it."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip(f"PyTorch {torch.__version__} has no backends in Python, as 2.14 has: no pretend accelerator")
    _registered()
    _backend.available = True
    patch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device.type in (NAME, "cuda")), raising=False)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, *args: tensor)
    autocast = torch.amp.autocast
    patch.setattr(torch.amp, "autocast", lambda device_type, *a, **k: autocast(_named(device_type), *a, **k))
    try:
        yield torch.device(NAME, 0)
    finally:
        _backend.available = False


def _named(device_type: str) -> str:
    return NAME if device_type == "cuda" else device_type


@contextlib.contextmanager
def watching() -> Iterator[Watch]:
    """Context that counts what the device is asked."""
    before, _backend.watch = _backend.watch, (watch := Watch())
    try:
        yield watch
    finally:
        _backend.watch = before
