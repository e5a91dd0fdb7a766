"""What a model finds on pictures, as overlays and as one JSON file."""

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.predict import main

if __name__ == "__main__":
    exit_cleanly(main)()
