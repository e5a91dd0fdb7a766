"""Check COCO 2017, or a set of one's own in its format, before it is used."""

import sys

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("prepare", ["data=coco", *sys.argv[1:]])
