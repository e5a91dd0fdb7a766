"""Check ADE20K's 150-class benchmark before it is used."""

from sam3_hyperet.cli.prepare import main

if __name__ == "__main__":
    main("prepare_ade20k")
