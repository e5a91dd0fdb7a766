"""Score prediction files: python tools/score.py coco|cgf1|semantic key=value …"""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("score")
