"""A study with a stub in place of its runs: its plan, and the names of what was made."""

from __future__ import annotations

from pathlib import Path

PLAN = {
    "common": {"experiment": "smoke", "hyperet.sites": ["encoder_layer", "prompt"]},
    "data": {
        "scenes": {
            "options": {"data": "scenes_levels", "data.prompt_weights": None},
            "metrics": {"new": "held_out/segm/AP", "old": "known/segm/AP"},
            "gain": "new",
            "lost": "old",
        }
    },
    "arms": {"flat": {"geometry": "euclidean"}, "curved": {"geometry": "lorentz"}, "A": {"scheme": "A"}},
    "seeds": [0, 1],
    "comparisons": [["curved", "flat"]],
}
GAINS = {"flat": 0.1, "curved": 0.2, "A": 0.05}


def names(configs) -> list[str]:
    return [Path(config.run_dir).name for config in configs]
