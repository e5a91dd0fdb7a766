"""Score the base and the adapted model side by side on any data set."""

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.evaluate import main

if __name__ == "__main__":
    exit_cleanly(main)()
