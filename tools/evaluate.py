"""Score the base and adapted models side by side on any data set."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("evaluate")
