"""Radii of vision encoders: python tools/radius.py encoder=timm:NAME images=DIR resolution=[224,448] key=value …"""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("radius")
