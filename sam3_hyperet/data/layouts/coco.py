"""COCO files, as COCO itself and as annotation tools lay them out."""

from collections.abc import Sequence
from pathlib import Path

from sam3_hyperet.data.layouts.layout import Found, Layout


def recognise_coco(root: Path) -> Sequence[Found]:
    """COCO's tree in a folder."""
    names = sorted(path.stem.removeprefix("instances_") for path in (root / "annotations").glob("instances_*.json"))
    splits = {
        split: [name, f"annotations/instances_{name}.json"]
        for split in ("train", "val")
        for name in names
        if name.startswith(split)
    }
    return [Found("COCO", {"format": "coco", "splits": splits})] if splits else []


LAYOUT = Layout({"COCO": "annotations/instances_train.json, train/"}, recognise_coco)
