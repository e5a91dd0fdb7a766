"""The categories of a COCO file, and the root that Roboflow puts above them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sam3_hyperet.data.annotations import MAX_CATEGORY_ID, Category, field, read_category, records, spoken
from sam3_hyperet.data.coco_json import CocoJson
from sam3_hyperet.data.coco_records import Foreign, as_whole_number, foreign_reason, id_key, numbered, read_id
from sam3_hyperet.errors import DataError

ROOT = 0
"""Id of a root category."""


def read_categories(
    source: CocoJson, content: Mapping[str, Any], adjusted: Counter[str]
) -> tuple[tuple[Category, ...], str, Foreign]:
    """The categories, the name of the root category that is none of them, "" where there is none, and foreign ids.

    Raises DataError, naming file and record.
    """
    path = source.path
    listed = list(records(content, "categories", path))
    root = _root(listed, source)
    if root:  # it says nothing of what is below it
        listed = [(where, {**one, "supercategory": "none"}) for where, one in listed if not _is_root(one)]
    foreign = numbered([record.get("id") for _, record in listed], MAX_CATEGORY_ID)
    if foreign:
        adjusted[foreign_reason("category")] += len(foreign)
    named = [record for _, record in listed if isinstance(record.get("name"), str)]
    ids_of = {spoken(record["name"]): id_key(record.get("id")) for record in named}
    named_by = {
        name: number
        for name, one in ids_of.items()
        if one is not None and isinstance(number := foreign.get(one, one), int)
    }
    found: dict[int, Category] = {}
    supers, ids = dict[str, int](), dict[str, int]()  # of supercategories, of names as SAM 3 reads them
    for where, record in listed:
        number = read_id(field(record, "id", where), f"{where}: its id", adjusted, MAX_CATEGORY_ID, foreign)
        category, where = read_category({**record, "id": number}, where, f"{path}: category")
        text = category.name
        if number in found:
            raise DataError(f"{where}: two categories have this id ({found[number].name!r} and {text!r})")
        if (other := ids.get(text.lower())) is not None:
            used = {foreign.get(one, one) for one in source.used_categories() if one is not None}
            if number in used and other in used:
                raise DataError(
                    f"{where}: category {other} has the same name {text!r} ({found[other].name!r}), and so the same "
                    "prompt; expected one category, or names that tell them apart"
                )
            adjusted["category without annotation, named as another is, left out"] += 1
            if number not in used:
                continue
            del found[other]
        parents: tuple[int, ...] = ()
        above = record.get("supercategory")
        above = spoken(above) if isinstance(above, str) and above != "none" else ""
        if above and above != text and (parent := named_by.get(above)) is not None:
            parents, above = (parent,), ""
        elif above:
            parents = (supers.setdefault(above, -1 - len(supers)),)  # an id no category can have
        found[number] = replace(category, parents=parents, supercategory=above)
        ids[text.lower()] = number
    if not found:
        raise DataError(f"{path}: it has no categories")
    return tuple(found.values()), root, foreign


def _root(listed: Sequence[tuple[str, Mapping[str, Any]]], source: CocoJson) -> str:
    """The name of the category 0 that is the supercategory of all others and annotates nothing; "" for none."""
    roots = [one["name"] for _, one in listed if _is_root(one) and isinstance(one.get("name"), str)]
    others = [one.get("supercategory") for _, one in listed if not _is_root(one)]
    if len(roots) != 1 or not others or any(above != roots[0] for above in others):
        return ""
    return "" if ROOT in source.used_categories() else spoken(roots[0])


def _is_root(record: Mapping[str, Any]) -> bool:
    return as_whole_number(record.get("id")) == ROOT and record.get("supercategory") == "none"


def root_remark(name: str) -> str:
    """That a root category is left out; "" for none."""
    why = "it is above all others and has no annotation, as Roboflow exports it"
    return f"category {name!r} is left out: {why}; data.supercategories would ask for it" if name else ""
