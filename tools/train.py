"""Train, then score the base and the adapted model, and write the report."""

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.train import main

if __name__ == "__main__":
    exit_cleanly(main)()
