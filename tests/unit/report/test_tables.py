import json
import math
from importlib.resources import files

import pytest
from example_reports import metrics
from metric_keys import keyed

from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.report import tables
from sam3_hyperet.report.pairs import pair_table
from sam3_hyperet.report.tables import (
    category_tables,
    main_rows,
    number,
    other_keys,
    rows,
    signed,
)


def test_rows():
    table = rows(
        keyed(
            {
                **metrics("scenes/object"),
                **metrics("scenes/part", interval=(0.3, 0.36)),
                **metrics("scenes/fused", 0.1, 0.2, "unassigned"),
                **metrics("scenes/object", 0.9, 0.8, "presence/accuracy_absent", (-0.15, -0.05)),
                "scenes/segm/AP/wheel": 0.1,
                "scenes/forgetting/part/segm/AP": 0.1,
                "scenes/segm/AP@100/img": 0.1,
            }
        )
    )
    assert [(row.metric.name, row.label, row.cells[0].verdict) for row in table] == [
        ("Mask AP", "scenes · part", "better"),
        ("Mask AP", "scenes · object", "same"),  # without an interval
        ("Right about what is absent", "scenes · object", "worse"),
        ("Unassigned", "scenes · fused", "same"),
    ]


UNDEFINED = ["segm/AP", "part/segm/APl", "segm/AP/car", "segm/AP@100/img", "bbox/AR@1", "bbox/ARs", "segm/cgF1@0.5"]
REAL = ["segm/IL_MCC", "granularity/encoder/part_object/delta", "granularity/pixels/rho_area", "fpn.0/spearman"]
REAL += ["segm/AP/low", "fused/mIoU", "presence/accuracy_absent"]


def test_minus_one_is_undefined_of_ap_ar_and_cgf1_alone():
    assert [
        key for key in UNDEFINED + REAL if tables.value({f"base/s/{key}": -1}, f"base/s/{key}") is None
    ] == UNDEFINED
    for name in ("adapter", "levels", "pretrain"):
        metrics = json.loads((files("sam3_hyperet") / "weights" / f"{name}_metrics.json").read_text())
        numbers = {key: x for key, x in metrics.items() if isinstance(x, int | float)}
        undefined = {key for key, x in numbers.items() if x == -1 and key.rpartition("/")[2][:2] in ("AP", "AR")}
        assert undefined
        assert {key for key in numbers if tables.value(numbers, key) is None} == undefined


def test_numbers():
    assert [number(x) for x in (0.344, 0, 1.0, -0.07, -0.001, None, math.nan)] == [
        *(".34", ".00", "1.00", "−.07", ".00"),
        *("–", "–"),
    ]
    assert [signed(x, 2) for x in (0.33, -0.07, 0.001, -0.001, None)] == ["+.33", "−.07", "±.00", "±.00", "–"]


def test_keys_of_several_models_are_one_row():
    found = {"base/s/segm/AP": 0.1, "a/s/segm/AP": 0.2, "b/s/segm/AP": 0.05, "b/s/segm/AP/car": 0.3, "b/s/images": 4}
    found |= {"difference/a/s/segm/AP": 0.1, "difference/a/s/segm/AP/low": 0.05, "difference/a/s/segm/AP/high": 0.2}
    found = keyed(found, ("a", "b"))
    (row,) = rows(found, ("a", "b"))
    assert [(cell.value, cell.verdict, cell.supported) for cell in row.cells] == [
        (0.2, "better", True),
        (0.05, "same", False),  # without an interval
    ]
    assert list(category_tables(found, ("a", "b"))) == ["s: mask AP"]
    assert other_keys(found) == ["s/images"]


def test_adapted_models_are_tested_against_each_other():
    found = {f"{name}/s/segm/AP": x for name, x in (("base", 0.1), ("a", 0.2), ("b", 0.5), ("c", 0.25))}
    found |= {"between/b/a/s/segm/AP": 0.3, "between/b/a/s/segm/AP/low": 0.2, "between/b/a/s/segm/AP/high": 0.4}
    found |= {"between/c/a/s/segm/AP": 0.05, "between/c/b/s/segm/AP": -0.25, "between/c/b/s/segm/AP/dropped": 3.0}
    table = pair_table(keyed(found, ("a", "b", "c")), ("a", "b", "c"), lambda row: row.label)
    assert table.pairs == (("b", "a"), ("c", "a"), ("c", "b"))
    ((label, cells_of_row),) = table.rows
    assert (label, table.tests) == ("Mask AP · s", 1)
    assert table.sentences == ["b than a: better in 1, worse in 0"]  # nothing was tested of the others
    assert [(cell.difference, cell.verdict) for cell in cells_of_row] == [
        *((0.3, "better"), (0.05, "same"), (-0.25, "same")),
    ]
    assert other_keys(keyed(found, ("a", "b", "c"))) == []
    assert pair_table(keyed(metrics()), (), str) is None


def test_in_sight_of_pairs_are_all_concepts_and_the_aps_of_groups_that_are_no_part_of_others():
    places = [("s", ""), ("s/part", ""), ("s/held_out", ""), ("s/held_out_parts", ""), ("s/fused", "mIoU")]
    places += [("s", "bbox/AP"), ("s", "presence/accuracy_absent"), ("s/held_out", "presence/accuracy_absent")]
    found = {}
    for k, (scope, key) in enumerate(places):
        name = f"{scope}/{key or 'segm/AP'}"
        found |= {f"{model}/{name}": 0.5 + k / 50 for model in ("base", "a", "b")} | {f"between/b/a/{name}": 0.1}
    table = pair_table(keyed(found, ("a", "b")), ("a", "b"), lambda row: row.label)
    assert [label for label, _ in table.main] == [
        *("Mask AP · s", "Mask AP · s · held-out", "mIoU · s · fused", "Right about what is absent · s"),
    ]
    assert len(table.rows) == len(places)


def test_an_interval_ends_where_differences_of_fractions_do():
    ends = {"difference/d/mIoU/low": 0.9, "difference/d/mIoU/high": 1.04}
    cell = tables.tested_cell(ends, "difference/d/mIoU", 1.0, 0.97, tables.Metric("mIoU", "mIoU"), base=None)
    assert cell.interval == (0.9, 1.0)


def test_a_small_difference_counts_in_a_rate_of_false_answers_and_not_in_an_ap():
    small = (-0.0048, -0.0042)
    for key, verdict in (
        ("presence/accuracy_absent", "worse"),
        ("presence/accuracy_present", "worse"),
        ("segm/AP", "same"),
    ):
        assert rows(keyed(metrics("coco", 0.998, 0.9935, key, small)))[0].cells[0].verdict == verdict
        assert rows(keyed(metrics("coco", 0.998, 0.998, key, small)))[0].cells[0].verdict == "same"
        assert rows(keyed(metrics("coco", 0.998, 0.9935, key)))[0].cells[0].verdict == "same"  # not tested


def test_what_is_kept_has_no_difference_from_the_base():
    """Which is all right by itself; in tables by category neither."""
    found = keyed(metrics("scenes/kept", 1.0, 0.95, interval=(-0.08, -0.02)) | metrics("scenes", 0.1, 0.2))
    found |= {MetricKey("segm/AP", group="kept", category="car", data="scenes", model=m): 1.0 for m in ("base", "")}
    every, kept = rows(found)
    assert (every.cells[0].difference, every.label) == (pytest.approx(0.1), "scenes")
    assert (kept.base, kept.cells[0].value, kept.label) == (1.0, 0.95, "scenes · the base's own answers")
    assert (kept.cells[0].difference, kept.cells[0].interval, kept.cells[0].verdict) == (None, None, "")
    assert main_rows([every, kept]) == [every, kept]
    [table] = category_tables(found).values()
    assert [(row.base, row.cells[0].difference) for row in table] == [(1.0, None)]
