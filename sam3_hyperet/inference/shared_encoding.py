"""Encoders that several models share run once for each input: trunk and neck, and the text encoder."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted

_Outputs = dict[tuple[object, ...], tuple[Sequence[Tensor], Any]]


class LastInput:
    """Outputs of modules for the last inputs, so many of them, by the tensors that the modules consist of."""

    def __init__(self, inputs: int = 1) -> None:
        self._kept = deque[tuple[object, _Outputs]](maxlen=inputs)

    def output(
        self, module: nn.Module, x: object, compute: Callable[[], Any], reuse: Callable[[Any, Any], Any] | None = None
    ) -> Any:
        """The result of `compute` for `x`, once for all modules of these very tensors and in this precision; but anew
        each time where the tensors are being trained.

        `reuse` makes a result that takes over, from one for an earlier input, what is the same in both.
        """
        if not torch.is_inference_mode_enabled() and any(p.requires_grad for p in module.parameters()):
            self._kept.clear()  # a step will change the weights
            return compute()
        outputs = next((outputs for known, outputs in self._kept if _equal(x, known)), None)
        if outputs is None:
            outputs = {}
            self._kept.append((x, outputs))
        tensors = [*module.parameters(), *module.buffers()]
        device = tensors[0].device.type
        precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        # what inference mode computes is of no use for a gradient
        state = (torch.is_inference_mode_enabled(), precision, *map(id, tensors))
        if state not in outputs:
            result = compute()
            earlier = next((found[state][1] for _, found in self._kept if state in found), None)
            if reuse and earlier is not None:
                result = reuse(result, earlier)
            outputs[state] = tensors, result  # the tensors as well: another one could get a dead one's id
        return outputs[state][1]


class RememberingVision(host.Sam3DualViTDetNeck):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's trunk and neck with the output for the last image kept."""

    last: LastInput

    def forward(self, tensor_list: Tensor) -> Any:
        return self.last.output(self, tensor_list, partial(super().forward, tensor_list), _with_its_positions)


class RememberingText(host.VETextEncoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's text encoder with the output for the last vocabulary kept."""

    last: LastInput

    def forward(self, text: Sequence[str], input_boxes: object = None, device: object = None) -> Any:
        encode = partial(super().forward, text, input_boxes, device)
        return encode() if input_boxes else self.last.output(self, list(text), encode)


@contextmanager
def shared_encoding(models: Iterable[host.Sam3Image], inputs: int = 1, texts: int = 1) -> Iterator[None]:
    """Context in which models whose encoders are the same tensors share the encoders' outputs.

    It pays where all models process an image before any of them gets the next one. The outputs for the last image stay
    in memory, of images in tiles those for the last `inputs` tiles, and for the last `texts` lists of texts. Encoders
    with adapters in them, as scheme P's, are left alone. The caller, who holds the models, lets nothing but training
    steps write to their weights; a context within another one remembers nothing from before.
    """
    vision, text = LastInput(inputs), LastInput(texts)
    with ExitStack() as stack:
        for backbone in {id(model.backbone): model.backbone for model in models}.values():
            _remember(stack, backbone, "vision_backbone", RememberingVision, vision)
            _remember(stack, backbone, "language_backbone", RememberingText, text)
        yield


def _remember(stack: ExitStack, backbone: nn.Module, name: str, remembering: type[Any], last: LastInput) -> None:
    module: nn.Module = getattr(backbone, name)
    if type(module) not in (remembering.__base__, remembering) or not all(map(is_stock, module.children())):
        return
    replaced = converted(module, remembering)
    replaced.last = last
    setattr(backbone, name, replaced)
    stack.callback(setattr, backbone, name, module)


def is_stock(module: nn.Module) -> bool:
    """Whether a module and all in it are PyTorch's, timm's or SAM 3's own, run by their own forward."""
    every = (type(one).__module__.split(".")[0] in ("torch", "timm", "sam3") for one in module.modules())
    return all(every) and not any("forward" in vars(one) for one in module.modules())


def _with_its_positions(output: Any, earlier: Any) -> Any:
    """SAM 3's output with an earlier one's position encodings, as large as features and the same for all images."""
    features, positions, *of_tracker = output
    pairs = zip(positions, earlier[1], strict=True)
    return features, [old if old.shape == new.shape else new for new, old in pairs], *of_tracker


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.device == other.device and torch.equal(one, other)
    return type(one) is type(other) and one == other
