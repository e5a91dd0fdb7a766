"""Fold an adapter into the base weights, where it folds, and write them."""

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.merge import main

if __name__ == "__main__":
    exit_cleanly(main)()
