"""`benchmark cascade` on two scenes: looks that are calibrated, and categories that no scene shows."""

from __future__ import annotations

from benchmarks import cascade
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.scenes.concepts import CONCEPTS


def test_a_front_has_every_kind_of_first_look(base, monkeypatch, capsys):
    monkeypatch.setattr(cascade, "MIN_SCORE", 0.01)
    monkeypatch.setattr(cascade, "RECALLS", (0.5,))
    found = cascade.front("random", base, ["zebra"], 1)
    for kind in (*cascade.KINDS, cascade.PROBE):
        assert 0 <= found[f"{kind}/spared@0.5"] < 1
        assert 0 <= found[f"{kind}/recall@0.5"] <= 1
    assert found["features pooled by 4/cost"] < found["early exit: 1 + 2 layers of 2 + 2/cost"] < 1
    assert "26 prompts, 1 held-out scenes" in " ".join(capsys.readouterr().out.split())


def test_foreign_names_are_categories_without_annotations_and_classes_without_pixels(tmp_path):
    foreign = cascade.foreign_names(200)
    assert len(set(foreign)) == 200
    assert not set(foreign) & set(CONCEPTS)
    split = open_split(cascade.open_vocabulary_scenes(tmp_path, foreign, 1), "val")
    assert {category.name for category in split.images.categories} == {*CONCEPTS, *foreign}
    assert len(split.labels.categories) == 211
