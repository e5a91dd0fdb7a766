"""Train the tiny base from scratch: the recipe of the weights that come with the package."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("pretrain")
