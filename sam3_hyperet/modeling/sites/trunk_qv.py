"""The site `trunk_qv` (scheme P, the paper's): rows of the ViT's query and value weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import adjustments, chosen, extended


class RowAdjustment(AdapterModule):
    """Adjustments of the query and value rows of a fused weight, of one block or several."""

    def __init__(self, name: str, q: HyperET, v: HyperET) -> None:
        super().__init__(name)
        self.q, self.v = q, v

    def site_name(self, child: str) -> str:
        return f"{self.name}.{child}"

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        projections = [module for module in model.modules() if isinstance(module, HyperETProjection)]
        return [(qkv.weight, self(qkv.weight)) for qkv in projections if qkv.adjustment is self]

    def forward(self, weight: Tensor) -> Tensor:
        """W = log_0(M ⊗ exp_0(W_0)) [1] of the q and v rows of a (3D, D) weight."""
        q, k, v = weight.chunk(3)
        return torch.cat([self.q(q, strength=self.dial), k, self.v(v, strength=self.dial)])


class HyperETProjection(nn.Linear):
    """A fused q, k, v projection with an adjusted weight; the frozen one keeps its name, `weight`.

    The adjusted weight is computed in every forward pass; once for all of them within `weights_kept`.
    """

    adjustment: RowAdjustment

    def adjusted_weight(self) -> Tensor:
        """(3D, D) weight with the q and v rows adjusted; the weight itself while the adjustment is off or at 0."""
        if not self.adjustment.enabled or self.adjustment.dial == 0.0:
            return self.weight
        sources = (self.weight, *self.adjustment.parameters())
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trains or torch.compiler.is_compiling() or self not in _kept:
            adjusted: Tensor = self.adjustment(self.weight)
            return adjusted
        kept = _kept[self]
        if kept is None or kept[0] != self.adjustment.dial:
            with torch.inference_mode(False), torch.no_grad():
                _kept[self] = kept = self.adjustment.dial, self.adjustment(self.weight)
        return kept[1]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self in _kept:
            _kept[self] = None  # on another device or of another dtype
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.adjusted_weight(), self.bias)


# Not in the modules, whose copies would take it along and keep it. Each weight with the dial that it is of.
_kept: WeakKeyDictionary[HyperETProjection, tuple[float, Tensor] | None] = WeakKeyDictionary()


@contextmanager
def weights_kept(models: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which the caller, who holds the models, lets nothing write to their weights.

    Adjusted weights are then computed once. No sign of a write is relied upon: `data_ptr` and `_version` of a tensor
    stay the same through `parameter.data.add_`, and where sharded weights are gathered into the memory of before.
    """
    projections = {part for model in models for part in model.modules() if isinstance(part, HyperETProjection)}
    new = projections - set(_kept)  # the others are kept by a context around this one
    _kept.update(dict.fromkeys(new))
    try:
        yield
    finally:
        for projection in new:
            _kept.pop(projection, None)


def install_qv(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the q and v rows, of length D, of the chosen ViT blocks' fused weights."""
    blocks, indices = model.backbone.vision_backbone.trunk.blocks, _blocks(model, config)
    # a dense M for each block would be more than the adapters' 1 % of the parameters
    share = config.structure == "dense" if config.share is None else config.share
    names = ["trunk_qv"] if share else [f"trunk_qv.{i}" for i in indices]
    q, v = (adjustments(config, len(names), blocks[0].attn.qkv.in_features, -1, blocks) for _ in "qv")
    sites = [RowAdjustment(*parts) for parts in zip(names, q, v, strict=True)]
    for place, i in enumerate(indices):
        blocks[i].attn.qkv = qkv = extended(blocks[i].attn.qkv, HyperETProjection, nn.Linear)
        if qkv.out_features != 3 * qkv.in_features:
            shape = tuple(qkv.weight.shape)
            raise ConfigError(f"hyperet: the qkv weight of ViT block {i} has shape {shape}; expected (3D, D)")
        qkv.adjustment = sites[0 if share else place].train(model.training)


def query_key_value_projections(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The fused projections of the chosen ViT blocks."""
    return [f"backbone.vision_backbone.trunk.blocks.{i}.attn.qkv" for i in _blocks(model, config)]


def _blocks(model: host.Sam3Image, config: HyperETConfig) -> tuple[int, ...]:
    return chosen("blocks", config.blocks, len(model.backbone.vision_backbone.trunk.blocks), "ViT block")
