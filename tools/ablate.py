"""Run an ablation study by a plan: arms, bases, seeds, one table and one figure."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("ablate")
