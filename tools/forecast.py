"""Say what memory a training run's steps take on cards of several sizes, without a card."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("forecast")
