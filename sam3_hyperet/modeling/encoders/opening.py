"""Vision encoders by name: timm's, transformers', and SAM 3's own trunk, with the user's weights or random ones."""

import contextlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.encoders.attention import chosen_attentions
from sam3_hyperet.options import close

SOURCES = ("timm", "transformers", "sam3")
RANDOM = "random"
_FAMILIES = ("dinov3", "dinov2", "dino", "siglip", "clip", "sam3", "sam2", "sam", "eva", "beit", "mae", "deit", "swin")
_HALF, _IMAGENET = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_MOST_TOKENS = 16  # that are no patches: of the class and registers
_PARTS = ("vision_model", "vision_encoder", "vision_tower")  # of models with a text tower or a decoder
_LIBRARY_ERRORS = (OSError, ValueError, TypeError, AssertionError, RuntimeError, KeyError, AttributeError)


@dataclass(frozen=True)
class Encoder:
    """A vision encoder at one resolution.

    Attributes:
        name, family: as given, and the first known family that the name has, else the model's class.
        blocks: names of its blocks in `model`.
        patch: side of a patch in pixels.
        mean, std: of its input, for values of pixels from 0 to 1.
        weights: "random", or where they are from.
    """

    name: str
    family: str
    model: nn.Module
    resolution: int
    blocks: tuple[str, ...]
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    options: Mapping[str, Any]

    def features(self, pixels: Tensor) -> Tensor:
        """What it returns for (B, 3, S, S) normalised pixels: tokens (B, N, C), or a map (B, C, H, W).

        Raises ConfigError for pixels of a size that the model does not take.
        """
        source = self.name.partition(":")[0]
        try:
            output: Any = self.model(pixels, **self.options) if source != "timm" else self._timm(pixels)
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"encoder={self.name} at {self.resolution}: {_line(error)}") from error
        if isinstance(output, list | tuple):
            output = output[-1]
        features: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
        return features

    def _timm(self, pixels: Tensor) -> Tensor:
        model: Any = self.model
        features: Tensor = model.forward_features(pixels)
        is_last = features.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NHWC"
        return features.movedim(-1, 1) if is_last else features


def open_encoder(
    name: str,
    resolution: int,
    weights: str | None = None,
    *,
    pretrained: bool = False,
    seed: int = 0,
    empty: bool = False,
) -> Encoder:
    """The encoder `timm:NAME`, `transformers:FOLDER_OR_NAME` or `sam3:tiny|tiny_levels|large` in evaluation mode.

    Args:
        resolution: side of its square input.
        weights: a file of weights of timm's or SAM 3's model; a folder of transformers has its own.
        pretrained: load published weights, from the hub where they are not at hand.
        seed: of random weights.
        empty: only what it is made of, on PyTorch's meta device: no weights are loaded or made.

    Raises ConfigError: no such encoder, weights that do not load, no attention of the kinds that `inject_qv` finds, or
    a resolution that it cannot have.
    """
    source, _, own = name.partition(":")
    if source not in SOURCES or not own:
        raise ConfigError(f"encoder={name}; expected {':NAME, '.join(SOURCES)}:NAME{close(source, SOURCES)}")
    opener = {"timm": _open_timm, "transformers": _open_transformers, "sam3": _open_sam3}[source]
    try:
        with torch.random.fork_rng(), torch.device("meta") if empty else contextlib.nullcontext():
            torch.manual_seed(seed)
            model, origin, (mean, std) = opener(own, resolution, weights, pretrained, empty)
    except ConfigError:
        raise
    except _LIBRARY_ERRORS as error:
        raise ConfigError(f"encoder={name} at {resolution}: {_line(error)}") from error
    patch = _patch(model, name)
    if resolution % patch:
        below = resolution // patch * patch
        nearest = " or ".join(str(side) for side in (below, below + patch) if side)
        raise ConfigError(f"resolution={resolution}: {name} has patches of {patch} pixels; expected {nearest}")
    blocks = tuple(dict.fromkeys(map(_block, chosen_attentions(model, None))))
    family = next((one for one in _FAMILIES if one in name.lower()), type(model).__name__)
    takes = source == "transformers" and "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    options = {"interpolate_pos_encoding": True} if takes else {}
    return Encoder(name, family, model.eval(), resolution, blocks, patch, mean, std, origin, options)


@contextlib.contextmanager
def block_features(encoder: Encoder) -> Iterator[dict[str, Tensor]]:
    """Context in which a pass of the encoder leaves the patches' features of each block, (B, P, C), in the mapping.

    Tokens of the class and registers are left out; a map (B, H, W, C) of a block is taken as its patches.
    """
    found: dict[str, Tensor] = {}
    with contextlib.ExitStack() as hooks:
        for name in encoder.blocks:

            def record(module: nn.Module, inputs: object, output: Any, name: str = name) -> None:
                features = output[0] if isinstance(output, tuple) else output
                found[name] = features.flatten(1, 2) if features.ndim == 4 else without_prefix(encoder, features)

            hooks.enter_context(encoder.model.get_submodule(name).register_forward_hook(record))
        yield found


def without_prefix(encoder: Encoder, tokens: Tensor) -> Tensor:
    """The patches' tokens of (B, N, C), behind those of the class and registers."""
    extra = tokens.shape[1] - (encoder.resolution // encoder.patch) ** 2
    if extra < 0:  # patches were merged, or a stem of convolutions made them
        extra = int(getattr(encoder.model, "num_prefix_tokens", 0))
    if extra > _MOST_TOKENS:
        raise ConfigError(
            f"encoder={encoder.name}: {tokens.shape[1]} tokens at {encoder.resolution} pixels, in patches of "
            f"{encoder.patch}; expected at most {_MOST_TOKENS} beside those of patches"
        )
    return tokens[:, extra:]


def check_encoder(name: str, resolution: int, weights: str | None = None) -> None:
    """Raise a ConfigError for an encoder that does not open or run at this resolution; no weights are loaded."""
    encoder = open_encoder(name, resolution, weights, empty=True)
    with contextlib.suppress(NotImplementedError, RuntimeError):  # what the meta device lacks
        encoder.features(torch.empty(1, 3, resolution, resolution, device="meta"))


_Opened = tuple[nn.Module, str, tuple[tuple[float, ...], tuple[float, ...]]]


def _open_timm(name: str, side: int, weights: str | None, pretrained: bool, empty: bool) -> _Opened:
    import timm

    if ":" not in name and not timm.is_model(name):
        raise ConfigError(f"encoder=timm:{name}: timm has no such model{close(name, timm.list_models())}")
    overlay = {"file": weights} if weights else None
    load = not empty and (pretrained or weights is not None)
    if weights and not Path(weights).is_file():
        raise ConfigError(f"weights={weights}: no such file")
    model = timm.create_model(name, pretrained=load, pretrained_cfg_overlay=overlay, num_classes=0, img_size=side)
    cfg: Any = model.pretrained_cfg
    return model, weights or ("timm's hub" if pretrained else RANDOM), (tuple(cfg["mean"]), tuple(cfg["std"]))


def _open_transformers(name: str, side: int, weights: str | None, pretrained: bool, empty: bool) -> _Opened:
    try:
        from transformers import AutoConfig, AutoModel
        from transformers.utils.hub import cached_file
    except ImportError:
        raise ConfigError('encoder=transformers: needs the package; pip install "sam3_hyperet[encoders]"') from None
    if weights:
        raise ConfigError(f"weights={weights} with transformers:{name}; expected a folder, which has its own weights")
    folder = Path(name).expanduser()
    if name.startswith(("/", ".", "~")):
        if not folder.is_dir():
            raise ConfigError(f"encoder=transformers:{name}: no such folder")
        name = str(folder)
    in_folder = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    load = pretrained or in_folder
    if load and not empty:
        model = AutoModel.from_pretrained(name, local_files_only=folder.is_dir())
    else:
        model = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.from_pretrained(name, local_files_only=folder.is_dir())
        )
    statistics, options = _IMAGENET, {"_raise_exceptions_for_missing_entries": False}
    if file := cached_file(name, "preprocessor_config.json", local_files_only=folder.is_dir(), **options):
        values = json.loads(Path(file).read_text(encoding="utf-8"))
        statistics = tuple(values["image_mean"]), tuple(values["image_std"])
    vision = next((getattr(model, part) for part in _PARTS if isinstance(getattr(model, part, None), nn.Module)), model)
    return vision, (name if load else RANDOM), statistics


def _open_sam3(name: str, side: int, weights: str | None, pretrained: bool, empty: bool) -> _Opened:
    checkpoint = weights or ("facebook/sam3" if pretrained and name == "large" else None)
    if checkpoint is None and not pretrained:
        checkpoint = RANDOM
    model = build_model(name, checkpoint=checkpoint, resolution=side)
    return model.backbone.vision_backbone.trunk, checkpoint or "in the package", (_HALF, _HALF)


def _patch(model: nn.Module, name: str) -> int:
    """Stride of the first convolution, which makes the patches."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return int(module.stride[0])
    raise ConfigError(f"encoder={name}: it has no convolution that makes patches")


def _block(attention: str) -> str:
    """Name of the block that an attention is in: as far as its last number, without its own name."""
    found = re.match(r".*\d+", attention.rpartition(".")[0])
    return found.group() if found else attention


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
