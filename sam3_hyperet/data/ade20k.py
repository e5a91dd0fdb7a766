"""ADE20K's 150-class benchmark (ADEChallengeData2016), as its archive unpacks."""

from pathlib import Path

from sam3_hyperet.data.annotations import prompt_name, shown
from sam3_hyperet.data.class_names import text_lines
from sam3_hyperet.data.label_maps import LabelMaps, read_label_maps
from sam3_hyperet.errors import DataError

SPLITS = ("training", "validation")


def read_ade20k(root: Path | str, split: str = "validation") -> LabelMaps:
    """`root`/images/`split` with `root`/annotations/`split`, named by `root`/objectInfo150.txt.

    Label 0 is no class, labels 1 … 150 become the category ids 0 … 149. Raises DataError.
    """
    root = Path(root)
    if split not in SPLITS:
        raise DataError(f"{root}: there is no split {split!r}, expected {' or '.join(SPLITS)}")
    names = [", ".join((name, *synonyms)) for name, synonyms in read_object_info(root / "objectInfo150.txt")]
    folders = (root / "images" / split, root / "annotations" / split)
    return read_label_maps(*folders, names, ignore=0, offset=1, name=f"ade20k/{split}")


def is_object_info(line: str) -> bool:
    """Whether a line is the first of CSAIL's tab-separated table of classes."""
    return {"Idx", "Name"} <= {cell.strip() for cell in line.split("\t")}


def read_object_info(path: Path | str) -> list[tuple[str, tuple[str, ...]]]:
    """(name, synonyms) of every class, in the order of their labels, from CSAIL's tab-separated table."""
    path = Path(path)
    lines = text_lines(path)
    header, *rows = [[cell.strip() for cell in line.split("\t")] for line in lines if line.strip()] or [[]]
    if not is_object_info("\t".join(header)):
        raise DataError(f"{path}: its first line is {shown(header)}, expected columns Idx … Name")
    index, name = header.index("Idx"), header.index("Name")
    found = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header) or row[index] != str(number):
            raise DataError(f"{path}: line {number + 1} is {shown(row)}, expected class {number}")
        first, *synonyms = (prompt_name(word, f"{path}: class {number}") for word in row[name].split(","))
        found.append((first, tuple(synonyms)))
    if not found:
        raise DataError(f"{path}: it lists no class")
    return found
