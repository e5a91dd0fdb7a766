# ruff: noqa: F401  # other modules take sam3's names from here
# mypy: implicit-reexport
"""The one door to `sam3`: what the package uses of it, and every workaround that this needs.

sam3 (SAM License) is a dependency: it is imported and subclassed here, never copied. Importing this module takes about
five seconds, because any import of sam3 loads its video stack. What it works around:

- importing sam3 switches TF32 on for the whole process (restored) and warns (silenced for the import alone);
- `psutil`, `torchmetrics`, `scipy` and `triton` are needed but undeclared (one clear `HostError`);
- the wheel lacks the CLIP vocabulary (the identical file in `open_clip` is used);
- `SequenceGeometryEncoder` pins memory, which raises without a CUDA driver (`GeometryEncoder`);
- the focal losses call a Triton kernel whatever the device (a plain version takes the tensors that are not on CUDA),
  and that kernel's gradient is not a number for γ = 0 (the plain version again);
- the Dice loss catches the error of a device that runs out of memory, and computes on the CPU: the step would not be
  repeated with less of it (`dice_loss` without that takes its place);
- the matcher raises on costs that are not numbers, so that a loss could not be (such costs count as the worst);
- a model that has run keeps tensors on its device that `to` does not move (`to_device`, `MovableSam3Image`);
- device "cuda" is hard-coded in places: `build.py` passes the arguments that avoid it.
"""

import collections
import contextlib
import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sam3_hyperet.errors import HostError
from sam3_hyperet.precision import tf32_settings

_UNDECLARED = ("psutil", "torchmetrics", "scipy", "triton", "open_clip")
_missing = [name for name in ("sam3", *_UNDECLARED) if importlib.util.find_spec(name) is None]
if _missing:
    raise HostError(f"sam3 cannot be used: missing {', '.join(_missing)}; `pip install sam3_hyperet` brings them all")


_tf32 = tf32_settings()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import triton
        from sam3.model.data_misc import FindStage
        from sam3.model.decoder import TransformerDecoder, TransformerDecoderLayer
        from sam3.model.encoder import TransformerEncoderFusion, TransformerEncoderLayer
        from sam3.model.geometry_encoders import Prompt as GeometricPrompt
        from sam3.model.geometry_encoders import SequenceGeometryEncoder
        from sam3.model.maskformer_segmentation import PixelDecoder, UniversalSegmentationHead
        from sam3.model.model_misc import MLP, DotProductScoring, SAM3Output, TransformerWrapper
        from sam3.model.model_misc import MultiheadAttentionWrapper as MultiheadAttention
        from sam3.model.necks import Sam3DualViTDetNeck
        from sam3.model.position_encoding import PositionEmbeddingSine
        from sam3.model.sam3_image import Sam3Image
        from sam3.model.sam3_image_processor import Sam3Processor
        from sam3.model.text_encoder_ve import VETextEncoder
        from sam3.model.tokenizer_ve import SimpleTokenizer
        from sam3.model.vitdet import ViT
        from sam3.model.vl_combiner import SAM3VLBackbone
        from sam3.train import matcher as sam3_matcher
        from sam3.train.data.collator import BatchedDatapoint, collate_fn_api
        from sam3.train.data.sam3_image_dataset import Datapoint, FindQueryLoaded, Image, InferenceMetadata, Object
        from sam3.train.loss import loss_fns
        from sam3.train.loss import sigmoid_focal_loss as triton_losses
        from sam3.train.loss.sam3_loss import Sam3LossWrapper
        from sam3.train.matcher import BinaryHungarianMatcherV2, BinaryOneToManyMatcher
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        found = importlib.metadata.version("sam3")
        raise HostError(f"sam3 {found} lacks what this package extends ({error}); expected sam3>=0.1.4") from error
for _owner, _attribute, _value in _tf32:
    setattr(_owner, _attribute, _value)

SAM3_VERSION = importlib.metadata.version("sam3")
CONTEXT_LENGTH = 32  # tokens of a prompt, start and end included


def _assert_contract() -> None:
    """Raise a HostError where sam3 has changed what this package needs."""
    focal = ("triton_sigmoid_focal_loss", "triton_sigmoid_focal_loss_reduce")
    replaced = {sam3_matcher: ("linear_sum_assignment",), loss_fns: (*focal, "dice_loss", "_dice_loss")}
    lacking = [f"{m.__name__} has no {name}" for m, names in replaced.items() for name in names if not hasattr(m, name)]
    expected: dict[Callable[..., Any], set[str]] = {
        SAM3VLBackbone._forward_image_no_act_ckpt: {"samples"},
        SAM3VLBackbone._forward_text_no_ack_ckpt: {"captions", "input_boxes", "additional_text", "device"},
        SAM3VLBackbone.forward_text: {"captions", "device"},
        TransformerEncoderLayer.forward_pre: {"tgt", "memory", "query_pos", "memory_key_padding_mask"},
        Sam3Image.forward_grounding: {"backbone_out", "find_input", "find_target", "geometric_prompt"},
        Sam3Image._encode_prompt: {"backbone_out", "find_input", "geometric_prompt", "encode_text"},
        Sam3Image._run_encoder: {"backbone_out", "find_input", "prompt", "prompt_mask"},
        Sam3Image._run_decoder: {"pos_embed", "memory", "src_mask", "out", "prompt", "prompt_mask", "encoder_out"},
        Sam3Image._run_segmentation_heads: {"out", "backbone_out", "img_ids", "encoder_hidden_states", "hs"},
        GeometricPrompt.__init__: {"box_embeddings", "box_mask", "box_labels"},
        SequenceGeometryEncoder._encode_boxes: {"boxes", "boxes_mask", "boxes_labels", "img_feats"},
        Sam3LossWrapper._get_num_boxes: {"targets"},
        PositionEmbeddingSine.__init__: {"precompute_resolution"},
        TransformerDecoder.__init__: {"resolution", "stride", "use_act_checkpoint"},
    }
    for function, parameters in expected.items():
        if absent := parameters - set(inspect.signature(function).parameters):
            lacking.append(f"{function.__qualname__} has no parameter {sorted(absent)}")
    if lacking:
        raise HostError(f"sam3 {SAM3_VERSION}: {', '.join(lacking)}; expected sam3>=0.1.4")


_assert_contract()
_triton_focal: Callable[..., torch.Tensor] = loss_fns.triton_sigmoid_focal_loss
_triton_focal_sum: Callable[..., torch.Tensor] = loss_fns.triton_sigmoid_focal_loss_reduce


def _focal(inputs: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2) -> torch.Tensor:
    """Sigmoid focal loss of every element (Lin et al. 2017, eq. 5); Triton's kernel where the tensors are on CUDA.

    Its gradient for γ = 0, as in the presence loss, is not a number for right logits from 16.6 on.
    """
    if inputs.is_cuda and gamma > 0:
        return _triton_focal(inputs, targets, alpha, gamma)
    targets = targets.to(inputs.dtype)
    cross_entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    probability = inputs.sigmoid()
    missed = probability + targets - 2 * probability * targets
    return (alpha * targets + (1 - alpha) * (1 - targets)) * cross_entropy * missed**gamma


def _focal_sum(inputs: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2) -> torch.Tensor:
    """Sum of `_focal` over all elements."""
    if inputs.is_cuda and gamma > 0:
        return _triton_focal_sum(inputs, targets, alpha, gamma)
    return _focal(inputs, targets, alpha, gamma).sum()


@contextlib.contextmanager
def without_focal_kernels() -> Iterator[None]:
    """Context in which the focal losses on CUDA make the tensors they make, and compute nothing."""
    kernels = {name: value for name, value in vars(triton_losses).items() if isinstance(value, triton.JITFunction)}
    vars(triton_losses).update({name: collections.defaultdict(lambda: _no_kernel) for name in kernels})
    try:
        yield
    finally:
        vars(triton_losses).update(kernels)


def _no_kernel(*_: object) -> None:
    """Compute nothing."""


class _WithoutPinnedMemory(TorchFunctionMode):
    """Within it `Tensor.pin_memory()` returns the tensor itself: pinning needs a CUDA driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func is torch.Tensor.pin_memory else func(*args, **(kwargs or {}))


class GeometryEncoder(SequenceGeometryEncoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's encoder of box and point prompts, without the need of a CUDA driver."""

    def _encode_boxes(self, boxes: Any, boxes_mask: Any, boxes_labels: Any, img_feats: Any) -> Any:
        with contextlib.nullcontext() if img_feats.is_cuda else _WithoutPinnedMemory():
            return super()._encode_boxes(boxes, boxes_mask, boxes_labels, img_feats)


def clear_caches(model: torch.nn.Module) -> None:
    """Drop the tensors and devices that SAM 3 caches outside its state dict."""
    for module in model.modules():
        if isinstance(module, PositionEmbeddingSine):
            module.cache = {}
        elif isinstance(module, TransformerDecoder):
            module.compilable_cord_cache = module.compilable_stored_size = None
            module.coord_cache = {}
        if "_device" in vars(module):
            vars(module)["_device"] = None


def to_device(model: Sam3Image, device: str | torch.device) -> Sam3Image:
    """Move a SAM 3 model of any builder, without what it cached when it ran."""
    clear_caches(model)
    return model.to(device)


class MovableSam3Image(Sam3Image):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's image model, which `to` and `cuda` move even after it has run."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        clear_caches(self)
        return super()._apply(fn, recurse)


def vocabulary_path() -> str:
    """Path of CLIP's byte-pair vocabulary in open_clip, which sam3's wheel lacks."""
    spec = importlib.util.find_spec("open_clip")
    path = Path(spec.origin or "").parent / "bpe_simple_vocab_16e6.txt.gz" if spec else Path()
    if not path.is_file():
        raise HostError(f"open_clip_torch has no vocabulary at {path}; reinstall open_clip_torch>=2.30")
    return str(path)


def collate(datapoints: Sequence[Datapoint]) -> BatchedDatapoint:
    """Batch datapoints, with their masks, as `Sam3Image.forward` and the losses take them."""
    return collate_fn_api(list(datapoints), dict_key="batch", with_seg_masks=True, repeats=1)["batch"]


def _assign(cost: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cheapest assignment of rows to columns; costs that are not finite count as the worst."""
    rows, columns = linear_sum_assignment(np.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=-1e9))
    return rows, columns


sam3_matcher.linear_sum_assignment = _assign
loss_fns.triton_sigmoid_focal_loss, loss_fns.triton_sigmoid_focal_loss_reduce = _focal, _focal_sum
loss_fns.dice_loss = loss_fns._dice_loss
