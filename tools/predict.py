"""Find what phrases name on images: overlays and one JSON file."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("predict")
