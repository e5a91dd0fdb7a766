"""Images of COCO files as labelling tools name and describe them, a row a kind, and what is right for it."""

from __future__ import annotations

from coco_cases import HEIGHT, WIDTH, Case, all_of, each, encoded, moved, named, top, without

BY_END = "image path of another place or spelling, found by its end"
SIZE = "image without a size, taken from its file"
SIZE_AS_NUMBER = "image size that is no whole number, read as one"

IMAGES = {
    "sizes missing": Case(all_of(without("images", "width"), without("images", "height")), repaired={SIZE: 2}),
    "sizes null": Case(all_of(each("images", "width", None), each("images", "height", None)), repaired={SIZE: 2}),
    "sizes 0": Case(all_of(each("images", "width", 0), each("images", "height", 0)), repaired={SIZE: 2}),
    "sizes as text": Case(
        all_of(each("images", "width", "96"), each("images", "height", "64.0".removesuffix(".0"))),
        repaired={SIZE_AS_NUMBER: 4},
    ),
    "sizes as floats": Case(
        all_of(each("images", "width", 96.0), each("images", "height", 64.0)), repaired={SIZE_AS_NUMBER: 4}
    ),
    "sizes swapped": Case(
        all_of(each("images", "width", HEIGHT), each("images", "height", WIDTH)),
        refused="0001.png: image 1 is 96x64 pixels, its annotations are for 64x96",
    ),
    "sizes of a smaller copy": Case(
        all_of(each("images", "width", 95), each("images", "height", 63)),
        refused="0001.png: image 1 is 96x64 pixels, its annotations are for 95x63",
    ),
    "paths with ./": Case(named("./{}")),
    "paths with a leading slash": Case(named("/{}"), repaired={BY_END: 2}),
    "paths with the split's folder": Case(named("train/{}"), repaired={BY_END: 2}),
    "paths of another machine": Case(named("/home/ann/shop/{}"), repaired={BY_END: 2}),
    "paths of Windows": Case(named("C:\\Users\\Ann\\shop\\{}"), repaired={BY_END: 2}),
    "paths upwards, of Windows": Case(named("..\\..\\media\\upload\\4\\{}"), repaired={BY_END: 2}),
    "paths as URLs": Case(named("https://images.example.org/shop/{}"), repaired={BY_END: 2}),
    "paths as signed URLs": Case(
        named("https://bucket.example.org/shop/{}?X-Signature=a%2Fb&t=1"), repaired={BY_END: 2}
    ),
    "paths of Label Studio's local files": Case(named("/data/local-files/?d=shop/{}"), repaired={BY_END: 2}),
    "paths percent-encoded": Case(
        named("a%20car%20{}"), repaired={BY_END: 2}, files=moved(lambda name: f"a car {name}")
    ),
    "paths with a percent sign of their own": Case(named("50%25{}"), files=moved(lambda name: f"50%25{name}")),
    "paths of a folder that was left out": Case(
        named("{}"), repaired={BY_END: 2}, files=moved(lambda name: f"default/{name}")
    ),
    "names in another case": Case(each("images", "file_name", lambda r: r["file_name"].upper()), repaired={BY_END: 2}),
    "names in decomposed Unicode": Case(named("e\u0301{}"), files=moved(lambda name: f"\xe9{name}")),
    "names with spaces and emoji": Case(named("my 🚗 {}"), files=moved(lambda name: f"my 🚗 {name}")),
    "names that two folders have": Case(
        each("images", "file_name", lambda r: f"x/000{r['id']}.png"),
        refused="2 of 2 images are not in",
        files=lambda root: [
            (
                moved(lambda name: f"a/{name}")(root),
                [
                    (file.parents[1] / "b").mkdir(exist_ok=True)
                    or (file.parents[1] / "b" / file.name).write_bytes(file.read_bytes())
                    for file in root.glob("*/a/*.png")
                ],
            )
        ],
    ),
    "images that are not there": Case(
        lambda c: c["images"].append({"id": 7, "file_name": "gone.png", "width": WIDTH, "height": HEIGHT}),
        refused=r"1 of 3 images are not in .*gone.png \(image 7\)",
    ),
    "images without annotation": Case(lambda c: c["annotations"].__delitem__(slice(2, None)), 2),
    "LVIS, by coco_url": Case(
        all_of(
            each("images", "coco_url", lambda r: f"http://images.cocodataset.org/train2017/{r['file_name']}"),
            without("images", "file_name"),
            each("images", "neg_category_ids", [3]),
            each("images", "not_exhaustive_category_ids", [1]),
        ),
        repaired={BY_END: 2},
    ),
    "LVIS's lists, null": Case(each("images", "neg_category_ids", None), refused="neg_category_ids are None"),
    "no image": Case(top(images=[], annotations=[]), refused="it has no images"),
    "licences null, info missing": Case(top(licenses=None, info=None)),
    "with a byte-order mark": Case(encoded("utf-8-sig")),
    "in UTF-16": Case(encoded("utf-16"), refused="instances_train.json: it is UTF-16; expected a text in UTF-8"),
    "in Latin-1": Case(encoded("latin-1"), refused="instances_train.json: byte .* is not UTF-8"),
    "other files beside the images": Case(
        lambda content: None,
        files=lambda root: [
            (root / split / name).write_bytes(b"\0")
            for split in ("train", "val")
            for name in ("Thumbs.db", "._0001.png", "desktop.ini")
        ],
    ),
}
