"""Write a model with its adapter as ONNX files, checked in ONNX Runtime."""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("export")
