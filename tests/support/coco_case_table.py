"""What labelling tools export in COCO's format, a row a kind, and what is right for it."""

from __future__ import annotations

from coco_cases import (
    HEIGHT,
    WIDTH,
    Case,
    all_of,
    category,
    each,
    first,
    mask,
    outline,
    packed,
    pairs,
    roboflow_root,
    top,
    without,
)
from coco_image_table import IMAGES

FROM_MASK = ", taken from the mask"
NO_BOX = "box that is not [x, y, width, height] in the image" + FROM_MASK
AS_NUMBER = "id that is no whole number, read as one"
NESTING = "outline of another nesting, read as polygons"
NUMBERED = "annotation without an id of its own, numbered"
NO_POLYGON = "outline without a polygon of 3 points"

ANNOTATIONS = {
    "area negative": Case(
        each("annotations", "area", -1), repaired={"area that is no number of pixels" + FROM_MASK: 4}
    ),
    "area text": Case(each("annotations", "area", "550"), repaired={"area that is no number of pixels" + FROM_MASK: 4}),
    "area NaN": Case(
        each("annotations", "area", float("nan")), repaired={"area that is no number of pixels" + FROM_MASK: 4}
    ),
    "area a fraction": Case(
        each("annotations", "area", 0.09), repaired={"area that is no number of pixels" + FROM_MASK: 4}
    ),
    "area missing": Case(without("annotations", "area")),
    "box missing": Case(without("annotations", "bbox")),
    "box null": Case(each("annotations", "bbox", None), repaired={"box without area" + FROM_MASK: 4}),
    "box zero": Case(each("annotations", "bbox", [0, 0, 0, 0]), repaired={"box without area" + FROM_MASK: 4}),
    "box negative": Case(each("annotations", "bbox", [8, 10, -28, -22]), repaired={NO_BOX: 4}),
    "box text": Case(each("annotations", "bbox", lambda r: list(map(str, r["bbox"]))), repaired={NO_BOX: 4}),
    "box NaN": Case(each("annotations", "bbox", [float("nan")] * 4), repaired={NO_BOX: 4}),
    "box an object": Case(each("annotations", "bbox", {"x": 8, "y": 10, "w": 28, "h": 22}), repaired={NO_BOX: 4}),
    "box of fractions": Case(
        each("annotations", "bbox", [0.1, 0.2, 0.3, 0.4]),
        repaired={"box that contradicts its mask" + FROM_MASK: 4},
    ),
    "outline null": Case(first("annotations", "segmentation", None), 3, dropped={"box without a mask": 1}),
    "outline missing": Case(
        lambda c: c["annotations"][0].pop("segmentation") and None, 3, dropped={"box without a mask": 1}
    ),
    "outline [[]]": Case(first("annotations", "segmentation", [[]]), 3, dropped={NO_POLYGON: 1}),
    "outline an empty object": Case(first("annotations", "segmentation", {}), 3, dropped={"box without a mask": 1}),
    "outline of two points": Case(first("annotations", "segmentation", [[8, 10, 36, 32]]), 3, dropped={NO_POLYGON: 1}),
    "outline of two pairs": Case(
        first("annotations", "segmentation", [[8, 10], [36, 32]]),
        3,
        dropped={NO_POLYGON: 1},
        repaired={NESTING: 1},
    ),
    "outlines nowhere": Case(
        each("annotations", "segmentation", []),
        refused=r"none of its 4 annotations has a mask.*expected a `segmentation`",
    ),
    "outlines flat": Case(outline(lambda polygon: polygon), repaired={NESTING: 4}),
    "outlines of pairs": Case(outline(pairs), repaired={NESTING: 4}),
    "outlines of lists of pairs": Case(outline(lambda polygon: [pairs(polygon)]), repaired={NESTING: 4}),
    "outlines a list too deep": Case(outline(lambda polygon: [[polygon]]), repaired={NESTING: 4}),
    "outlines closed": Case(outline(lambda polygon: [polygon + polygon[:2]])),
    "outlines twice": Case(outline(lambda polygon: [polygon, polygon])),
    "outlines that cross themselves": Case(
        first("annotations", "segmentation", [[8, 10, 36, 32, 36, 10, 8, 32]]),
    ),
    "outline beyond the border": Case(
        all_of(
            first("annotations", "segmentation", [[-20, 10, 36, 10, 36, 32, -20, 32]]),
            first("annotations", "bbox", [-20, 10, 56, 22]),
        ),
        repaired={"outline beyond the image's border, clipped": 1},
    ),
    "outline far outside": Case(
        first("annotations", "segmentation", [[900, 10, 936, 10, 936, 32]]), refused="annotation 1: a polygon spans"
    ),
    "outline with NaN": Case(
        first("annotations", "segmentation", [[8, float("nan"), 36, 10, 36, 32]]),
        refused="annotation 1: a polygon has a coordinate that is not finite",
    ),
    "outline with null": Case(
        first("annotations", "segmentation", [[8, None, 36, 10, 36, 32]]), refused="annotation 1: .*coordinate None"
    ),
    "outlines as fractions": Case(
        outline(lambda polygon: [[round(v / (HEIGHT if i % 2 else WIDTH), 4) for i, v in enumerate(polygon)]]),
        refused="all of its 4 outlines lie between 0 and 1, .*multiply by the image's width and height",
    ),
    "outlines of points as objects": Case(
        outline(lambda polygon: [{"x": x, "y": y} for x, y in pairs(polygon)]),
        refused="annotation 1: its segmentation is .*expected polygons or an RLE",
    ),
    "run lengths": Case(each("annotations", "segmentation", mask)),
    "run lengths, compressed": Case(
        each("annotations", "segmentation", lambda r: packed(r) | {"counts": packed(r)["counts"].decode()})
    ),
    "run lengths in a list": Case(
        each("annotations", "segmentation", lambda r: [mask(r)]),
        repaired={"outline in a list of its own, taken out of it": 4},
    ),
    "run lengths as Python bytes": Case(
        each("annotations", "segmentation", lambda r: packed(r) | {"counts": str(packed(r)["counts"])}),
        repaired={"run lengths written as Python bytes, read as text": 4},
    ),
    "run lengths along rows": Case(
        each("annotations", "segmentation", lambda r: mask(r, "C")),
        refused="annotation 1: its run lengths fit its bbox only if they run along rows",
    ),
    "run lengths of the turned size": Case(
        each("annotations", "segmentation", lambda r: mask(r) | {"size": [WIDTH, HEIGHT]}),
        refused=r"annotation 1: its RLE has the size \[96, 64\], the image is \[64, 96\]",
    ),
    "crowd true": Case(first("annotations", "iscrowd", True), 3),
    "crowd false": Case(each("annotations", "iscrowd", False)),
    "crowd text": Case(each("annotations", "iscrowd", "0"), repaired={"iscrowd that is no number, read as one": 4}),
    "crowd null": Case(each("annotations", "iscrowd", None), repaired={"iscrowd that is no number, read as one": 4}),
    "crowd missing": Case(without("annotations", "iscrowd")),
    "crowd maybe": Case(first("annotations", "iscrowd", "maybe"), refused="annotation 1: its iscrowd is 'maybe'"),
    "marked to be ignored": Case(
        first("annotations", "ignore", 1), 3, repaired={"annotation marked `ignore`, read as a crowd": 1}
    ),
    "marked not to be ignored": Case(each("annotations", "ignore", 0)),
    "crowds all, and true": Case(
        each("annotations", "iscrowd", True), refused="all of its 4 annotations .*data.crowds=instances"
    ),
    "empty and zero, as COCO Annotator leaves them": Case(
        lambda c: c["annotations"].append(
            {"id": 9, "image_id": 1, "category_id": 3, "segmentation": [], "area": 0, "bbox": [0, 0, 0, 0]}
            | {"iscrowd": False, "isbbox": False, "color": "#037fc6", "metadata": {}, "keypoints": None}
        ),
        dropped={"annotation without box and mask": 1},
    ),
    "annotation of no category": Case(
        first("annotations", "category_id", None),
        refused="annotation 1: its category_id None is not among the categories",
    ),
    "annotations of ids one off": Case(
        each("annotations", "category_id", lambda r: r["category_id"] + 2),
        refused="annotation 2: its category_id 4 is not among the categories",
    ),
    "annotations missing": Case(lambda c: c.pop("annotations") and None, refused="the key 'annotations' is missing"),
    "annotations none": Case(top(annotations=[]), refused="none of its 0 annotations has a mask"),
}
IDS = {
    "ids as text": Case(
        all_of(
            *(each(part, "id", lambda r: str(r["id"])) for part in ("images", "annotations", "categories")),
            *(each("annotations", key, lambda r, key=key: f"{r[key]}") for key in ("image_id", "category_id")),
        ),
        repaired={AS_NUMBER: 2 + 4 + 3 + 8},
    ),
    "ids as floats": Case(
        all_of(
            each("images", "id", lambda r: float(r["id"])),
            each("annotations", "image_id", lambda r: float(r["image_id"])),
        ),
        repaired={AS_NUMBER: 6},
    ),
    "image ids as time stamps": Case(
        all_of(
            each("images", "id", lambda r: f"154171516140{r['id']}"),
            each("annotations", "image_id", lambda r: f"154171516140{r['image_id']}"),
        ),
        repaired={AS_NUMBER: 6},
    ),
    "image ids that are no numbers": Case(
        each("images", "id", lambda r: f"img-{r['id']}"),
        refused="annotation 1: its image_id 1 is not among the 2 images",
    ),
    "image ids that are no numbers, of annotations, too": Case(
        all_of(
            each("images", "id", lambda r: f"img-{r['id']}"),
            each("annotations", "image_id", lambda r: f"img-{r['image_id']}"),
            each("annotations", "id", lambda r: f"{r['id']:08x}-aa"),
        ),
        repaired={"image id that is a text or out of bounds, numbered": 2, NUMBERED: 4},
    ),
    "category ids of a checksum": Case(
        all_of(
            each("categories", "id", lambda r: 2**32 - r["id"]),
            each("annotations", "category_id", lambda r: 2**32 - r["category_id"]),
        )
    ),
    "ids beyond 63 bits, and negative ones": Case(
        all_of(
            *(each(part, "id", lambda r: 2**63 + r["id"]) for part in ("images", "annotations")),
            each("annotations", "image_id", lambda r: 2**63 + r["image_id"]),
            each("categories", "id", lambda r: -r["id"]),
            each("annotations", "category_id", lambda r: -r["category_id"]),
        ),
        repaired={
            "image id that is a text or out of bounds, numbered": 2,
            "category id that is a text or out of bounds, numbered": 3,
            NUMBERED: 4,
        },
    ),
    "ids from 0": Case(
        all_of(
            *(each(part, "id", lambda r: r["id"] - 1) for part in ("images", "annotations", "categories")),
            *(each("annotations", key, lambda r, key=key: r[key] - 1) for key in ("image_id", "category_id")),
        )
    ),
    "annotations all of id 0": Case(each("annotations", "id", 0), repaired={NUMBERED: 3}),
    "annotations without id": Case(without("annotations", "id"), repaired={NUMBERED: 4}),
    "annotations twice": Case(
        lambda c: c["annotations"].extend([dict(record) for record in c["annotations"]]),
        repaired={NUMBERED: 4},
        dropped={"annotation that is in the file twice": 4},
    ),
    "images twice": Case(
        lambda c: c["images"].append(c["images"][0] | {"id": 7}),
        refused="image 7: its file .*0001.png is that of image 1, too; expected one record an image",
    ),
    "image ids twice": Case(each("images", "id", 1), refused="image 1: two images have this id"),
    "category without id": Case(without("categories", "id"), refused=r"categories\[0\]: the key 'id' is missing"),
    "categories as names": Case(
        top(categories=["car", "house", "dog"]), refused=r"categories\[0\] is 'car', expected an object"
    ),
}
CATEGORIES = {
    "category twice, one without annotation": Case(
        category(id=9, name="Dog "), repaired={"category without annotation, named as another is, left out": 1}
    ),
    "category twice, both annotated": Case(
        all_of(category(id=9, name="Car"), first("annotations", "category_id", 9)),
        refused="category 9: category 1 has the same name 'Car' .'car'., and so the same prompt",
    ),
    "category twice but for white space": Case(
        all_of(
            first("categories", "name", "sports  car"),
            category(id=9, name="sports_car"),
            lambda c: c["annotations"][0].update(category_id=9),
        ),
        refused="category 9: category 1 has the same name 'sports car'",
    ),
    "a root of a class's name": Case(roboflow_root),
    "a root with annotations": Case(
        all_of(
            category(id=9, name="thing", supercategory="none"),
            each("categories", "supercategory", lambda r: "none" if r["name"] == "thing" else "thing"),
            lambda c: c["annotations"][0].update(category_id=9),
        )
    ),
    "a chain of supercategories": Case(
        all_of(
            category(id=8, name="vehicle", supercategory="thing"),
            category(id=9, name="thing", supercategory=None),
        )
    ),
    "a circle of supercategories": Case(
        all_of(first("categories", "supercategory", "house"), lambda c: c["categories"][1].update(supercategory="car")),
        refused="instances_train.json: .*runs in a circle",
    ),
    "supercategories of their own names": Case(each("categories", "supercategory", lambda r: r["name"])),
    "supercategories empty, null and numbers": Case(
        lambda c: [r.update(supercategory=s) for r, s in zip(c["categories"], ("", None, 3), strict=True)]
    ),
    "supercategories missing": Case(without("categories", "supercategory")),
}
NO_MASKS = without("annotations", "segmentation")
BOXES = {
    "boxes": Case(NO_MASKS),
    "boxes with empty outlines": Case(each("annotations", "segmentation", [])),
    "boxes as corners": Case(
        all_of(
            NO_MASKS,
            each("annotations", "bbox", lambda r: [*r["bbox"][:2], r["bbox"][0] + 28, r["bbox"][1] + 22]),
        ),
        refused=r"annotation 2: its bbox \[52.0, 10.0, 80.0, 32.0\] is beyond the image .96x64. .*left, top, right",
    ),
    "boxes as fractions": Case(
        all_of(NO_MASKS, each("annotations", "bbox", [0.1, 0.2, 0.3, 0.4])),
        refused="all of its 4 outlines lie between 0 and 1",
    ),
    "a box over the border": Case(
        all_of(NO_MASKS, first("annotations", "bbox", [80, 50, 28, 22])),
        repaired={"box beyond the image's border, clipped": 1},
    ),
    "a box outside": Case(
        all_of(NO_MASKS, first("annotations", "bbox", [96, 10, 28, 22])),
        3,
        dropped={"mask without a pixel": 1},
        repaired={"box beyond the image's border, clipped": 1},
    ),
    "a box that is null": Case(
        all_of(NO_MASKS, first("annotations", "bbox", None)), 3, dropped={"annotation without box and mask": 1}
    ),
    "boxes of text": Case(
        all_of(NO_MASKS, each("annotations", "bbox", ["8", "10", "28", "22"])), refused="none of its 4 annotations"
    ),
    "boxes and masks": Case(lambda c: c["annotations"][0].pop("segmentation") and None),
}
"""Read with data.boxes=instances."""

CASES = {**ANNOTATIONS, **IDS, **CATEGORIES, **IMAGES}
