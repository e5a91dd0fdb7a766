"""`python -m sam3_hyperet`."""

from sam3_hyperet.cli.console import main

if __name__ == "__main__":
    main()
