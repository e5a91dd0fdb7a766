"""A device of tensors without memory or values, which counts what they would take; it needs no GPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from sam3_hyperet import sam3_host as host

aten = torch.ops.aten
_BLOCK = 512  # bytes: CUDA's allocator rounds up to it
_KNOWN_ELEMENTS = 1 << 16  # tensors up to this size keep their values where all they are made of has values
_FACTORIES_WITHOUT_VALUES = (aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default)


class FakeDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch, its __init_subclass__
    """Counter of the memory that tensors on "cpu" or "cuda" would take; within `fake_device` alone.

    Small tensors keep their values where these follow from known ones, such as shapes and numbers of targets. What
    depends on values that nobody knows is taken to be true, or 1; a mask of unknown values selects everything.

    Attributes:
        kind: "cpu" or "cuda".
        bytes: of the tensors that are alive.
        peak: the most that it has been.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind, self.bytes, self.peak = kind, 0, 0
        self._sizes: dict[int, int] = {}
        self._values: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()

    def tensor(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype, values: Tensor | None = None) -> Tensor:
        """A tensor of the device, whose small `values` may be known."""
        made = torch.empty(shape, dtype=dtype, device=self.kind)
        if values is not None and values.numel() <= _KNOWN_ELEMENTS:
            self._values[made] = values
        return made

    def __torch_dispatch__(self, function: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.prim.device.default:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else function(*args)
        if function is aten._pin_memory.default:
            return args[0]
        values = [self._value(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_known = all(value is not None for value in values)
        if function is aten._local_scalar_dense.default:
            return self._scalar(args[0], values[0])
        if function is aten.index.Tensor:
            args = (args[0], [index for mask in args[1] for index in self._selected(mask)])
        if function in (aten.nonzero.default, aten._unique2.default):
            result = tree_map(self._copied, self._real(function, args, kwargs))
        else:
            result = function(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._count(tensor)
        if is_known and function not in _FACTORIES_WITHOUT_VALUES and self._may_compute(function, made):
            real = [one for one in tree_leaves(self._real(function, args, kwargs)) if isinstance(one, Tensor)]
            self._values.update(zip(made, real, strict=True))
        elif function._schema.is_mutable:
            self._forget_written(function, args)
        return result

    def _value(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor, on the CPU; None where they are not known."""
        return self._values.get(tensor) if isinstance(tensor, FakeTensor) else tensor

    def _scalar(self, tensor: Tensor, value: Tensor | None) -> object:
        if value is None:
            return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1
        with _disable_current_modes():
            return value.item()

    def _selected(self, mask: Tensor | None) -> list[Any]:
        """The indices that a mask selects, of each of its dimensions; any other index as it is."""
        if mask is None or mask.dtype != torch.bool:
            return [mask]
        known = self._value(mask)
        with _disable_current_modes():
            chosen = (torch.ones(mask.shape, dtype=torch.bool) if known is None else known).nonzero(as_tuple=True)
        return [self._copied(indices) for indices in chosen]

    def _copied(self, real: Any) -> Any:
        """A tensor of the device with these values; any other object as it is."""
        return self.tensor(real.shape, real.dtype, real) if isinstance(real, Tensor) else real

    def _real(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The function's result on the values themselves. Raises RuntimeError where they are not known."""

        def real(leaf: object) -> object:
            if isinstance(leaf, Tensor):
                value = self._value(leaf)
                if value is None:
                    raise RuntimeError(f"{function} has a shape that depends on values")
                return value
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        args, kwargs = tree_map(real, args), tree_map(real, kwargs)
        with _disable_current_modes():
            return function(*args, **kwargs)

    @staticmethod
    def _may_compute(function: Any, made: list[Tensor]) -> bool:
        is_random = torch.Tag.nondeterministic_seeded in function.tags
        return bool(made) and not is_random and all(tensor.numel() <= _KNOWN_ELEMENTS for tensor in made)

    def _forget_written(self, function: Any, args: Any) -> None:
        """Forget the values of what was written to, and of all views of it."""
        for argument, tensor in zip(function._schema.arguments, args, strict=False):
            is_written = argument.alias_info is not None and argument.alias_info.is_write
            if is_written and isinstance(tensor, Tensor) and tensor in self._values:
                memory = self._values[tensor].untyped_storage().data_ptr()
                views = [one for one, v in self._values.items() if v.untyped_storage().data_ptr() == memory]
                for view in views:
                    del self._values[view]

    def _count(self, tensor: Tensor) -> None:
        device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
        if device.type != self.kind:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = size = -(-storage.nbytes() // _BLOCK) * _BLOCK
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key, 0)


@contextmanager
def fake_device(kind: str) -> Iterator[FakeDevice]:
    """Context in which all tensors are fake; those on the device `kind`, "cpu" or "cuda", are counted.

    On "cuda" attention takes the kernels that PyTorch takes on a card: flash attention for bfloat16 without a mask,
    else the memory-efficient one; SAM 3's Triton kernels make their tensors and compute nothing.
    """
    with ExitStack() as stack:
        if kind == "cuda":
            # a card that is there would give small tensors to the real device, and their values with them
            stack.enter_context(_replaced(torch.cuda, "is_available", lambda: False))
            stack.enter_context(_replaced(torch.cuda, "_initialized", False))
            common = torch.cuda.amp.common
            stack.enter_context(_replaced(F, "scaled_dot_product_attention", _attention_on_cuda))
            stack.enter_context(_replaced(common, "amp_definitely_not_available", lambda: False))
            stack.enter_context(_replaced(torch.cuda, "is_bf16_supported", lambda *_, **__: True))
            stack.enter_context(host.without_focal_kernels())
        # `checkpoint` recomputes once for each of PyTorch's backward passes, of which there is none here
        stack.enter_context(_replaced(torch._C, "_current_graph_task_id", lambda: 1))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(FakeDevice(kind))


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _attention_on_cuda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with the kernel of a card, which PyTorch would not choose without one."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = (part.to(dtype) for part in (q, k, v))
        if attn_mask is not None and attn_mask.is_floating_point():
            attn_mask = attn_mask.to(dtype)
    attended: Tensor
    if attn_mask is None and q.dtype != torch.float32:
        attended = aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
        return attended
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype)
        attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
    has_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
    attended = aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, has_gradient, dropout_p, is_causal, scale=scale
    )[0]
    return attended
