"""Cache of a frozen trunk's features on disk: each view of an image goes through the trunk once."""

import hashlib
import logging
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.fingerprint import tensors_digest
from sam3_hyperet.modeling.parameters import adapter_parameters, base_state_dict
from sam3_hyperet.modeling.wrappings import named_parameters
from sam3_hyperet.training.options import STAGES, CacheOptions, StageOptions
from sam3_hyperet.wording import count_of

logger = logging.getLogger(__name__)

_BITS = {"float32": (torch.float32, torch.int32), "bfloat16": (torch.bfloat16, torch.int16)}
"""What is stored, and the integers of the same size as which numpy writes and maps it."""
_TRUNK = "backbone.vision_backbone.trunk."


class FeatureCache:
    """Tensors of one shape by content, a memory-mapped file each, below a folder named for the base.

    Processes may share it. A damaged file counts as missing, and in `damaged`.
    """

    def __init__(self, folder: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self.folder, self.shape = folder, shape
        self.dtype, self._bits = _BITS[dtype]
        self.hits = self.misses = self.damaged = 0

    def key(self, image: Tensor) -> str:
        """Digest of a preprocessed image, (3, S, S): its pixels after resizing, augmentation and normalisation."""
        pixels = image.detach().cpu().contiguous()
        content = hashlib.blake2b(pixels.view(torch.uint8).numpy().data, digest_size=20)
        content.update(f"{tuple(pixels.shape)}{pixels.dtype}".encode())
        return content.hexdigest()

    def get(self, key: str) -> Tensor | None:
        """The features, read from the mapped file; None where there is none, or a damaged one."""
        try:
            if not self._file(key).is_file():  # nor a pipe, which would never end
                raise FileNotFoundError(self._file(key))
            bits = torch.from_numpy(np.load(self._file(key), mmap_mode="c"))
            if (bits.dtype, tuple(bits.shape)) != (self._bits, self.shape):
                raise ValueError("of another shape")
        except (OSError, ValueError, TypeError, EOFError) as error:
            self.misses += 1
            self.damaged += not isinstance(error, FileNotFoundError)
            return None
        self.hits += 1
        return bits.view(self.dtype)

    def put(self, key: str, features: Tensor) -> Tensor:
        """Store the features; returns them as `get` will."""
        stored = features.detach().cpu().contiguous().to(self.dtype)
        with replacing(self._file(key)) as temporary, temporary.open("wb") as stream:
            np.save(stream, stored.view(self._bits).numpy())
        return stored

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


class CachedTrunk(host.ViT):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's image trunk, frozen, that computes an image's features only if they are not on disk."""

    cache: FeatureCache

    def forward(self, x: Tensor) -> list[Tensor]:
        """[(B, C, H, W)] features of (B, 3, S, S) images, as the cache stores them even where just computed."""
        features = []
        for i, key in enumerate(map(self.cache.key, x)):
            found = self.cache.get(key)
            if found is None:  # one at a time: what is stored does not depend on what was in the batch
                with torch.no_grad():
                    (computed,) = super().forward(x[i : i + 1])
                found = self.cache.put(key, computed[0].permute(1, 2, 0))
            features.append(found)
        channels_last = torch.stack(features).to(x.device, x.dtype)
        return [channels_last.permute(0, 3, 1, 2)]  # the trunk's own layout, on which the kernels behind it depend


@contextmanager
def cached_trunk(model: host.Sam3Image, options: CacheOptions, views: int, precision: str) -> Iterator[FeatureCache]:
    """Context in which the model's trunk reads features from the cache, and adds those that are missing.

    Training will show `views` different views of images. What the trunk computes in each `precision` is kept apart.
    Raises ConfigError: a trunk that trains or has adapters, or a disk too small for `views` more views.
    """
    check_frozen_trunk(model)
    neck = model.backbone.vision_backbone
    trunk = neck.trunk
    digest = tensors_digest(sorted(base_state_dict(trunk).items()))
    folder = Path(str(options.folder)).expanduser() / f"{digest[:16]}-{precision}-{options.dtype}"
    folder.mkdir(parents=True, exist_ok=True)
    cache = FeatureCache(folder, options.dtype, _shape(model))
    _check_disk(folder, views, bytes_per_view(model, options.dtype))
    neck.trunk = converted(trunk, CachedTrunk)
    neck.trunk.cache = cache
    try:
        yield cache
    finally:
        neck.trunk = trunk
        if cache.damaged:
            logger.warning("%s: %d files were damaged; their features were computed anew", folder, cache.damaged)


def check_cache(model: host.Sam3Image, options: CacheOptions, stage: StageOptions, views: int) -> None:
    """Raise a ConfigError if the cache cannot be used in all stages of a run; `views` is 0 for ever new ones."""
    if not options.folder:
        return
    if stage.last == STAGES[-1]:
        raise ConfigError("cache.folder: stage 3 trains the image trunk, whose features then change; use no cache")
    if stage.last == 2:  # which a schedule comes to later: what trains now does not show it
        _check_key_layers(model, stage.layers)
    check_frozen_trunk(model)
    if not views:
        remedy = "set data.views to how many of an image are kept, or data.flip=0 data.zoom=1"
        raise ConfigError(f"cache.folder: every epoch shows new random views; {remedy}")


def check_frozen_trunk(model: host.Sam3Image) -> None:
    """Raise a ConfigError if the image trunk trains or has adapters: its features are then no constants."""
    trunk = model.backbone.vision_backbone.trunk
    if adapter_parameters(trunk) or any(p.requires_grad for p in trunk.parameters()):
        raise ConfigError("cache.folder: the image trunk changes in this run (scheme P or stage 3): nothing to keep")


def _check_key_layers(model: host.Sam3Image, layers: Sequence[str]) -> None:
    """Raise a ConfigError if a pattern of stage 2 names a parameter of the image trunk."""
    names = [name for name, _ in named_parameters(model) if name.startswith(_TRUNK)]
    for pattern in layers:
        if hits := [name for name in names if re.match(pattern, name)]:
            found = f"stage.layers names {count_of(len(hits), 'tensor')} of the image trunk by {pattern!r}"
            remedy = "use no cache, or layers behind the trunk"
            raise ConfigError(f"cache.folder: {found}, whose features then change in stage 2; {remedy}")


def bytes_per_view(model: host.Sam3Image, dtype: str) -> int:
    """Size on disk of one view's features."""
    return math.prod(_shape(model)) * _BITS[dtype][0].itemsize


def _shape(model: host.Sam3Image) -> tuple[int, int, int]:
    """(H, W, C) of one view's features."""
    trunk = model.backbone.vision_backbone.trunk
    grid = resolution(model) // int(trunk.patch_embed.proj.kernel_size[0])
    return grid, grid, int(trunk.channel_list[-1])


def _check_disk(folder: Path, views: int, size: int) -> None:
    there = sum(1 for _ in folder.glob("*/*.npy"))
    free, wanted = shutil.disk_usage(folder).free, max(0, views - there) * size
    if wanted > free:
        need = f"{views:,} views of {size / 2**20:.1f} MiB need {wanted / 2**30:,.1f} GiB more"
        remedy = "use cache.dtype=bfloat16, fewer data.views or no cache"
        raise ConfigError(f"cache.folder={folder.parent}: {need}, the disk has {free / 2**30:,.1f}; {remedy}")
