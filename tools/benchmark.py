"""Measure speed and memory: python tools/benchmark.py <what> key=value …"""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("benchmark")
