"""Share an adapter on the Hugging Face hub, with a model card."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("push")
