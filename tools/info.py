"""Say what an adapter is: a file, a run's folder or a repository of the hub."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("info")
