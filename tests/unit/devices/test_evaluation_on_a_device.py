"""Prediction, evaluation, merging and moving on a pretend accelerator."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from pretend_device import fabric_on, watching
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.choices import VISUAL
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.rehearsal import base_answers
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.options import DataOptions, RehearsalOptions
from sam3_hyperet.data.rehearsal import RehearsedImages
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.evaluation.models import EvalModel, beside_base
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import evaluate_records, open_run, record_images
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.inference import prediction
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.inference.tiled_prediction import TiledPredictor
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import decode
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.sites.table import SITES
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.scenes.dataset import write_scenes

PROMPTS = ("car", "red wheel", "sky")
ADAPTERS = {
    "all sites": {"sites": list(SITES), "structure": "banded", "geometry": "gyro"},
    "lora": {"scheme": "A+B", "adapter": "lora", "rank": 1},
    "boft": {"scheme": "A+B", "adapter": "boft", "oft_block_size": 2},
    "bitfit": {"adapter": "bitfit"},
}
OF_IMAGE, OF_PROMPT = 24, 2
"""Synchronisations in our own code for an image of a model, at most: pixels, passes and radii; for a prompt, its ranked
detections and their masks."""


@pytest.fixture(scope="module")
def image(picture):
    """A picture of the model's size: a CPU resizes bytes in fixed-point numbers, other devices in floats."""
    return picture.resize((128, 128))


@dataclass
class Found:
    scores: torch.Tensor
    boxes: torch.Tensor
    masks: np.ndarray
    probabilities: torch.Tensor
    semantic: torch.Tensor


def found(predictor, picture, exemplars=None):
    """All that a prediction has, of each prompt, on the CPU."""
    every = []
    for one in predictor.predict(picture, exemplars=exemplars):
        best = one.top(4)
        size = (picture.height, picture.width)
        assert best.above(2.0).masks(*size).shape == (0, *size)
        parts = best.scores, best.boxes, best.masks(*size), best.mask_probabilities(*size)
        every.append(Found(*parts, one.semantic_probabilities(*size)))
    return every


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_predictions_are_those_of_a_cpu(device, micro, randomized, image, name, precision):
    answers = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)  # for LoRA
        model = randomized(hy.inject(micro(), hy.HyperETConfig(**ADAPTERS[name])), scale=0.05).to(where).eval()
        predictor = Predictor(model, PROMPTS, 128, prompts_at_once=2, precision=precision)
        with watching() as watch:
            answers.append(found(predictor, image))
            with hy.adapters_disabled(model):
                answers.append(found(Predictor(model, PROMPTS, 128, precision=precision), image))
    assert not watch.float64
    tolerance = 1e-4 if precision == "32-true" else 0.1
    for expected, answer in zip(answers[:2], answers[2:], strict=True):
        for one, other in zip(expected, answer, strict=True):
            assert other.boxes.device == device
            torch.testing.assert_close(other.scores.cpu(), one.scores, atol=tolerance, rtol=0)
            torch.testing.assert_close(other.semantic.cpu(), one.semantic, atol=tolerance, rtol=0)
            if precision == "32-true":
                torch.testing.assert_close(other.boxes.cpu(), one.boxes, atol=tolerance, rtol=0)
                torch.testing.assert_close(other.probabilities.cpu(), one.probabilities, atol=tolerance, rtol=0)
                certain = np.abs(one.probabilities.numpy() - 0.5) > tolerance
                assert ((other.masks == one.masks) | ~certain).all()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_boxes_are_those_of_a_cpu(device, micro, randomized, image, picture, precision):
    """One box and two, beside the text and alone, of which some prompts of a pass have none."""
    one, two = (
        Exemplars(((0.25, 0.5, 0.3, 0.4),)),
        Exemplars(((0.3, 0.3, 0.2, 0.2), (0.7, 0.6, 0.5, 0.5)), (True, False)),
    )
    given, answers = [one, None, two, one], []
    for where in (torch.device("cpu"), device):
        model = randomized(hy.inject(micro(), hy.HyperETConfig(scheme="A+C")), scale=0.05).to(where).eval()
        predictor = Predictor(model, (*PROMPTS, VISUAL), 128, prompts_at_once=2, precision=precision)
        with watching() as watch:
            answers.append(found(predictor, image, given))
    assert not watch.float64
    tolerance = 1e-4 if precision == "32-true" else 0.1
    for expected, answer in zip(*answers, strict=True):
        torch.testing.assert_close(answer.scores.cpu(), expected.scores, atol=tolerance, rtol=0)
        torch.testing.assert_close(answer.semantic.cpu(), expected.semantic, atol=tolerance, rtol=0)
    plain = found(predictor, image)
    assert not torch.equal(answers[1][0].scores.cpu(), plain[0].scores.cpu())
    torch.testing.assert_close(answers[1][1].scores.cpu(), plain[1].scores.cpu(), atol=tolerance, rtol=0)
    odd = picture.resize((101, 77))
    boxes = Exemplars.in_pixels([(3, 5, 41, 33), (60, 40, 30, 30)], odd.size)
    with watching() as watch:
        for answer in TiledPredictor(predictor, Tiling.of("2x1")).predict(odd, [0, 3], [boxes] * 2):
            detections = answer.detections(77, 101, 3)
            assert {tuple(rle["size"]) for rle in detections.rles(3)} <= {(77, 101)}
    assert not watch.float64


def test_an_evaluation_with_boxes(device, micro, scenes, tmp_path):
    _, split = scenes
    protocol = Protocol(exemplars=2, exemplar_text=False, granularity=False, prompts_at_once=4)
    metrics = []
    for where in (torch.device("cpu"), device):
        task = EvalTask(split, protocol, [0, 1])
        run = open_run(EvalModel("base", micro().to(where)), task, RecordStore(tmp_path / where.type))
        with watching() as watch:
            record_images([run], [[0, 1]], lambda i: split.images.load_image(i).convert("RGB"), workers=0)
        records = run.store.read_all([0, 1])
        metrics.append(evaluate_records(run.evaluators, records, len(task.prompts)))
    assert not watch.float64
    assert metrics[0].keys() == metrics[1].keys()
    scored = [{key: value for key, value in one.items() if "speed" not in key} for one in metrics]
    assert scored[1] == pytest.approx(scored[0], abs=2e-3, nan_ok=True)


def test_masks_of_large_pictures_are_enlarged_in_parts(device, monkeypatch):
    height, width = 400, 300
    logits = torch.randn(7, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    one = prediction.PromptPrediction(
        torch.ones(7, device=device), torch.zeros(7, 4, device=device), logits, logits[0], 1.0
    )
    whole, probabilities = one.masks(height, width), one.mask_probabilities(height, width)
    for bound, largest in ((2**20, 2 * 4 * height * width), (1, 4 * height * width)):
        monkeypatch.setattr(prediction, "BYTES_AT_ONCE", bound)
        with watching() as watch:
            assert (one.masks(height, width) == whole).all()
            each = torch.stack([mask.cpu() for mask in one.each_mask_probabilities(height, width)])
        assert torch.equal(each, probabilities.cpu())
        assert watch.largest == largest


def test_areas_are_counted_where_the_masks_are(device, monkeypatch):
    scores, boxes = torch.linspace(0.9, 0.1, 7, device=device), torch.zeros(7, 4, device=device)
    logits = torch.randn(7, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)
    one = prediction.PromptPrediction(scores, boxes, logits, logits[0], 1.0)
    here = one.detections(400, 300, 5)
    assert here.masks.shape == (5, 400, 300)
    expected = here.areas(5).tolist()
    monkeypatch.setattr(prediction.PromptPrediction, "masks", lambda *_: pytest.fail("masks are copied"))
    for bound in (2**28, 2**20, 1):
        monkeypatch.setattr(prediction, "BYTES_AT_ONCE", bound)
        assert one.detections(400, 300, 5).areas(5).tolist() == expected
    assert one.keep(torch.arange(0, device=device)).areas(400, 300).tolist() == []


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    data = DataOptions(name="drawn", format="scenes", root=str(root), splits={"val": 2})
    return data, open_split(data, "val")


def test_a_whole_evaluation(device, micro, randomized, scenes, tmp_path):
    """All evaluators, the report's images and figures; the same metrics as on a CPU."""
    data, split = scenes
    protocol = Protocol(limit=1, examples=1, bootstrap=3, workers=1, precision="32-true", prompts_at_once=8)
    metrics = []
    for where in (torch.device("cpu"), device):
        base = micro().to(where)
        adapted = randomized(adapted_copy(base, hy.HyperETConfig(scheme="A+C+P", structure="diagonal")), scale=0.05)
        fabric = Fabric(accelerator="cpu", devices=1) if where.type == "cpu" else fabric_on(device)
        console = Console(file=io.StringIO(), width=200)
        folder = tmp_path / where.type
        with watching() as watch:
            metrics.append(
                compare_and_report(
                    *(beside_base(adapted, base), data, split, protocol, folder),
                    config_text="",
                    extra={},
                    console=console,
                    fabric=fabric,
                )
            )
        assert (folder / "report.html").is_file()
    assert not watch.float64
    assert {"drawn/granularity/pixels/part", "base/drawn/granularity/text/part_object/delta"} <= metrics[1].keys()
    expected, scored = ({k: v for k, v in one.items() if "speed" not in k} for one in metrics)
    assert scored == pytest.approx(expected, abs=2e-3, nan_ok=True)
    of_images = {place: n for place, n in watch.waits.items() if "tensors_digest" not in place[1]}  # once an evaluation
    ours = sum(n for (_, place), n in of_images.items() if place.startswith("sam3_hyperet"))
    prompts = metrics[1]["drawn/speed/prompts_per_s"] / metrics[1]["drawn/speed/images_per_s"]
    assert ours <= 2 * (OF_IMAGE + OF_PROMPT * prompts), (ours, prompts, of_images)


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "A", "geometry": "euclidean", "residual": 0.5},
        {"scheme": "P", "structure": "diagonal"},
        {"sites": ["prompt"], "geometry": "mobius"},
        {"scheme": "A", "adapter": "lora", "rank": 1},
        {"scheme": "A", "adapter": "boft", "oft_block_size": 2},
        {"adapter": "bitfit"},
    ],
)
def test_files_and_merging(device, micro, randomized, picture, tmp_path, options):
    model = randomized(hy.inject(micro(), hy.HyperETConfig(**options)).to(device).cpu(), scale=0.05).to(device).eval()
    with watching() as watch:
        hy.save_adapter(model, tmp_path / "adapter.safetensors")
        other = hy.load_adapter(micro().to(device), tmp_path / "adapter.safetensors").eval()
        before = found(Predictor(other, PROMPTS, 128), picture)
        hy.parameter_report(other)
        hy.merge(other)
    after = found(Predictor(other, PROMPTS, 128), picture)
    assert not watch.float64
    for one, same in zip(before, after, strict=True):
        torch.testing.assert_close(same.scores.cpu(), one.scores.cpu(), atol=1e-4, rtol=0)


def test_the_official_layout_is_written_on_the_cpu(device, micro, tmp_path):
    model = micro()
    expected = {f"detector.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    hy.save_official(model.to(device), tmp_path / "sam3.pt")
    written = torch.load(tmp_path / "sam3.pt", weights_only=True)
    assert {tensor.device.type for tensor in written.values()} == {"cpu"}
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_model_that_has_run_is_moved(device, micro, randomized, image, name):
    """There and back, also while its weights are kept, its encodings shared, and its adapters switched off."""
    model = randomized(hy.inject(micro(), hy.HyperETConfig(**ADAPTERS[name])), scale=0.05).eval()
    first = found(Predictor(model, PROMPTS, 128), image)
    with weights_kept([model]), shared_encoding([model]), torch.inference_mode():
        for where in (device, torch.device("cpu")):
            found(Predictor(model, PROMPTS, 128), image)
            with torch.inference_mode(False), hy.adapters_disabled(model):
                model.to(where)
            again = found(Predictor(model, PROMPTS, 128), image)
            for one, same in zip(first, again, strict=True):
                torch.testing.assert_close(same.scores.cpu(), one.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_is_rehearsed_is_what_the_base_finds_on_a_cpu(device, micro, randomized, tmp_path, precision):
    """Asked of a model whose adapters have moved and that trains."""
    scenes = write_scenes(tmp_path, 2, 0, 128, "train")
    options = RehearsalOptions(PROMPTS, score_threshold=0.01, unclear_threshold=0.005)
    images = RehearsedImages(read_coco(scenes.annotations, scenes.image_folder), PROMPTS, options)
    adapted = randomized(hy.inject(micro(), hy.HyperETConfig(scheme="A+P")), scale=0.5).to(device).train()
    asked = iter(range(5))
    how = Protocol(precision=precision), lambda: next(asked)
    answers = [base_answers(model, images, [0, 1], *how) for model in (micro(), adapted)]
    assert (next(asked), [one.keys() for one in answers]) == (4, [{0, 1}, {0, 1}])
    assert adapted.training
    for ours, theirs in zip(answers[1].values(), answers[0].values(), strict=True):
        assert len(theirs.found) > 3
        best = [{one[0]: one[2] for one in reversed(found)} for found in (ours.found, theirs.found)]
        assert best[0] == pytest.approx(best[1], abs=1e-4 if precision == "32-true" else 0.02)
        if precision == "32-true":
            assert ours.unclear == theirs.unclear
            assert [one[0] for one in ours.found] == [one[0] for one in theirs.found]
            assert [one[2] for one in ours.found] == pytest.approx([one[2] for one in theirs.found], abs=1e-4)
            pairs = [(decode(a[1]), decode(b[1])) for a, b in zip(ours.found, theirs.found, strict=True)]
            assert max((a != b).mean() for a, b in pairs) < 1e-3
