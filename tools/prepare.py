"""Check a data set before it is used."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("prepare")
