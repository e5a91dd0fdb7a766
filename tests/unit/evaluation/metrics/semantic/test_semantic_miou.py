"""Semantic mIoU: the reference numbers, a naive count on random maps, and files that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED, SemanticMIoU
from sam3_hyperet.evaluation.scoring.label_maps import LabelEncoding, read_names, score_label_folders

NAMES = ("sky", "road", "tree", "car")


@pytest.mark.parametrize(
    ("reference", "split"), [("dev_sceneparsing3", "validation"), ("dev_cocosnet_train6", "training")]
)
def test_reference_numbers(shared_data: Path, reference: str, split: str) -> None:
    expected = json.loads((shared_data / "reference_metrics/ade_reference.json").read_text())[reference]
    ade = shared_data / "ADEChallengeData2016"
    encoding = read_names(ade / "objectInfo150.txt")
    assert (len(encoding.names), encoding.offset, encoding.ignore) == (150, 1, 0)
    metrics = score_label_folders(
        ade / "annotations" / split, shared_data / "reference_metrics/ade_predictions", encoding
    )
    for key, theirs in {
        "mIoU": "mIoU_nanmean_over_union_gt_0",
        "mIoU/150": "CSAIL_mIoU_over_150_absent_is_0",
        "mIoU/gt": "mIoU_over_classes_in_GT",
        "pixel_accuracy": "pixel_accuracy",
        "classes/union": "n_classes_union",
        "classes/gt": "n_classes_GT",
        "labelled_pixels": "labelled_pixels",
        "images": "n_images",
    }.items():
        assert metrics[key] == pytest.approx(expected[theirs], abs=1e-9), key
    ious = {key: value for key, value in metrics.items() if key.startswith("IoU/")}
    assert len(ious) == len(expected["per_class_IoU"])
    for index, value in expected["per_class_IoU"].items():
        assert ious[f"IoU/{encoding.names[int(index) - 1]}"] == pytest.approx(value, abs=1e-9)
    assert metrics["predictions_without_label"] == 9 - expected["n_images"]


def random_maps(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(4):
        shape = tuple(rng.integers(1, 9, 2))
        label = rng.choice([0, 1, 2, 255], shape).astype(np.uint8)
        maps.append((label, rng.choice([0, 1, 3, UNASSIGNED, 255], shape).astype(np.int16)))
    return [(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.int16)), *maps]


def scored(maps: list[tuple[np.ndarray, np.ndarray]]) -> SemanticMIoU:
    evaluator = SemanticMIoU(NAMES)
    for label, prediction in maps:
        evaluator.process(label, prediction)
    return evaluator


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_same_as_a_naive_count(seed: int) -> None:
    maps = random_maps(seed)
    matrix = [[0] * 4 for _ in range(5)]
    for label, prediction in maps:
        for truth, guess in zip(label.flat, prediction.flat, strict=True):
            if truth != 255:
                matrix[4 if guess in (UNASSIGNED, 255) else guess][truth] += 1
    evaluator = scored(maps)
    assert evaluator.confusion.dtype == np.int64
    assert evaluator.confusion.tolist() == matrix
    total = sum(map(sum, matrix))
    ious, in_labels = {}, []
    for c, name in enumerate(NAMES):
        of_label = sum(row[c] for row in matrix)
        union = of_label + sum(matrix[c]) - matrix[c][c]
        if union:
            ious[name] = matrix[c][c] / union
        if of_label:
            in_labels.append(ious[name])
    metrics = evaluator.evaluate()
    assert {k: v for k, v in metrics.items() if k.startswith("IoU/")} == {f"IoU/{n}": v for n, v in ious.items()}
    assert metrics["mIoU"] == pytest.approx(sum(ious.values()) / len(ious))
    assert metrics["mIoU/4"] == pytest.approx(sum(ious.values()) / 4)
    assert metrics["mIoU/gt"] == pytest.approx(sum(in_labels) / len(in_labels))
    assert metrics["pixel_accuracy"] == pytest.approx(sum(matrix[c][c] for c in range(4)) / total)
    assert metrics["unassigned"] == pytest.approx(sum(matrix[4]) / total)


def test_unassigned_pixels_are_missed_and_tensors_are_taken() -> None:
    evaluator = SemanticMIoU(NAMES)
    evaluator.process(torch.zeros(2, 2, dtype=torch.uint8), torch.tensor([[0, 0], [UNASSIGNED, UNASSIGNED]]))
    metrics = evaluator.evaluate()
    assert metrics["mIoU"] == metrics["pixel_accuracy"] == metrics["unassigned"] == 0.5
    with pytest.raises(DataError, match="no labelled pixel in 0 images"):
        SemanticMIoU(NAMES).evaluate()


@pytest.mark.parametrize(
    ("label", "prediction", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"prediction is \(3, 2\), its label \(2, 3\)"),
        (np.zeros((2, 2), int), np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2, 3), int), np.zeros((2, 2, 3), int), "shape"),
        (np.full((2, 2), 4), np.zeros((2, 2), int), "label has the value 4, expected 0 to 3 or 255"),
        (np.zeros((2, 2), int), np.full((2, 2), -2), "prediction has the value -2"),
    ],
)
def test_bad_maps_are_refused(label: np.ndarray, prediction: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"^a.png.*{message}"):
        SemanticMIoU(NAMES).process(label, prediction, source="a.png")


def test_bad_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="all different"):
        SemanticMIoU(["a", "a"])
    with pytest.raises(ConfigError, match="ignore=2 is the value of class 'tree'"):
        SemanticMIoU(NAMES, ignore=2)


def test_camvid_names_mark_their_ignore_value(shared_data: Path) -> None:
    encoding = read_names(shared_data / "camvid/classes.txt")
    assert (len(encoding.names), encoding.offset, encoding.ignore) == (11, 0, 11)
    folder = shared_data / "camvid/valannot"
    metrics = score_label_folders(folder, folder, encoding)
    assert metrics["mIoU"] == metrics["pixel_accuracy"] == 1
    assert metrics["images"] == 101


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sky\nroad\n", (("sky", "road"), 0, 255)),
        ("\ufeffsky\r\nroad\r\n\r\nvoid (ignore)\r\n", (("sky", "road"), 0, 2)),
        (
            "Idx\tName\n1\tdoor, gate\n2\tdoor, portal\n3\tcar, auto\n",
            (("door, gate", "door, portal", "car"), 1, 0),
        ),
    ],
)
def test_names_files(tmp_path: Path, text: str, expected: tuple[tuple[str, ...], int, int]) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    encoding = read_names(tmp_path / "names.txt")
    assert (encoding.names, encoding.offset, encoding.ignore) == expected
    explicit = read_names(tmp_path / "names.txt", offset=7, ignore=90)
    assert (explicit.offset, explicit.ignore) == (7, 90)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no class names"),
        (b"Idx\tName\n", "lists no class"),
        (b"Idx\tName\n1\ta\n3\tb\n", "line 3 is .*expected class 2"),
        (b"Idx\tName\n1\ta\nx\tb\n", "line 3 is .*expected class 2"),
        (b"Idx\tName\n1\n", "line 2 is .*expected class 1"),
        (b"a\nb\na\n", "'a' occurs twice"),
        (b"none (ignore)\na\n", "line 1"),
        (b"\xff\xfe\x00", "it is UTF-16; expected a text in UTF-8"),
    ],
)
def test_bad_names_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_names(tmp_path / "names.txt")
    assert "names.txt" in str(error.value)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_label_files_that_are_no_label_maps(tmp_path: Path) -> None:
    rgb = save(tmp_path / "rgb.png", np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    broken = tmp_path / "broken.png"
    broken.write_bytes(rgb.read_bytes()[:40])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    for path, message in ((rgb, "found RGB pixels"), (broken, "not a readable"), (text, "not a readable")):
        with pytest.raises(DataError, match=message) as error:
            read_label_values(path)
        assert str(path) in str(error.value)
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_label_values(tmp_path / "none.png")


def test_palette_and_16_bit_label_maps(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("L")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "palette.png")
    assert read_label_values(tmp_path / "palette.png").tolist() == [[0, 1]]
    many = LabelEncoding(tuple(f"class {n}" for n in range(847)), 0, 65535)
    save(tmp_path / "l/a.png", np.array([[0, 846, 65535]], np.uint16))
    save(tmp_path / "p/a.png", np.array([[0, 846, 3]], np.uint16))
    assert score_label_folders(tmp_path / "l", tmp_path / "p", many)["mIoU"] == 1


def test_hostile_folders(tmp_path: Path) -> None:
    encoding = LabelEncoding(NAMES, 0, 255)
    labels, predictions = tmp_path / "labels", tmp_path / "predictions"
    with pytest.raises(DataError, match="labels: no such folder"):
        score_label_folders(labels, predictions, encoding)
    save(labels / "a.png", np.zeros((2, 3), np.uint8))
    predictions.mkdir()
    with pytest.raises(DataError, match=r"predictions: no file ends in \.png"):
        score_label_folders(labels, predictions, encoding)
    save(predictions / "other.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"1 of 1 predictions are missing, e\.g\. a\.png"):
        score_label_folders(labels, predictions, encoding)
    save(predictions / "a.png", np.zeros((3, 2), np.uint8))
    with pytest.raises(DataError, match=r"predictions/a\.png: prediction is \(3, 2\)"):
        score_label_folders(labels, predictions, encoding)
    save(predictions / "a.png", np.full((2, 3), 4, np.uint8))
    with pytest.raises(DataError, match=r"predictions/a\.png: has the value 4, expected 0 to 3, or 255 for none"):
        score_label_folders(labels, predictions, encoding)
    save(predictions / "a.png", np.full((2, 3), 255, np.uint8))
    metrics = score_label_folders(labels, predictions, encoding)
    assert (metrics["mIoU"], metrics["unassigned"], metrics["predictions_without_label"]) == (0, 1, 1)
    save(labels / "a.png", np.full((2, 3), 9, np.uint8))
    with pytest.raises(DataError, match=r"labels/a\.png: it has the label 9"):
        score_label_folders(labels, predictions, encoding)


@pytest.mark.parametrize("ending", ["PNG", "tif", "Tiff"])
def test_label_maps_of_any_ending_in_any_case_are_scored(tmp_path: Path, ending: str) -> None:
    right, wrong = np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)
    for folder, second in (("labels", right), ("predictions", wrong)):
        save(tmp_path / folder / "a.png", right)
        save(tmp_path / folder / f"b.{ending}", second)
    metrics = score_label_folders(tmp_path / "labels", tmp_path / "predictions", LabelEncoding(NAMES, 0, 255))
    assert (metrics["images"], metrics["pixel_accuracy"]) == (2, 0.5)


def test_linked_folders_are_scored_hidden_files_are_not(tmp_path: Path) -> None:
    for folder in ("labels", "predictions"):
        save(tmp_path / folder / "a.png", np.zeros((2, 3), np.uint8))
        (tmp_path / f"more {folder}").mkdir()
        save(tmp_path / f"more {folder}" / "b.png", np.zeros((2, 3), np.uint8))
        (tmp_path / folder / "linked").symlink_to(tmp_path / f"more {folder}")
        (tmp_path / folder / "._a.png").write_bytes(b"resource fork")
    metrics = score_label_folders(tmp_path / "labels", tmp_path / "predictions", LabelEncoding(NAMES, 0, 255))
    assert metrics["images"] == 2


def test_what_would_not_be_scored_is_an_error(tmp_path: Path) -> None:
    for folder in ("labels", "predictions"):
        save(tmp_path / folder / "a.png", np.zeros((2, 3), np.uint8))
    save(tmp_path / "labels" / "b.jpg", np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"no label maps: 1 file, such as b\.jpg"):
        score_label_folders(tmp_path / "labels", tmp_path / "predictions", LabelEncoding(NAMES, 0, 255))
