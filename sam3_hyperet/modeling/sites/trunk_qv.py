"""The site `trunk_qv` (scheme P, the paper's): rows of a vision transformer's query and value weights."""

from collections.abc import Iterable, Iterator, Mapping
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

FUSED = "qkv"


class RowAdjustment(AdapterModule):
    """Adjustments of the query and value rows of weights, of one block or several."""

    def __init__(self, name: str, q: HyperET, v: HyperET) -> None:
        super().__init__(name)
        self.q, self.v = q, v

    def site_name(self, child: str) -> str:
        return f"{self.name}.{child}"

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        projections = [module for module in model.modules() if isinstance(module, AdjustedWeight)]
        return [(one.frozen_weight, self(one.frozen_weight, one.part)) for one in projections if one.adjustment is self]

    def forward(self, weight: Tensor, part: str = FUSED) -> Tensor:
        """W = log_0(M ⊗ exp_0(W_0)) [1] of a weight's rows of length D.

        `part`: "q" or "v" are all of them; "qkv", the q and v rows of a (3A, D) weight.
        """
        if part != FUSED:
            rows: Tensor = getattr(self, part)(weight, strength=self.dial)
            return rows
        q, k, v = weight.chunk(3)
        return torch.cat([self.q(q, strength=self.dial), k, self.v(v, strength=self.dial)])


class AdjustedWeight(nn.Module):
    """A projection with an adjusted weight; the frozen one keeps its name, `frozen_name`.

    The adjusted weight is computed in every forward pass; once for all of them within `weights_kept`.
    """

    adjustment: RowAdjustment
    part: str = FUSED
    frozen_name = "weight"

    @property
    def frozen_weight(self) -> Tensor:
        """The base's weight."""
        weight = self._parameters[self.frozen_name]
        assert weight is not None
        return weight

    def adjusted_weight(self) -> Tensor:
        """The weight with its q and v rows adjusted; the frozen one itself while the adjustment is off or at 0."""
        weight = self.frozen_weight
        if not self.adjustment.enabled or self.adjustment.dial == 0.0:
            return weight
        sources = (weight, *self.adjustment.parameters())
        trains = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trains or torch.compiler.is_compiling() or self not in _kept:
            adjusted: Tensor = self.adjustment(weight, self.part)
            return adjusted
        kept = _kept[self]
        if kept is None or kept[0] != self.adjustment.dial:
            with torch.inference_mode(False), torch.no_grad():
                _kept[self] = kept = self.adjustment.dial, self.adjustment(weight, self.part)
        return kept[1]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self in _kept:
            _kept[self] = None  # on another device or of another dtype
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


class HyperETProjection(AdjustedWeight, nn.Linear):
    """A linear projection with an adjusted weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.adjusted_weight(), self.bias)


# Not in the modules, whose copies would take it along and keep it. Each weight with the dial that it is of.
_kept: WeakKeyDictionary[AdjustedWeight, tuple[float, Tensor] | None] = WeakKeyDictionary()


@contextmanager
def weights_kept(models: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which the caller, who holds the models, lets nothing write to their weights.

    Adjusted weights are then computed once. No sign of a write is relied upon: `data_ptr` and `_version` of a tensor
    stay the same through `parameter.data.add_`, and where sharded weights are gathered into the memory of before.
    """
    projections = {part for model in models for part in model.modules() if isinstance(part, AdjustedWeight)}
    new = projections - set(_kept)  # the others are kept by a context around this one
    _kept.update(dict.fromkeys(new))
    try:
        yield
    finally:
        for projection in new:
            _kept.pop(projection, None)


def install_qv(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the q and v rows, of length D, of the chosen ViT blocks' fused weights."""
    indices, projections = _blocks(model, config), {}
    blocks = model.backbone.vision_backbone.trunk.blocks
    for i in indices:
        blocks[i].attn.qkv = qkv = extended(blocks[i].attn.qkv, HyperETProjection, nn.Linear)
        if qkv.out_features != 3 * qkv.in_features:
            shape = tuple(qkv.weight.shape)
            raise ConfigError(f"hyperet: the qkv weight of ViT block {i} has shape {shape}; expected (3D, D)")
        projections[i] = [qkv]
    adjust_rows(projections, config, training=model.training)


def adjust_rows(blocks: Mapping[int, Iterable[AdjustedWeight]], config: HyperETConfig, *, training: bool) -> None:
    """Give the projections of each block, by its index, an adjustment; where blocks share it, those of one width."""
    # a dense M for each block would be more than the adapters' 1 % of the parameters
    share = config.structure == "dense" if config.share is None else config.share
    rows = {i: next(iter(block)).frozen_weight for i, block in blocks.items()}
    widths = {weight.shape[1] for weight in rows.values()}
    sites: dict[str, RowAdjustment] = {}
    for i, block in blocks.items():
        width = rows[i].shape[1]
        name = f"trunk_qv.{i}" if not share else "trunk_qv" if len(widths) == 1 else f"trunk_qv.of_{width}"
        if name not in sites:
            q, v = adjustments(config, 2, width, -1, next(iter(block)))
            sites[name] = RowAdjustment(name, q, v).train(training)
        for projection in block:
            projection.adjustment = sites[name]


def query_key_value_projections(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The fused projections of the chosen ViT blocks."""
    return [f"backbone.vision_backbone.trunk.blocks.{i}.attn.qkv" for i in _blocks(model, config)]


def _blocks(model: host.Sam3Image, config: HyperETConfig) -> tuple[int, ...]:
    trunk = model.backbone.vision_backbone.trunk
    if not isinstance(trunk, host.ViT):
        found = f"found a {type(trunk).__module__}.{type(trunk).__qualname__} as the model's image trunk"
        raise ConfigError(f"scheme P: {found}, which is not SAM 3's; expected its ViT, or a scheme without trunk_qv")
    return chosen("blocks", config.blocks, len(trunk.blocks), "ViT block")
