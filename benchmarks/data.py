"""Opening a COCO file of train2017's size: at first, and from the index that the first opening wrote."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import timing
from sam3_hyperet import masks
from sam3_hyperet.data.coco import read_coco

_SIZE = (480, 640)  # height and width of every image
_OUTLINES = 20_000  # different ones, which the annotations take in turn
_CROWDS = 0.01  # fraction of the annotations, as run lengths


def run(images: int = 118_287, annotations: int = 860_001, repeats: int = 3) -> dict[str, float]:
    """Write the file and empty files for its images, open it, each time in a process of its own, and print a table.

    Returns:
        `data/<opening>/seconds` of the clock, `…/cpu_s` of the processor, and `…/peak_gib` of the process, for `first`
        and `later` (the slowest of `repeats`); `data/file_mib` and `data/index_mib`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = write_instances(folder, images, annotations)
        openings = [timing.in_process(partial(_open, file), "spawn") for _ in range(1 + repeats)]
        index = sum(path.stat().st_size for path in folder.glob(".*.index"))
        results = {"data/file_mib": file.stat().st_size / 2**20, "data/index_mib": index / 2**20}
    for name, measured in (("first", openings[:1]), ("later", openings[1:])):
        results[f"data/{name}/seconds"] = max(seconds for (seconds, _), _ in measured)
        results[f"data/{name}/cpu_s"] = max(cpu for (_, cpu), _ in measured)
        results[f"data/{name}/peak_gib"] = max(peak for _, peak in measured)
    rows = [
        [name, *(f"{results[f'data/{name}/{figure}']:.2f}" for figure in ("seconds", "cpu_s", "peak_gib"))]
        for name in ("first", "later")
    ]
    title = f"{annotations:,} annotations, {results['data/file_mib']:.0f} MiB"
    caption = f"index: {results['data/index_mib']:.0f} MiB; imports: memory alone is counted"
    timing.print_table(title, ("opening", "seconds", "of the processor", "peak GiB"), rows, caption)
    return results


def write_instances(folder: Path, images: int, annotations: int, seed: int = 0) -> Path:
    """Write `instances.json` and a folder `images` of empty files, as `read_coco` opens no image; return the file.

    Outlines have 25 points on average, every seventh is of two polygons; boxes and areas are those of the outlines.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    names = [f"{n:012d}.jpg" for n in range(1, images + 1)]
    for name in names:
        os.close(os.open(folder / "images" / name, os.O_CREAT | os.O_WRONLY))
    listed = [
        {"license": 3, "file_name": name, "height": _SIZE[0], "width": _SIZE[1], "id": n}
        for n, name in enumerate(names, start=1)
    ]
    categories = [{"supercategory": f"kind {n % 12}", "id": n, "name": f"thing {n}"} for n in range(1, 81)]
    outlines = list(_outlines(rng, min(_OUTLINES, annotations)))
    crowds = [_as_crowd(one) for one in outlines[: max(1, len(outlines) // 100)]]
    owners, kinds = rng.integers(1, images + 1, annotations).tolist(), rng.integers(1, 81, annotations).tolist()
    is_crowd = (rng.random(annotations) < _CROWDS).tolist()
    file = folder / "instances.json"
    with file.open("w", encoding="utf-8") as out:
        out.write(f'{{"info": {{}}, "images": {json.dumps(listed)}, "annotations": [')
        for n, (owner, kind, crowd) in enumerate(zip(owners, kinds, is_crowd, strict=True)):
            one = crowds[n % len(crowds)] if crowd else outlines[n % len(outlines)]
            out.write(f'{", " if n else ""}{{{one}, "image_id": {owner}, "category_id": {kind}, "id": {n + 1}}}')
        out.write(f'], "categories": {json.dumps(categories)}}}')
    return file


def _outlines(rng: np.random.Generator, count: int) -> Iterator[str]:
    """The keys of an annotation that follow from its outline, as JSON without braces."""
    height, width = _SIZE
    for n in range(count):
        polygons = []
        for _ in range(2 if n % 7 == 0 else 1):
            points = 3 + int(rng.poisson(22))
            angles = np.sort(rng.random(points)) * 2 * np.pi
            radius = np.exp(rng.uniform(np.log(8), np.log(150))) * rng.uniform(0.6, 1, points)
            centre = rng.uniform((0, 0), (width, height))
            xy = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            polygons.append(xy.clip(0, (width, height)).round(2))
        every = np.concatenate(polygons)
        (x, y), (right, bottom) = every.min(axis=0), every.max(axis=0)
        box = [round(float(value), 2) for value in (x, y, right - x, bottom - y)]
        crosses = [p[:, 0] * np.roll(p[:, 1], -1) - np.roll(p[:, 0], -1) * p[:, 1] for p in polygons]
        area = sum(abs(float(cross.sum())) / 2 for cross in crosses)
        outline = [polygon.reshape(-1).tolist() for polygon in polygons]
        yield f'"segmentation": {json.dumps(outline)}, "area": {area:.4f}, "iscrowd": 0, "bbox": {json.dumps(box)}'


def _as_crowd(outline: str) -> str:
    record = json.loads(f"{{{outline}}}")
    flat = masks.decode(masks.from_polygons(record["segmentation"], *_SIZE)).T.reshape(-1)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, len(flat)]).tolist()
    rle = {"size": list(_SIZE), "counts": [0, *runs] if flat[0] else runs}
    return json.dumps({**record, "segmentation": rle, "iscrowd": 1})[1:-1]


def _open(file: Path) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    images = read_coco(file, file.parent / "images")
    for i in (0, len(images) // 2, len(images) - 1):
        images.instances(i)
    return time.perf_counter() - clock, time.process_time() - processor
