"""Pretraining of the tiny base: train, then write the best weights in half precision, the file that is shipped."""

from pathlib import Path

import torch

from sam3_hyperet.cli.train import main as train
from sam3_hyperet.modeling.build import TINY_WEIGHTS, build_model
from sam3_hyperet.modeling.checkpoint import save_base
from sam3_hyperet.training.run_folder import WEIGHTS


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the run's folder."""
    run_dir = train(argv, tool="pretrain")
    best = build_model("tiny", checkpoint=run_dir / WEIGHTS["best"])
    save_base(best, run_dir / TINY_WEIGHTS, dtype=torch.float16)
    return run_dir
