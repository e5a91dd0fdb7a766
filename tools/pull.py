"""Fetch a shared adapter from the Hugging Face hub into a folder."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("pull")
