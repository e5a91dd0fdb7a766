"""Radii of annotated regions by level, read off hand-made features."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from drawn_pictures import HEIGHT, WIDTH, Drawn, Region, block

from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.level_radius import LevelRadiusEvaluator, _Region
from sam3_hyperet.masks import encode_masks

TREE = Hierarchy({"vehicle": ("car",), "animal": ("dog",)}, {"car": ("wheel",)})  # no category is an animal
WHEEL, CAR, DOG, VEHICLE = 3, 7, 8, 20
NORMS = {"wheel": 1.0, "car": 2.0, "dog": 3.0, "vehicle": 4.0, "animal": 5.0}
REGIONS = [
    Region(CAR, block(4, 4, 8, 8)),
    Region(WHEEL, block(4, 8, 4, 4)),
    Region(WHEEL, block(20, 0, 4, 4)),  # on no car
    Region(DOG, block(16, 12, 8, 4)),
    Region(VEHICLE, block(4, 4, 8, 8)),  # the car once more
    Region(CAR, block(0, 20, 4, 4), crowd=True),
]


def features(norm, height=HEIGHT, width=WIDTH):
    """(2, h, w) of one norm everywhere."""
    return torch.tensor([0.6, 0.8])[:, None, None].expand(2, height, width) * norm


def detections(name, places=("text", "encoder", "pixels"), dtype=torch.float32):
    sizes = {"text": (1, 1), "encoder": (HEIGHT // 4, WIDTH // 4), "pixels": (HEIGHT, WIDTH)}
    found = {place: lambda size=sizes[place]: features(NORMS[name], *size).to(dtype) for place in places}
    return SimpleNamespace(prediction=SimpleNamespace(features=found))


def note(regions=REGIONS, pyramid=None, names=tuple(NORMS), **options):
    evaluator = LevelRadiusEvaluator(Drawn([regions]), TREE)
    columns = torch.arange(WIDTH).expand(1, 1, HEIGHT, WIDTH).float()
    evaluator.start(0, {"backbone_fpn": pyramid or [columns, torch.ones(1, 1, HEIGHT // 4, WIDTH // 4)]})
    for name in names:
        evaluator.add(Prompt(name), detections(name, **options))
    return evaluator, evaluator.finish()


@pytest.fixture(scope="module")
def noted():
    return note()


def test_rows_are_regions_at_their_level_and_objects_once_more_as_groups(noted):
    _, record = noted
    assert record["level"].tolist() == [1, 0, 0, 1, 2, 2]
    assert record["area"] * HEIGHT * WIDTH == pytest.approx([64, 16, 16, 32, 64, 32])
    for place in ("encoder", "pixels"):
        assert record[f"radius/{place}"] == pytest.approx([4, 2, 2, 6, 8, 10], rel=1e-6)


def test_without_a_prompt_an_object_and_its_group_are_not_compared(noted):
    _, record = noted
    assert record["radius/fpn.0"][:4] == pytest.approx([2 * 7.5, 2 * 5.5, 2 * 21.5, 2 * 19.5])
    assert np.isnan(record["radius/fpn.0"][4:]).all()
    assert np.isnan(record["pairs/fpn.0"][record["edge"] == 1]).all()
    (part_object,) = record["pairs/fpn.0"][record["edge"] == 0]
    assert part_object[:2] == pytest.approx([2 * 5.5, 2 * 7.5])


def test_pairs_are_the_same_pixels_under_two_prompts(noted):
    _, record = noted
    assert record["edge"].tolist() == [1, 0, 1]  # car in vehicle, wheel on the car, dog in animal; one wheel is on none
    assert record["pairs/encoder"] == pytest.approx(np.array([[4, 8, 4, 8], [2, 4, 2, 4], [6, 10, 6, 10]]), rel=1e-6)


def test_metrics(noted):
    evaluator, record = noted
    metrics = evaluator.evaluate([record, record])
    assert metrics["granularity/part_object/pairs"] == 2
    assert metrics["granularity/object_group/pairs"] == 4
    for key in ("encoder/object_group", "pixels/part_object", "text/part_object", "text/object_group"):
        assert metrics[f"granularity/{key}/delta"] == 1
    assert metrics["granularity/encoder/group"] == pytest.approx(9)
    headline = evaluator.headline([record, record])(np.array([2, 0]))
    assert headline == {key: pytest.approx(metrics[key]) for key in headline}
    assert "granularity/encoder/rho" in headline


def test_the_control_moves_the_masks_the_same_way_for_every_model(noted):
    """A ramp over the columns: the moved wheel has another radius, and so has a second evaluator's."""
    for_again = note(names=())[1]
    _, record = noted
    moved = record["pairs/fpn.0"][1]
    assert abs(moved[2] - moved[0]) > 1
    assert np.array_equal(for_again["pairs/fpn.0"], record["pairs/fpn.0"], equal_nan=True)
    assert np.isnan(for_again["pairs/encoder"]).all()
    assert note([Region(WHEEL, block(0, 0))])[1]["pairs/encoder"].shape == (0, 4)


def test_a_region_smaller_than_a_position_counts_by_what_it_covers():
    pyramid = [torch.arange(8).expand(1, 1, 6, 8).float()]
    _, record = note([Region(WHEEL, block(3, 0, 2, 1))], pyramid)  # a pixel in column 0, a pixel in column 1
    assert record["radius/fpn.0"] == pytest.approx([2 * 0.5])


def test_a_region_keeps_its_mask_at_the_sizes_of_the_maps_alone():
    rng = np.random.default_rng(0)
    mask, values = np.zeros((700, 900), bool), rng.random((24, 32))
    mask[100:350, 20:420] = rng.random((250, 400)) < 0.6
    rle = encode_masks(mask[None])[0]
    tracemalloc.start()
    regions = [_Region(rle, mask.shape, {(24, 32), (12, 16)}) for _ in range(9)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < mask.size  # one of them at the size of the image, in bytes
    weights = cv2.resize(mask.astype(np.float32), (32, 24), interpolation=cv2.INTER_AREA)
    expected = (weights * values).sum(dtype=np.float64) / weights.sum(dtype=np.float64)
    assert {region.mean(values, None) for region in regions} == {expected}


def test_half_precision_and_an_image_without_regions(tmp_path):
    assert note(dtype=torch.bfloat16)[1]["radius/encoder"] == pytest.approx([4, 2, 2, 6, 8, 10], rel=1e-2)
    evaluator, record = note([])
    np.savez(tmp_path / "record.npz", **record)
    with np.load(tmp_path / "record.npz", allow_pickle=False) as stored:
        metrics = evaluator.evaluate([stored])
    assert metrics["granularity/part_object/pairs"] == 0
    assert not any("encoder" in key for key in metrics)


def test_a_tree_of_one_level_has_nothing_to_compare():
    assert not LevelRadiusEvaluator(Drawn([[]]), Hierarchy({"car": ("dog",)})).edges
