"""Check ADE20K's 150-class benchmark before it is used."""

import sys

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("prepare", ["data=ade20k", *sys.argv[1:]])
