"""Hyperbolic radii of the patch features of vision encoders, by layer: the study of HyperET's poster [1].

Norms of two encoders' features are no measure of granularity by themselves: they grow with the width D, and a last
LayerNorm sets them. So radii are also given of v / s, where the scale s is √D ("width": c / D in place of c), the
median norm of the layer ("median") or 1 ("none"); and as a spread, which depends on neither s nor c.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam3_hyperet.choices import RADIUS_SCALES
from sam3_hyperet.data.image_files import read_image
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.radius import radius_statistics
from sam3_hyperet.modeling.encoders.opening import Encoder, block_features, without_prefix
from sam3_hyperet.options import one_of
from sam3_hyperet.precision import autocast

OUTPUT = "output"


@dataclass(frozen=True)
class LayerRadii:
    """Radii of one layer of one encoder at one resolution.

    Attributes:
        depth: i / n behind the i-th of n blocks, so 1 behind the last one; 1 of what the encoder returns.
        positions, channels: how many features there are, of how many channels.
        statistics: `radius/…` of 2‖v‖ and `normalized_radius/…` of tanh(√c‖v‖/s), each with mean, std, min, q05 … q95
            and max; `saturation`; `spread`, (q95 − q05) / q50 of the radius.
    """

    encoder: str
    family: str
    weights: str
    parameters: int
    resolution: int
    layer: str
    depth: float
    channels: int
    positions: int
    statistics: dict[str, float]


def measure_radii(
    encoder: Encoder,
    paths: Sequence[Path],
    curvature: float = 1.0,
    scale: str = "width",
    batch_size: int = 8,
    precision: str = "32-true",
    on_image: Callable[[], None] = lambda: None,
) -> list[LayerRadii]:
    """Radii of the patch features behind each block, and of what the encoder returns, over images.

    Each image is squashed to a square. `precision` is a resolved one. Raises DataError for an image that cannot be
    read, and ConfigError for an unknown scale.
    """
    one_of("scale", scale, RADIUS_SCALES)
    lengths: dict[str, list[Tensor]] = {name: [] for name in (*encoder.blocks, OUTPUT)}
    channels: dict[str, int] = {}
    device = next(encoder.model.parameters()).device
    with torch.inference_mode(), block_features(encoder) as found:
        for batch in _batches(paths, batch_size):
            pixels = torch.stack([encoder_input(read_image(path, upright=True), encoder) for path in batch]).to(device)
            with autocast(precision, device.type):
                output = encoder.features(pixels)
            is_map = output.ndim == 4
            found[OUTPUT] = output.flatten(2).mT if is_map else without_prefix(encoder, output)
            for name, features in found.items():
                channels[name] = features.shape[-1]
                lengths[name].append(norm(features.float(), -1).flatten().cpu())
            for _ in batch:
                on_image()
    parameters = sum(parameter.numel() for parameter in encoder.model.parameters())
    names = (encoder.name, encoder.family, encoder.weights, parameters, encoder.resolution)
    rows = []
    for i, (layer, parts) in enumerate(lengths.items(), start=1):
        length, depth = torch.cat(parts), min(1.0, i / len(encoder.blocks))
        statistics = radii_of(length, channels[layer], curvature, scale)
        rows.append(LayerRadii(*names, layer, depth, channels[layer], len(length), statistics))
    return rows


def radii_of(length: Tensor, channels: int, curvature: float, scale: str) -> dict[str, float]:
    """Statistics of features of these norms, as `LayerRadii` has them."""
    divisor = {"none": 1.0, "width": channels**0.5, "median": float(length.median())}[scale] or 1.0
    raw, scaled = length[:, None], (length / divisor)[:, None]
    found = {key: value for key, value in radius_statistics(raw, curvature).items() if key.startswith("radius/")}
    normalised = {k: v for k, v in radius_statistics(scaled, curvature).items() if not k.startswith("radius/")}
    for kind, values in (("radius", 2.0 * length), ("normalized_radius", torch.tanh(curvature**0.5 * scaled))):
        normalised |= {f"{kind}/min": values.min().item(), f"{kind}/max": values.max().item()}
    middle = found["radius/q50"]
    spread = (found["radius/q95"] - found["radius/q05"]) / middle if middle else 0.0
    return {**found, **normalised, "spread": spread}


def encoder_input(image: Image.Image, encoder: Encoder) -> Tensor:
    """(3, S, S) pixels of an image, squashed to the encoder's resolution and normalised as it expects them."""
    square = image.resize((encoder.resolution, encoder.resolution), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(square, np.float32).copy()).permute(2, 0, 1) / 255.0
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    return (pixels - mean) / std


def _batches(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    listed = list(paths)
    yield from (listed[start : start + size] for start in range(0, len(listed), size))
