"""A page in the browser with phrases and the dial: python tools/demo.py run=DIR key=value …"""

from sam3_hyperet.cli.console import run_tool

if __name__ == "__main__":
    run_tool("demo")
