"""Say what would fail in a training run, and the remedy, before it does."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("doctor")
