"""`sam3-hyperet forecast`: a table of schemes and cards, and the rows of it."""

from __future__ import annotations

import json

import pytest

from sam3_hyperet.cli import forecast
from sam3_hyperet.errors import ConfigError


class Forecasts:
    """3 GiB, one more for scheme P, 1 for each prompt in a pass and .5 where activations are recomputed."""

    def __init__(self, kind):
        self.fixed = 4 if "trunk_qv" in kind.hyperet.resolved_sites else 3

    def step(self, images, prompts, *, checkpoint_activations=False, **_):
        of_prompts = images * prompts * (0.5 if checkpoint_activations else 1)
        return type("Step", (), {"peak": round((self.fixed + of_prompts) * 2**30)})

    def interpolated(self, prompts, most, **options):
        return self.step(1, prompts, **options).peak


def test_a_table_of_many_sites_names_them_all(monkeypatch, capsys):
    monkeypatch.setattr(forecast, "Forecaster", Forecasts)
    sites = "hyperet.sites=[encoder_layer,prompt,attention]"
    forecast.main([sites, "train.batch_size=1", "compare=false", "data.exemplars=0.3"])
    printed = capsys.readouterr().out
    assert "show 5 objects and have a box;" in printed
    assert "a step of 1 image with" in printed
    assert "…" not in printed
    names = "".join(line.split("│")[1].strip() for line in printed.splitlines() if line.startswith("│"))
    assert names == "encoder_layer+prompt+attention"


def test_the_table_says_what_fits_and_how(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(forecast, "Forecaster", Forecasts)
    rows = forecast.main(["data=coco", "cards=[4,12,24,80]", f"out={tmp_path / 'rows.json'}"])
    printed = capsys.readouterr().out
    assert "large at its own resolution, bf16-mixed: a step of 4 images with 5 prompts each, of which 3 show" in printed
    own_sites = "encoder_layer+prompt"
    own = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith(f"│ {own_sites}")]
    assert [cell.strip() for cell in own[0]] == [own_sites, "1", "23.0 GiB", "-", "8.0 (5)", "13.0 c", "23.0"]
    assert {(row["sites"], row["stage"]) for row in rows} >= {
        *((own_sites, stage) for stage in (1, 2, 3)),
        ("A", 1),
        ("P", 1),
    }
    assert json.loads((tmp_path / "rows.json").read_text()) == rows
    (small,) = [row for row in rows if (row["sites"], row["card_gb"]) == ("P", 12)]
    expected = {"fits": True, "prompts_at_once": 5, "checkpoint_activations": False, "gib": 9.0, "plain_gib": 24.0}
    assert small == {"sites": "P", "stage": 1, "card_gb": 12, **expected}


def test_cards_are_sizes():
    with pytest.raises(ConfigError, match=r"cards=\['rtx'\]; expected GB of memory"):
        forecast.main(["cards=[rtx]"])
