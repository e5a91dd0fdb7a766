"""The dial that a rule chooses: by what it decides, what it measures, and that work is shared and not done twice."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import pytest
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli import compare
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.dial import DialFront, choose_dial, chosen_dial, default_rule, front_of
from sam3_hyperet.evaluation.models import along_dial, beside_base
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.validation_score import open_validation
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.training.choice import Rule

RULE = Rule.parse("max new where old >= base-0.02", "dial_rule")
BASE = {"new": 0.1, "old": 0.7}
IMAGES = 2


def front(*values: float | None, rule: Rule = RULE) -> dict[float, dict[str, float]]:
    """Metrics at the dials 0, .5, 1, … by pairs of `new` and `old`."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return {k / 2: {"new": new, "old": old} for k, (new, old) in enumerate(pairs)}


@pytest.mark.parametrize(
    ("metrics", "dial", "said"),
    [
        (front(0.1, 0.7, 0.3, 0.69, 0.4, 0.66), 0.5, "on 48 tune images"),
        (front(0.1, 0.7, 0.3, 0.69, 0.4, 0.68), 1.0, "on 48 tune images"),
        (front(0.1, 0.7, 0.3, 0.69, 0.3, 0.70), 0.5, "on 48 tune images"),  # equal: the smaller
        (front(0.1, 0.7, 0.3, 0.6, 0.4, 0.5), 0.0, "none above it keeps the condition"),
        (front(0.1, 0.7, 0.1, 0.7, 0.05, 0.7), 0.0, "none above it is better"),
        (front(0.1, 0.7, 0.3, 0.6, math.nan, 0.7), 0.0, "none above it is better"),
    ],
)
def test_the_largest_gain_with_at_most_so_much_lost(metrics, dial, said):
    chosen = chosen_dial(RULE, BASE, metrics)
    assert chosen == dial
    line = DialFront(RULE, BASE, metrics, "48 tune images", chosen).choice()
    assert line.startswith(f"dial {dial:g}, chosen by max new where old >= base-0.02 on 48 tune images")
    assert line.endswith(said)


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        ("max new/segm/AP where forgetting/segm/AP <= 0.02", None),  # which the base has not
        ("max new/segm/AP where old/segm/AP >= base-0.02", None),
        ("max new/segm/AP where lost/segm/AP >= base-0.02", "max segm/AP"),
        ("max forgetting/lost/segm/AP", "max segm/AP"),
    ],
)
def test_a_front_shows_the_rule_whose_metrics_the_adapted_model_has(rule, shown):
    dials = {None: 0.5, 0.0: 0.5, 1.0: 0.4}
    results = [
        SimpleNamespace(
            model=SimpleNamespace(dial=dial),
            metrics={"segm/AP": ap, "new/segm/AP": 0.1, "old/segm/AP": ap} | ({"lost/segm/AP": ap} if dial else {}),
        )
        for dial, ap in dials.items()
    ]
    task = SimpleNamespace(groups=("old", "lost"), positions=(0,), split=SimpleNamespace(name="val"))
    said = []
    found = compare._front(SimpleNamespace(results=results, task=task), Rule.parse(rule, "dial_rule"), said.append)
    assert str(found.rule) == (shown or rule)
    assert bool(said) == bool(shown)
    assert all(
        "not shown, for 1 val image defined no" in line and line.endswith("the front is of max segm/AP")
        for line in said
    )
    assert found.keeps(0.0)
    assert front_of(results[:1], Rule.parse(rule), task) is None


def test_a_bound_that_not_even_the_base_keeps_is_missed_least():
    rule = Rule.parse("max new where old >= 0.9")
    metrics = front(0.1, 0.7, 0.3, 0.8, 0.4, 0.6)
    assert chosen_dial(rule, BASE, metrics) == 0.5
    line = DialFront(rule, BASE, metrics, "8 images", 0.5).choice()
    assert line.endswith("no dial keeps the condition, this one misses it least")


def test_what_a_front_shows_by_default():
    assert str(default_rule({"segm/AP": 0, "presence/accuracy_absent": 0})).startswith("max segm/AP where presence")
    assert str(default_rule({"fused/mIoU": 0})) == "max fused/mIoU"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    kind = {"format": "scenes", "splits": {"train": IMAGES, "tune": IMAGES}, "seed": 1}
    return DataOptions(name="drawn", root=str(root), vocabulary=("dog", "tree"), **kind)


@pytest.fixture(scope="module")
def choice(data, tmp_path_factory):
    """A function that chooses for an adapted model, and a folder in which it does."""
    run_dir = tmp_path_factory.mktemp("chosen")
    task = open_validation(open_split(data, "tune"), Protocol(), 0)
    fabric = Fabric(accelerator="cpu", devices=1)
    quiet = {"say": lambda line: None, "progress": lambda images: contextlib.nullcontext(lambda: None)}

    def choose(models, rule, grid, **options):
        (base, adapted), rule = (one.model for one in models), Rule.parse(rule)
        work = {"base": base, "run_dir": run_dir, "fabric": fabric, **quiet, **options}
        return choose_dial(adapted, data, task, rule, grid, **work)

    return choose, run_dir


def test_the_dials_of_an_adapter_share_the_trunk_and_are_measured_once(base, randomized, choice, monkeypatch, tmp_path):
    """For every site behind the trunk, 0 is the base, which is not computed twice, and 1 the adapter."""
    passes, trunk = [], host.Sam3DualViTDetNeck.forward
    monkeypatch.setattr(host.Sam3DualViTDetNeck, "forward", lambda *given: (passes.append(0), trunk(*given))[1])
    choose, run_dir = choice
    sites = ("prompt", "encoder_layer", "fpn", "pixel_decoder")
    models = beside_base(randomized(adapted_copy(base, hy.HyperETConfig(sites=sites))), base)
    found = choose(models, "min presence/accuracy_absent", [0.5, 1])
    assert len(passes) == IMAGES
    assert list(found.metrics) == [0.0, 0.5, 1.0]
    assert {name: value for name, value in found.metrics[0.0].items() if "forgetting" not in name} == pytest.approx(
        dict(found.base), nan_ok=True
    )
    assert found.metrics[0.0]["forgetting/presence/accuracy_absent"] == 0.0
    assert sorted(path.name for path in (run_dir / "records" / "dials").iterdir()) == ["base", "dial_0.5", "dial_1"]
    assert dial_of(models[1].model) == 1.0

    again = choose(models, "max segm/AP", [1, 0.5, 0.25])
    assert len(passes) == 2 * IMAGES  # for 0.25 alone
    assert again.metrics[0.5] == pytest.approx(found.metrics[0.5], nan_ok=True)
    choose(models, "max segm/AP", [1], resume=False)
    assert len(passes) == 3 * IMAGES

    with_known = choose(models, "max segm/AP", [1], base_metrics=found.base, run_dir=tmp_path)
    assert [path.name for path in (tmp_path / "records" / "dials").iterdir()] == ["dial_1"]
    assert repr(with_known.metrics[1.0]) == repr(found.metrics[1.0])
    assert repr(with_known.metrics[0.0]) == repr(found.metrics[0.0])


def test_the_base_is_dial_0_unless_its_weights_were_trained(base, another, randomized):
    adapted = beside_base(randomized(adapted_copy(base, hy.HyperETConfig(scheme="B"))), base)
    along = along_dial(adapted, [1, 0, 0.25])
    assert [(one.name, one.dial) for one in along] == [("base", 0.0), ("dial_0.25", 0.25), ("dial_1", 1.0)]
    moved = another()
    next(moved.parameters()).data.add_(1e-3)
    along = along_dial(beside_base(adapted_copy(moved, hy.HyperETConfig(scheme="B")), base), [1, 0])
    assert [(one.name, one.dial) for one in along] == [("base", None), ("dial_0", 0.0), ("dial_1", 1.0)]


def test_records_of_somebody_else_stay(base, choice, monkeypatch, tmp_path):
    (tmp_path / "records" / "dials").mkdir(parents=True)
    with pytest.raises(ConfigError, match="records/dials is there and was not written by an earlier run"):
        choice[0](beside_base(adapted_copy(base, hy.HyperETConfig()), base), "max segm/AP", [1], run_dir=tmp_path)
