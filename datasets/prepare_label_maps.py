"""Check a set of label maps (CamVid, Cityscapes, PASCAL-Context, ADE-847, your own) before it is used."""

import sys

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("prepare", ["data=camvid", *sys.argv[1:]])
