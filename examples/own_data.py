# %% [markdown]
# # From a Roboflow export to a dial
#
# A folder as Roboflow exports it, an adapter trained on it, and the dial between the base and what was learnt. The
# model is the tiny one that comes with the package, the pictures are drawn, and training is short, so that this runs
# on two CPU cores in a minute or two. With the official weights the names in capitals below change, and the options
# that shorten training go. `run_tool("train", OPTIONS)` is the command `sam3-hyperet train OPTIONS`.

# %%
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import sam3_hyperet as hy
from sam3_hyperet.cli.console import run_tool
from sam3_hyperet.overlays.composition import Entry, Panel, compose
from sam3_hyperet.overlays.overlay import Instance, draw_overlay
from sam3_hyperet.scenes.dataset import scene

FOLDER = Path("runs/own_data")  # everything is written here
MODEL, WEIGHTS = "tiny", None  # yours: "large", "sam3.pt"
NAMES = ("vehicle", "building", "plant")  # the export's categories: groups, which the tiny model has not learnt

# %% [markdown]
# ## The export
#
# Yours is the folder that Roboflow's "COCO Segmentation" gives you: skip this cell and set `EXPORT` to its path. Here
# it is drawn: `train`, `valid` and `test`, each with its pictures beside `_annotations.coco.json`, pictures renamed
# with a hash, outlines as polygons, and a category 0 above the others, which annotates nothing and is left out.

# %%
EXPORT = FOLDER / "shop"


def write_export(split: str, folder: str, count: int) -> None:
    """Draw `count` pictures and write them, and their annotations, as Roboflow does."""
    (EXPORT / folder).mkdir(parents=True, exist_ok=True)
    categories = [{"id": 0, "name": "things", "supercategory": "none"}]
    categories += [{"id": number, "name": name, "supercategory": "things"} for number, name in enumerate(NAMES, 1)]
    images, annotations = [], []
    for number in range(count):
        pixels, instances = scene(seed=7, split=split, index=number + 1)
        name = f"{split}-{number:03}_png.rf.{number:032x}.jpg"
        Image.fromarray(pixels).save(EXPORT / folder / name, quality=95)
        images.append({"id": number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for one in (one for one in instances if one.concept in NAMES):
            outlines, _ = cv2.findContours(one.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            polygons = [outline.ravel().tolist() for outline in outlines if len(outline) > 2]
            rows, columns = np.nonzero(one.mask)
            corner, area = (int(columns.min()), int(rows.min())), int(one.mask.sum())
            box = [*corner, int(columns.max()) + 1 - corner[0], int(rows.max()) + 1 - corner[1]]
            about = {"id": len(annotations), "image_id": number, "category_id": 1 + NAMES.index(one.concept)}
            annotations.append({**about, "segmentation": polygons, "bbox": box, "area": area, "iscrowd": 0})
    content = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
    (EXPORT / folder / "_annotations.coco.json").write_text(json.dumps(content))


write_export("train", "train", 64)
write_export("tune", "valid", 8)
write_export("val", "test", 12)

# %% [markdown]
# ## What is in it
#
# `prepare` recognises the layout, opens every file, and says what it found, dropped or repaired. Its last line is the
# command that trains on it; the next cell is that command.

# %%
run_tool("prepare", [str(EXPORT)])

# %% [markdown]
# ## Train
#
# `experiment=own_data` is the recipe; the options after it only shorten it for this notebook (`sam3-hyperet init`
# writes the recipe for your folder, with a reason beside each option). The base stays frozen. At the end base and
# adapted model are scored on the test pictures. (The times printed below are of two CPU cores that had other work.)

# %%
RUN = FOLDER / "run"
run_tool(
    "train",
    [
        "experiment=own_data",
        f"data.root={EXPORT}",
        f"model={MODEL}",
        f"model.checkpoint={WEIGHTS or 'null'}",
        "train.max_steps=60",
        "train.batch_size=4",
        "train.accumulate=1",
        "train.validate_every=0",  # no choice of a step among so few,
        "train.patience=0",  # and so no end when none is better any more
        "train.save_every=0",
        "optim.lr=0.008",
        "logger=none",
        "protocol.examples=2",
        "resume=never",
        f"run_dir={RUN}",
    ],
)

# %% [markdown]
# ## The dial
#
# 0 is the base, bit for bit, 1 the adapter as trained; between them lies a front of gain against forgetting, which
# needs no training.

# %%
DIALS = (0, 0.5, 1)
run_tool("evaluate", [f"run={RUN}", f"dial={list(DIALS)}", "resume=never", f"run_dir={FOLDER / 'dial'}"])

# %% [markdown]
# ## In pictures
#
# A test picture at the three dials, with all that scores above .3.

# %%
base = hy.build_model(MODEL, checkpoint=WEIGHTS)  # on a GPU: hy.to_device(base, "cuda")
model = hy.load_adapter(base, RUN / "adapter.safetensors")
predictor = hy.Predictor(model, NAMES, hy.resolution(model))


def shown(image: Image.Image) -> Image.Image:
    """The picture at each dial, side by side, with a legend."""
    panels = []
    for dial in DIALS:
        hy.set_dial(model, dial)
        instances = []
        for number, prediction in enumerate(predictor.predict(image)):
            found = prediction.detections(image.height, image.width, score_threshold=0.3)
            for score, mask in zip(found.scores, found.rles(len(found.scores)), strict=True):
                instances.append(Instance(mask, number, (f"{NAMES[number]} {score:.2f}",)))
        panels.append(Panel(draw_overlay(np.asarray(image), instances, side=256).pixels, f"dial {dial:g}"))
    legend = [Entry(number, name) for number, name in enumerate(NAMES)]
    return Image.fromarray(compose(panels, legend).pixels).quantize(64)


test_pictures = sorted((EXPORT / "test").glob("*.jpg"))
picture = shown(Image.open(test_pictures[1]))
picture.save(FOLDER / "dial.png")
picture

# %% [markdown]
# ## Further
#
# - The report of the run, and that of the dial, are `report.html` in their folders.
# - `dial=auto` chooses the dial by a rule on tuning pictures (docs/evaluation.md); what was lost elsewhere is
#   measured on data of its own (docs/forgetting.md).
# - With so few pictures and steps the numbers above say that everything works, and nothing about how well it would on
#   photographs.
