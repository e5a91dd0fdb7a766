"""Models side by side: which numbers are whose, and what is written."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from metric_keys import keyed
from micro_model import micro_base
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.cli.compare import compare_and_report, print_metrics
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.digest import tensors_sha256
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metric_table import own_intervals
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.models import EvalModel, beside_base
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.recording import own_positions
from sam3_hyperet.evaluation.task import check_tiles
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites
from sam3_hyperet.version import versions


@pytest.fixture(scope="module")
def base():
    return micro_base()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return DataOptions(name="drawn", format="scenes", root=str(root), splits={"val": 3})


def run(models, data, folder, **options):
    protocol = Protocol(**{"limit": 2, "examples": 0, "bootstrap": 5, **options})
    console = Console(file=io.StringIO(), width=200)
    fabric = Fabric(accelerator="cpu", devices=1)
    return compare_and_report(
        models,
        data,
        open_split(data, "val"),
        protocol,
        folder,
        config_text="x: 1",
        extra={"extra": 3.0},
        console=console,
        fabric=fabric,
    )


def scored(metrics, prefix):
    return {
        key.removeprefix(prefix): value
        for key, value in metrics.items()
        if key.startswith(f"{prefix}drawn/") and "speed" not in key
    }


def test_each_number_is_its_own_model_s(base, model, another, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    off = run(beside_base(adapted), data, tmp_path / "off")
    alone = run([EvalModel("base", base)], data, tmp_path / "alone")
    moved = randomized(hy.inject(another(), hy.HyperETConfig()), seed=8)
    against = run(beside_base(adapted, moved), data, tmp_path / "against")
    own = run([EvalModel("own", moved)], data, tmp_path / "own")

    assert scored(off, "base/") == scored(alone, "")
    assert scored(off, "") != scored(off, "base/")
    assert scored(against, "") == scored(off, "")
    assert scored(against, "base/") == scored(own, "")
    assert not scored(alone, "base/")
    assert all(site.enabled for site in adapter_sites(adapted).values())
    for key in ("segm/AP", "fused/mIoU", "presence/accuracy_absent"):
        difference = against[f"drawn/{key}"] - against[f"base/drawn/{key}"]
        assert against[f"difference/drawn/{key}"] == pytest.approx(difference, abs=1e-12)
        assert f"difference/drawn/{key}/low" not in against  # of two images
    assert "2 images: too few for intervals, which take 10" in (tmp_path / "against" / "report.html").read_text()


def test_several_models_are_named_and_scored_as_each_alone(base, randomized, data, tmp_path):
    """One shares the base's neck, the other its trunk as well; what the evaluators see through hooks is its own."""
    models = [EvalModel("base", base)]
    for name, scheme in (("first", "A"), ("second", "B")):
        models.append(EvalModel(name, randomized(adapted_copy(base, hy.HyperETConfig(scheme=scheme)))))
    together = run(models, data, tmp_path / "together")
    assert not scored(together, "")
    for model in models[1:]:
        alone = run([models[0], model], data, tmp_path / model.name)
        assert scored(together, f"{model.name}/") == scored(alone, "")
        assert scored(together, "base/") == scored(alone, "base/")
        assert together[f"{model.name}/params/added"] == alone["params/added"] > 0
        key = "drawn/segm/AP"
        assert together[f"difference/{model.name}/{key}"] == alone[f"difference/{key}"]
        assert together[f"between/second/first/{key}"] == pytest.approx(
            together[f"second/{key}"] - together[f"first/{key}"]
        )
    assert together["first/normalized_radius/fpn.0/mean"] != together["first/normalized_radius/fpn.0/mean_before"]


def test_numbers_of_tiles_are_kept_apart(base, data, tmp_path):
    protocol = Protocol(tiles="2x1")
    assert not {"tiles", "tile_overlap"} & Protocol().deciding().keys()
    assert {"tiles", "tile_overlap"} <= protocol.deciding().keys()
    with pytest.raises(ConfigError, match=r"protocol.tiles=2x1 with protocol.recall=0.9.*expected protocol=exact"):
        Protocol(tiles="2x1", recall=0.9, min_score=0.1)
    with pytest.raises(ConfigError, match=r"protocol.tiles='3'; expected COLUMNSxROWS"):
        Protocol(tiles="3")
    check_tiles(open_split(data, "val"), protocol)
    with pytest.raises(DataError, match=r"128 x 128 pixels are too few for 12x1 tiles"):
        check_tiles(open_split(data, "val"), Protocol(tiles="12x1"))
    found = run([EvalModel("base", base)], data, tmp_path, limit=1, tiles="2x1", bootstrap=0)
    assert json.loads((tmp_path / "metrics.json").read_text())["tiles"] == "2x1, overlap 0.2"
    assert "<td>2x1</td>" in re.sub(r"\s+", "", (tmp_path / "report.html").read_text())
    assert {"drawn/segm/AP", "drawn/fused/mIoU", "drawn/presence/accuracy_absent"} <= {str(key) for key in found}
    assert not [key for key in found if "uncertainty" in key or "granularity/" in key]


def test_a_fast_protocol_reports_its_difference_from_the_exact_one(model, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    exact = run(beside_base(adapted), data, tmp_path / "exact")
    fast = run(beside_base(adapted), data, tmp_path / "fast", min_score=0.9, compare_exact=2)
    assert fast["drawn/detections"] < exact["drawn/detections"]
    difference = fast["drawn/segm/AP"] - exact["drawn/segm/AP"]
    assert fast["drawn/speed/fast_minus_exact/AP"] == pytest.approx(difference, abs=1e-12)
    assert not [key for key in exact if "fast_minus_exact" in key]


def test_what_training_left_out_is_measured_as_forgotten(model, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    metrics = run(beside_base(adapted), replace(data, annotated=("group",)), tmp_path)
    lost = metrics["base/drawn/part/presence/accuracy_absent"] - metrics["drawn/part/presence/accuracy_absent"]
    assert metrics["drawn/forgetting/part/presence/accuracy_absent"] == lost
    assert not [key for key in metrics if "forgetting/group" in key]


def test_records_of_another_precision_are_not_reused(base, data, tmp_path, monkeypatch):
    """`auto` is what it becomes on the device; its records are those of that precision, and of no other."""
    monkeypatch.setattr("sam3_hyperet.cli.compare.remove_records", lambda *_: None)
    models, said = [EvalModel("base", base)], []
    monkeypatch.setattr(Console, "print", lambda console, line, **_: said.append(line))
    exact = scored(run(models, data, tmp_path, limit=1), "")
    assert "precision: 32-true on cpu (auto; PyTorch finds no CUDA device)" in said
    for precision, starts_over in (("tf32", False), ("bf16-mixed", True)):
        said.clear()
        found = scored(run(models, data, tmp_path, limit=1, precision=precision), "")
        started = [line for line in said if "records start over" in str(line)]
        assert bool(started) == starts_over == (found != exact)
    assert "protocol.precision was 32-true, now it is bf16-mixed" in started[0]
    assert "bf16-mixed; beside fp32, on the tiny model" in (tmp_path / "report.html").read_text()


def test_what_is_written(model, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
    metrics = run(
        beside_base(adapted, adapter_file=tmp_path / "adapter.safetensors"), data, tmp_path / "new", examples=1
    )
    written = json.loads((tmp_path / "new" / "metrics.json").read_text(), parse_constant=pytest.fail)
    asked, of_data = written.pop("protocol"), written.pop("data")
    digest = tensors_sha256(tmp_path / "adapter.safetensors")
    assert written == {"precision": "32-true", "adapter_tensors_sha256": digest, **metrics}
    assert (asked["limit"], asked["examples"], asked["max_dets"]) == (2, 1, 100)
    assert (of_data["name"], of_data["split"], of_data["images"], len(of_data["prompts"])) == ("drawn", "val", 2, 25)
    assert metrics["extra"] == 3
    report = hy.parameter_report(adapted)
    assert {key: metrics[f"params/{key}"] for key in ("added", "total", "added_ratio")} == {
        key: report[key] for key in ("added", "total", "added_ratio")
    }
    assert "params/trainable" not in metrics  # what trains is the training run's to say
    assert metrics["normalized_radius/fpn.0/mean"] != metrics["base/normalized_radius/fpn.0/mean"]
    html = (tmp_path / "new" / "report.html").read_text()
    assert re.search(r"precision</t.>\s*<td[^>]*>32-true<", html)
    for part in ("drawn, val split, 2 of 3 images", "SHA-256", "x: 1", "128 pixels, square", "25 prompts"):
        assert part in html
    assert not (tmp_path / "new" / "records").exists()


def test_equal_facts_for_equal_models_alone(base, another, randomized):
    """Shared tensors are read once; a switched-off adapter is the base; one moved number is another model."""
    adapted = randomized(hy.inject(another(), hy.HyperETConfig()))
    off, on = (one.model for one in beside_base(adapted))
    facts = model_facts([base, off, on, adapted])
    assert facts[0] == facts[1]
    assert facts[2] == facts[3] != facts[0]
    with torch.no_grad():
        next(parameter for _, parameter in adapter_parameters(adapted)).flatten()[0] += 1e-6
    assert model_facts([adapted])[0]["adapter"] != facts[2]["adapter"]


def test_the_printed_table():
    file = io.StringIO()
    metrics = {"d/segm/AP": 0.5, "base/d/segm/AP": 0.25, "d/segm/AP/car": 0.9, "d/fused/mIoU": 0.1, "speed": 2.0}
    metrics |= {"d/bbox/AP": -1.0, "base/d/bbox/AP": -1.0}  # nothing to find
    print_metrics(Console(file=file, width=100), keyed(metrics), ["base", "adapted"])
    lines = [line for line in file.getvalue().splitlines() if "d/" in line]
    assert len(lines) == 3
    assert lines[0].split("│")[1:5] == [" d/segm/AP    ", " 0.2500 ", " 0.5000  ", " +0.2500    "]
    assert "–" in lines[1]
    assert lines[2].split("│")[2:5] == [" –      ", " –       ", " –          "]


def test_long_names_are_told_apart_in_the_printed_table():
    names = [f"scenes_levels_101_{one}_seed0" for one in ("B_prompt_lorentz_gate", "B_prompt_euclidean_gate", "lora")]
    metrics = {f"{name}/d/segm/AP": 0.5 for name in ("base", *names)}
    file = io.StringIO()
    print_metrics(Console(file=file, width=80), keyed(metrics, names), ["base", *names])
    said = file.getvalue()
    assert f"lora: {names[2]}\n" in said
    head = said[: said.index("0.5000")].splitlines()[4:]
    columns = zip(*(line.replace("│", "┃").split("┃") for line in head if "┃" in line), strict=False)
    assert {"base", "B_prompt_lorentz_gate", "B_prompt_euclidean_gate", "lora"} < {
        "".join(map(str.strip, column)).partition("d/")[0] for column in columns
    }


def test_versions_name_what_the_numbers_depend_on():
    found = versions()
    assert found["sam3_hyperet"] == hy.__version__
    assert {"python", "torch", "sam3", "pycocotools"} <= found.keys()


def test_a_key_is_its_text_and_its_parts():
    key = MetricKey.of(MetricKey("segm/AP", group="part", category="a/b"), "coco", "base")
    assert json.loads(json.dumps({key: 1})) == {"base/coco/part/segm/AP/a/b": 1}
    assert (key.model, key.data, key.group, key.metric, key.category) == ("base", "coco", "part", "segm/AP", "a/b")
    assert {key: 1}["base/coco/part/segm/AP/a/b"] == 1
    assert MetricKey.of("images", "coco") == "coco/images"


def test_evaluators_that_have_intervals_get_them_for_every_model():
    def headline(records):
        return lambda weights: {"granularity/encoder/rho": float(weights @ [one["x"] for one in records]) / 12}

    def result(name, scale):
        evaluators = {k: SimpleNamespace(has_intervals=k == "levels", headline=headline) for k in ("levels", "radius")}
        model = SimpleNamespace(name=name)
        records = [{"x": scale * i} for i in range(12)]
        headlines = {name: one.headline(records) for name, one in evaluators.items()}
        return SimpleNamespace(model=model, evaluators=evaluators, records=records, headlines=headlines)

    found = own_intervals("d", [result("base", 1), result("adapted", 2)], 50)
    key = "d/granularity/encoder/rho"
    assert found.keys() == {f"{model}{key}/{end}" for model in ("base/", "") for end in ("low", "high")}
    assert found[f"{key}/high"] == pytest.approx(2 * found[f"base/{key}/high"])
    assert found[f"{key}/low"] < 11 < found[f"{key}/high"]
    assert own_intervals("d", [result("base", 1)], 0) == {}


def dealt(left, processes):
    """What each process records of runs that lack these of 20 images, what was said, and what each one has sent."""
    runs = [
        SimpleNamespace(
            name=f"m{k}", positions=tuple(range(20)), store=SimpleNamespace(missing=lambda _, own=own: (list(own), 1))
        )
        for k, own in enumerate(left)
    ]
    sent, said, found = [], [], []

    def broadcast(values):
        sent.append(values)
        return sent[0]

    for rank in range(processes):
        of_rank = {"is_global_zero": rank == 0, "global_rank": rank, "world_size": processes}
        fabric = SimpleNamespace(**of_rank, broadcast=broadcast, rank_zero_first=contextlib.nullcontext)
        found.append(own_positions(runs, fabric, said.append))
    return found, said, sent


def test_what_an_interrupted_evaluation_left_is_shared_evenly():
    """Also where one of two processes had done its part: no process waits for the other half of the images."""
    found, said, sent = dealt([range(1, 20, 2)], 2)
    assert [len(part) for (part,) in found] == [5, 5]
    assert sorted(found[0][0] + found[1][0]) == list(range(1, 20, 2))
    assert sent[1] is None  # the second process has looked at no file
    assert said == ["m0: goes on with 10 of 20 images, 1 of them for a damaged record"] * 2


@pytest.mark.parametrize("exact", [(), range(0, 20, 5)])
def test_an_image_is_one_process_s_for_all_runs(exact):
    """Killed when the base was done with image 5 and the adapted model was not; and the few of an exact run."""
    left = [range(6, 20), range(5, 20), exact]
    found, _, _ = dealt(left, 2)
    first, second = (set().union(*of_runs) for of_runs in found)
    assert not first & second
    assert [sorted(found[0][k] + found[1][k]) for k in range(3)] == list(map(list, left))
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(*found, strict=True))
