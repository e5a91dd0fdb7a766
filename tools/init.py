"""Write a data file and an experiment for a folder of one's own."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("init")
