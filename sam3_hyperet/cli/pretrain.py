"""Pretraining of a tiny base: train, then write the best weights in half precision, as one file to be shipped."""

from pathlib import Path

import torch

from sam3_hyperet.cli.base_pictures import trained_on
from sam3_hyperet.cli.of_run import config_of_run
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.checkpoint import save_base
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.options import read_options
from sam3_hyperet.training.run_files import WEIGHTS

BASE = "base.safetensors"


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the run's folder."""
    run_dir = train(argv, tool="pretrain")
    if (run_dir / WEIGHTS["best"]).is_file():  # else submitted as a job
        save_best(run_dir, run_dir / BASE)
    return run_dir


def save_best(run_dir: Path, file: Path) -> None:
    """Write the best weights of a run to a file, in half precision, with what drawn scenes they were trained on."""
    config = config_of_run(run_dir)
    model = read_options(ModelOptions, config.model, "model")
    best = build_model(model.name, checkpoint=run_dir / WEIGHTS["best"], resolution=model.resolution)
    save_base(best, file, dtype=torch.float16, metadata=trained_on(config))
