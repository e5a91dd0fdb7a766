"""Check COCO 2017 before it is used."""

from sam3_hyperet.cli.prepare import main

if __name__ == "__main__":
    main("prepare_coco")
