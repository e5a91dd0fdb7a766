"""Train the tiny base from scratch: the recipe of the weights that come with the package."""

import torch

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.train import main
from sam3_hyperet.modeling.build import TINY_WEIGHTS, build_model
from sam3_hyperet.modeling.checkpoint import save_base
from sam3_hyperet.training.run_folder import WEIGHTS


@exit_cleanly
def pretrain() -> None:
    """Train, then write the best weights in half precision: the file that is shipped."""
    run_dir = main(tool="pretrain_tiny")
    best = build_model("tiny", checkpoint=run_dir / WEIGHTS["best"])
    save_base(best, run_dir / TINY_WEIGHTS, dtype=torch.float16)


if __name__ == "__main__":
    pretrain()
