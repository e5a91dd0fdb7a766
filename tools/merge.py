"""Fold an adapter into the base weights, where it folds, and write them."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("merge")
