"""Score prediction files: python tools/score.py coco|semantic key=value … (--help lists the keys)."""

from sam3_hyperet.cli.score import main

if __name__ == "__main__":
    main()
