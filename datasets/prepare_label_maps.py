"""Check a set of label maps (Cityscapes, PASCAL-Context, ADE-847, CamVid, your own) before it is used."""

from sam3_hyperet.cli.prepare import main

if __name__ == "__main__":
    main("prepare_label_maps")
