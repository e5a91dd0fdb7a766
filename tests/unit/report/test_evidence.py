"""What a report shows of a comparison, from the records of two models on drawn scenes."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.compare import compare
from sam3_hyperet.evaluation.models import EvalModel, beside_base
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.report import evidence
from sam3_hyperet.report.comparison_report import write_comparison
from sam3_hyperet.report.examples import extremes
from sam3_hyperet.report.figures.gate_plots import gate_plots

PICTURES = 3


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    data = DataOptions(name="drawn", format="scenes", root=str(folder / "scenes"), splits={"val": PICTURES})
    model = hy.inject(hy.build_model("tiny"), hy.HyperETConfig())  # with the weights that come with the package
    task = open_task(open_split(data, "val"), Protocol(examples=2, bootstrap=0))
    return compare(
        beside_base(model),
        data,
        task,
        folder,
        Fabric(accelerator="cpu", devices=1),
        say=print,
        progress=lambda total: nullcontext(lambda: None),
    )


def test_curves_are_those_of_the_metrics(comparison):
    curves = evidence.precision_recall(comparison)
    assert {(c.model, c.iou, c.group) for c in curves} == {
        (model, iou, group) for model in ("base", "adapted") for iou in (0.5, 0.75) for group in comparison.task.groups
    }
    for curve in curves:
        key = f"{'base/' if curve.model == 'base' else ''}drawn/{curve.group}/segm/AP{curve.iou * 100:.0f}"
        assert curve.precision.mean() == pytest.approx(comparison.metrics[key], abs=1e-12)


def test_risk_coverage_ends_at_the_mean_error(comparison):
    curves = evidence.risk_coverage(comparison)
    assert {(c.model, c.measure.split(",")[0]) for c in curves} == {
        (model, measure) for model in ("base", "adapted") for measure in ("score", "radius")
    }
    for curve in curves:
        prefix = "base/" if curve.model == "base" else ""
        mean = comparison.metrics[f"{prefix}drawn/uncertainty/aurc/random"]
        assert curve.risk[-1] == pytest.approx(mean)


def test_confusion_has_every_child_and_its_parent(comparison):
    confusion = evidence.tree_confusion(comparison)
    tree = comparison.task.hierarchy
    assert confusion.names == tree.children
    for name, parent in zip(confusion.names, confusion.parents, strict=True):
        assert name in (*tree.kinds.get(parent, ()), *tree.parts.get(parent, ()))
    assert list(confusion.shares) == ["base", "adapted"]
    shown = confusion.shares["base"][~np.isnan(confusion.shares["base"])]
    assert shown.max() > 0.5
    assert shown.min() >= 0
    assert (shown <= 1).all()


def test_counts_are_those_of_the_annotations(comparison):
    counts = evidence.instance_counts(comparison)
    images = comparison.task.split.images
    names = {category.id: category.name for category in images.categories}
    found = dict.fromkeys(names.values(), 0)
    for i in range(PICTURES):
        for one in images.instances(i):
            found[names[one.category_id]] += not one.crowd
    assert counts == found


def test_identity_gains_and_loses_nothing(comparison):
    assert extremes(comparison, 3) == ([], [])


def test_extremes_name_picture_and_category(comparison):
    base, adapted = comparison.results
    worse = [dict(record) for record in adapted.records]
    hits = worse[1]["instances/segm_hits"].copy()
    column = int(hits[:, 0].argmax())
    hits[column] = 0
    worse[1]["instances/segm_hits"] = hits
    changed = replace(comparison, results=(base, replace(adapted, records=worse)))
    gained, (lost,) = extremes(changed, 3)
    assert gained == []
    assert lost.position == comparison.task.positions[1]
    assert lost.category_id == sorted(category.id for category in comparison.task.split.images.categories)[column]
    assert lost.adapted < lost.base
    assert extremes(replace(comparison, results=(adapted,)), 3) == ([], [])


def test_radius_maps_of_the_adapted_model(comparison):
    maps = evidence.radius_maps(comparison, [0, 2])
    assert [one.site for one in maps] == ["fpn.0", "fpn.1"] * 2
    assert maps[0].before.shape == (32, 32)
    np.testing.assert_allclose(maps[0].before, maps[0].after, atol=1e-6)  # untrained: the identity


def test_several_models_go_by_their_names(comparison):
    base, adapted = comparison.results
    other = replace(adapted, model=EvalModel("other", adapted.model.model))
    several = replace(comparison, results=(base, adapted, other))
    assert evidence.adapted_names(comparison) == ()
    assert evidence.adapted_names(several) == ("adapted", "other")
    assert evidence.adapted_names(replace(comparison, results=(base,))) == ("base",)
    assert {curve.model for curve in evidence.precision_recall(several)} == {"base", "adapted", "other"}


def test_the_report_holds_it_all(comparison, tmp_path):
    config = "run_dir: /home/ann/runs/x\ndata: {root: /data/ann/shop, names: [~/n.txt, a/b]}\n"
    noted = replace(comparison, data=replace(comparison.data, groups_note="toys: what children draw"))
    write_comparison(noted, tmp_path, config, None, "tiny, its own weights")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "comparison.md", "comparison.tex"}
    html = (tmp_path / "report.html").read_text("utf-8")
    for heading in (
        *("Base and adapted", "Precision and recall", "Confusion within", "where it is wrong", "Radius over images"),
        *("Radius before and after", ">Images</h2>", "<h2>Label maps"),
        *("scheme A (fpn), lorentz with c = 0.01, dense", "tiny, its own weights, SHA-256", "3 of 3 images"),
        *("toys: what children draw", "A tiny model of SAM 3&#39;s architecture ("),
    ):
        assert heading in html
    assert "Gained most" not in html  # nothing changed
    assert "ann" not in re.sub(r"data:image[^\"]*|(pl|ch|sc|c)ann|annot", "", html)  # whoever ran it
    assert all(f"{line}\n" in html for line in ("run_dir: x", "  root: shop", "  - n.txt", "  - a/b"))
    assert len(re.findall("By category</h2>", html)) == 1
    assert len(html) < 5_000_000


def test_gates_are_shown_by_prompt_and_level(comparison, another, randomized):
    assert evidence.gates_of_prompts(comparison) is None
    gated = randomized(hy.inject(another(), hy.HyperETConfig(sites=("prompt",), gate="prompt")))
    result = replace(comparison.results[-1], model=EvalModel("gated", gated))
    found = evidence.gates_of_prompts(replace(comparison, results=(result,)))
    assert tuple(found.gates) == comparison.task.vocabulary
    assert found.sites == ("prompt",)
    assert {found.levels[name] for name in ("car", "wheel", "vehicle")} == {"object", "part", "group"}
    assert len({own["prompt"] for own in found.gates.values()}) > 20
    assert [plot.title for plot in gate_plots(found)] == ["prompt"]
    assert found.rows()[0][2] >= found.rows()[-1][2]
