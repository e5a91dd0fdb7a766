"""Train, then score the base and the adapted model, and write the report."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("train")
