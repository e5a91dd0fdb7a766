"""Train the tiny base from scratch: the recipe of the weights that come with the package."""

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.train import main

if __name__ == "__main__":
    exit_cleanly(main)(tool="pretrain_tiny")
