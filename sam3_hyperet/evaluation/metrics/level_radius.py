"""Radius and level: do the features of coarser concepts lie farther out? Of annotated regions, by place in the model.

The radius of a region is the mean of the hyperbolic radii 2‖v‖ of the features v inside it, each position weighted by
how much of it the mask covers. (The radius of the mean feature would be smaller wherever the features of a region point
in different directions, as those of large regions do.) 2‖v‖ is the norm, at any curvature: with the norm held fixed,
nothing is left of it. √c‖exp_0(v)‖ = tanh(√c‖v‖) increases with it.

Places are `fpn.<level>`, which do not depend on the prompt, `encoder` and `pixels`, which do, and `text`, the mean of
the features of a name's tokens. Levels are `part`, `object` and `group`; a group has the masks of its objects.

- Where features depend on the prompt, a pair is *the same pixels under two prompts*: those of a part under its own name
  and under that of the object it is on (`part_object`), those of an object under its name and its group's
  (`object_group`). So neither area nor appearance differs.
- Where they do not, a pair is a part's region and that of its object. An object and its group have one mask and so one
  radius: they are not compared.
- Of `text`, a pair is two names of the concept tree, one directly above the other.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import GRANULARITIES, AnnotatedImages, Instance
from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record, defined
from sam3_hyperet.evaluation.metrics.level_statistics import EDGES, of_names, of_regions
from sam3_hyperet.hyperbolic.radius import radius
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage, EncodedTiles
from sam3_hyperet.masks import Rle

SEEN = ("encoder", "pixels")
"""The places whose features depend on the prompt."""
_OWN = 0.5  # of a part's pixels that lie in the object it is on, at least
_MOVED = 0.25, 0.75  # of a side, by which a region is moved at random for the control


class LevelRadiusEvaluator(Evaluator):
    """Radii of annotated parts, objects and groups; crowds, boxes without a mask and groups' own regions aside.

    images: with the annotated regions. hierarchy: their concept tree. `edges` are its (kind of pair, child, parent) of
    one level and the next.
    """

    has_intervals = True

    def __init__(self, images: AnnotatedImages, hierarchy: Hierarchy) -> None:
        self._images, self._names = images, {category.id: category.name for category in images.categories}
        levels = {category.name: GRANULARITIES.index(category.granularity) for category in images.categories}
        groups, wholes = (GRANULARITIES.index(level) for level in ("group", "object"))
        self._level = dict.fromkeys(hierarchy.kinds, groups) | dict.fromkeys(hierarchy.parts, wholes) | levels
        self.edges = [
            (edge, child, parent)
            for edge, families in enumerate((hierarchy.parts, hierarchy.kinds))
            for parent, children in families.items()
            for child in children
            if self._level.get(child) == edge and self._level.get(parent) == edge + 1
        ]
        self._above = defaultdict[str, list[str]](list)
        for _, child, parent in self.edges:
            self._above[child].append(parent)
        self._text = {name: k for k, name in enumerate(dict.fromkeys(name for _, *pair in self.edges for name in pair))}

    def start(self, position: int, encoded: EncodedImage) -> None:
        assert not isinstance(encoded, EncodedTiles)  # the task has no such evaluator with tiles
        self._position, image = position, self._images.image(position)
        self._size = image.height, image.width
        self._regions = [
            (self._names[one.category_id], one.rle)
            for one in self._images.instances(position)
            if self._is_measured(one)
        ]
        names = {name for name, _ in self._regions}
        self._needed = names.union(*(self._above[name] for name in names))
        self._maps = {
            (f"fpn.{level}", ""): _radii(features[0]) for level, features in enumerate(encoded["backbone_fpn"])
        }

    def add(self, prompt: Prompt, detections: Detections) -> None:
        for place, features in detections.prediction.features.items():
            if prompt.text in (self._text if place == "text" else self._needed):
                self._maps[place, prompt.text] = _radii(features())

    def finish(self) -> dict[str, np.ndarray]:
        """Of n rows, a region at a level: `level` (n,), `area` (n,), fractions of the image, and `radius/<place>` (n,).
        Of m pairs: `edge` (m,) and `pairs/<place>` (m, 4), radii of the finer and the coarser one, and of the two moved
        to a random place. `text` (K,) radii of names. NaN where a place has no features."""
        maps = _fetched(self._maps)
        places = [place for place, prompt in maps if not prompt] + list(SEEN)
        sizes = {values.shape for (place, _), values in maps.items() if place in places}
        regions = [_Region(rle, self._size, sizes) for _, rle in self._regions]
        rows = [(k, self._level[name], name) for k, (name, _) in enumerate(self._regions)]
        pairs = [(k, *pair) for k in range(len(regions)) for pair in self._pairs(k)]
        rows += [(k, edge + 1, above) for k, edge, above, _ in pairs if edge == EDGES.index("object_group")]
        generator = np.random.default_rng(self._position)  # the same for every model and process
        shifts = generator.uniform(*_MOVED, size=(len(pairs), 2))
        record = {
            "level": np.array([level for _, level, _ in rows], np.int8),
            "area": np.array([regions[k].area for k, *_ in rows]),
            "edge": np.array([edge for _, edge, *_ in pairs], np.int8),
            "text": np.array([maps["text", name].item() if ("text", name) in maps else np.nan for name in self._text]),
        }
        for place in places:
            is_seen, found = place in SEEN, np.full((len(pairs), 4), np.nan)
            pooled = _Pooled(regions, {prompt: values for (at, prompt), values in maps.items() if at == place}, is_seen)
            for row, (k, edge, above, whole) in enumerate(pairs):
                if is_seen or edge == EDGES.index("part_object"):
                    both = (k, self._regions[k][0]), (k if is_seen else whole, above)
                    found[row] = [pooled.mean(*one, shift) for shift in (None, shifts[row]) for one in both]
            record[f"pairs/{place}"] = found
            values = [pooled.mean(k, name) if is_seen or level < len(EDGES) else np.nan for k, level, name in rows]
            record[f"radius/{place}"] = np.array(values, np.float64)
        return record

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        once = np.ones(len(records), np.int64)
        metrics = of_regions(records)(once) | of_names(self._names_radii(records))
        for number, edge in enumerate(EDGES):
            metrics[f"{edge}/pairs"] = float(sum((record["edge"] == number).sum() for record in records))
        return {f"granularity/{key}": value for key, value in metrics.items() if np.isfinite(value)}

    def headline(self, records: Sequence[Record]) -> Headline:
        """All that `evaluate` says of regions."""
        return defined(of_regions(records), len(records), "granularity")

    def _is_measured(self, one: Instance) -> bool:
        return not one.crowd and not one.is_boxed and self._level[self._names[one.category_id]] < len(EDGES)

    def _pairs(self, k: int) -> Iterator[tuple[int, str, int]]:
        """Of a region: the kind of pair, the name above its own, and of a part the place of the object it is on."""
        name, rle = self._regions[k]
        for above in self._above[name] if self._level[name] == 1 else ():
            yield 1, above, k
        wholes = [
            i for i, (other, _) in enumerate(self._regions) if self._level[name] == 0 and other in self._above[name]
        ]
        inside = [masks.intersection_area(rle, self._regions[i][1]) for i in wholes]
        if inside and max(inside) >= _OWN * masks.area(rle):
            whole = wholes[int(np.argmax(inside))]
            yield 0, self._regions[whole][0], whole

    def _names_radii(self, records: Sequence[Record]) -> Mapping[int, np.ndarray]:
        """(2, m) radii of the names of each kind of pair."""
        radii = np.stack([record["text"] for record in records])
        there = np.isfinite(radii)
        mean = np.where(there, radii, 0).sum(axis=0) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)
        rows = [(edge, self._text[child], self._text[parent]) for edge, child, parent in self.edges]
        pairs = np.array(rows, np.int64).reshape(-1, 3)
        return {edge: mean[pairs[pairs[:, 0] == edge, 1:].T] for edge in range(len(EDGES))}


class _Region:
    """A mask at the sizes of feature maps, as fractions of each position that it covers."""

    def __init__(self, rle: Rle, size: tuple[int, int], sizes: Collection[tuple[int, ...]]) -> None:
        mask = cv2.transpose(masks.decode(rle).T).astype(np.float32)  # along rows, or OpenCV would copy it at each size
        self._at = {to: cv2.resize(mask, to[::-1], interpolation=cv2.INTER_AREA) for to in sizes}  # the mask may go
        self.area = masks.area(rle) / (size[0] * size[1])

    def mean(self, values: np.ndarray, shift: np.ndarray | None) -> float:
        """The mean of a map (h, w) inside, or inside the mask moved cyclically by `shift` of the map's sides."""
        weights = self._at[values.shape]
        if shift is not None:
            values = np.roll(values, np.rint(-shift * values.shape).astype(int), axis=(0, 1))
        return float((weights * values).sum(dtype=np.float64) / weights.sum(dtype=np.float64))


class _Pooled:
    """Means of the maps of one place inside regions: of maps by prompt, or of one map that serves all of them."""

    def __init__(self, regions: Sequence[_Region], maps: Mapping[str, np.ndarray], by_prompt: bool) -> None:
        self._regions, self._maps, self._by_prompt = regions, maps, by_prompt

    def mean(self, region: int, prompt: str, shift: np.ndarray | None = None) -> float:
        """Of a region's place, NaN where its prompt has no features."""
        found = self._maps.get(prompt if self._by_prompt else "")
        return float("nan") if found is None else self._regions[region].mean(found, shift)


def _radii(features: Tensor) -> Tensor:
    """(h, w) hyperbolic radii of (D, h, w) features."""
    return radius(features.detach().float(), 0)


def _fetched(maps: Mapping[Any, Tensor]) -> dict[Any, np.ndarray]:
    """The maps on the CPU; their device is waited for once."""
    values = torch.cat([found.flatten() for found in maps.values()]).cpu().double().numpy()
    ends = np.cumsum([found.numel() for found in maps.values()])
    parts = zip(maps.items(), np.split(values, ends[:-1]), strict=True)
    return {key: part.reshape(tuple(found.shape)) for (key, found), part in parts}
