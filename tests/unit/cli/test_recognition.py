"""`data=auto` on the command line: spelled out before a run, left to the job where its folder is elsewhere."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
import yaml
from export_pictures import SPLITS, coco_content, write_json, write_pictures
from exports import EXPORTS, roboflow_name
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.init import main as init
from sam3_hyperet.cli.prepare import main as prepare
from sam3_hyperet.cli.recognition import recognised, recognised_here
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.errors import ConfigError, DataError, StorageError


@pytest.fixture(scope="module")
def roboflow(tmp_path_factory):
    return EXPORTS["Roboflow"](tmp_path_factory.mktemp("export") / "shop")


def plain(config):
    return OmegaConf.to_container(config, resolve=True)


def composed(*arguments):
    return parse_command("train", ["data=auto", *arguments])[1]


def test_a_configuration_is_spelled_out(roboflow):
    said = []
    config = recognised(composed(f"data.root={roboflow}", "data.flip=0"), said.append)
    data = config.data
    assert (data.format, data.name, data.flip) == ("coco", "shop", 0)
    assert data.splits.val == ["test", "test/_annotations.coco.json"]
    assert said[0] == f"{roboflow}: recognised as Roboflow, COCO format"
    assert recognised(config, pytest.fail) is config


@pytest.mark.parametrize(
    ("layout", "given", "values", "said", "recognised_as"),
    [
        ("RF100-VL", "data.boxes=drop", {"boxes": "drop"}, "data.boxes=drop", "data.boxes=instances"),
        ("masks of CVAT", "data.objects=", {"objects": ""}, "'data.objects=\"\"'", "data.objects=SegmentationObject"),
        ("masks of CVAT", "data.colors=null", {"colors": None}, "data.colors=null", "data.colors=labelmap.txt"),
        (
            "masks of CVAT",
            "data.names=[car]",
            {"names": ["car"], "colors": None},
            "'data.names=[car]'",
            "data.colors=labelmap.txt",
        ),
    ],
)
def test_what_is_given_is_kept_also_where_it_is_the_default(layout, given, values, said, recognised_as, tmp_path):
    root, lines = EXPORTS[layout](tmp_path / "shop"), []
    option, _, value = given.removeprefix("data.").partition("=")
    own = tmp_path / "own.yaml"
    own.write_text(f"format: auto\nroot: {root}\nsplits: {{}}\n{option}: {value or repr(value)}\n")
    in_file = parse_command("train", [f"data={own}"])[1]
    entry = f"more_data.a={{name: a, format: auto, root: {root}, splits: {{}}}}"
    further = composed(f"data.root={root}", entry, given.replace("data.", "more_data.a."))
    for config, section in (
        (composed(f"data.root={root}", given), lambda found: found.data),
        (in_file, lambda found: found.data),
        (further, lambda found: found.more_data.a),
    ):
        lines.clear()
        found = section(recognised(config, lines.append))
        assert {name: found[name] for name in values} == values
        assert list(found.given) == []
        text = "\n".join(lines).replace("more_data.a.", "data.")
        assert f"{said} as given; the files say {recognised_as}" in text
    assert list(composed("data=coco", f"data.root={root}", given).data.given) == []


def test_what_was_recognised_can_be_pasted(roboflow):
    said = []
    found = recognised(composed(f"data.root={roboflow}"), said.append)
    options = said[-1].removeprefix("as options: ")
    assert " 'data.splits={train: [train, train/_annotations.coco.json], " in options
    pasted = composed(f"data.root={roboflow}", *shlex.split(options))
    assert recognised(pasted, pytest.fail) is pasted
    assert plain(pasted.data) == plain(found.data)


def test_the_lines_of_a_further_set_begin_with_its_name(roboflow):
    said = []
    own = composed(
        f"data.root={roboflow}", "more_data.old=auto", f"more_data.old.root={roboflow}", "more_data.old.name=b"
    )
    recognised(own, said.append)
    first = said.index(f"more_data.old: {roboflow}: recognised as Roboflow, COCO format")
    assert [line.startswith("more_data.old: ") for line in said] == [i >= first for i in range(len(said))]
    assert said[-1].startswith("more_data.old: as options: more_data.old.format=coco 'more_data.old.splits={train: [")


def test_a_folder_that_is_elsewhere_is_left_to_the_job(roboflow, tmp_path):
    said = []
    assert recognised_here(composed(f"data.root={roboflow}"), said.append).data.format == "coco"
    assert recognised_here(composed(f"data.root={tmp_path / 'there'}"), said.append).data.format == "auto"
    assert said[-1] == f"data=auto: {tmp_path / 'there'} is no folder on this machine, so the job recognises it there"
    with pytest.raises(DataError, match="there: no such folder"):
        recognised(composed(f"data.root={tmp_path / 'there'}"), said.append)


def test_a_run_goes_on_where_one_of_its_configurations_was_not_yet_recognised(roboflow, tmp_path):
    """As after a submission from a machine without the data: the job writes what it recognised."""
    auto = composed(f"data.root={roboflow}", f"run_dir={tmp_path}")
    found = recognised(auto, lambda line: None)
    for before, now in ((auto, found), (found, auto), (auto, auto)):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(before)))
        read_run(plain(now)).check_same(tmp_path, "here")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(found)))
    other = recognised(composed(f"data.root={roboflow}", "data.seed=1"), lambda line: None)
    with pytest.raises(ConfigError, match=r"data\.seed is 1, but 0 in the run of here"):
        read_run(plain(other)).check_same(tmp_path, "here")


def test_prepare_takes_a_folder_and_prints_what_to_paste(roboflow, tmp_path, capsys):
    out = f"out={tmp_path / 'manifest.json'}"
    assert prepare([str(roboflow), out]) == tmp_path / "manifest.json"
    said = capsys.readouterr().out
    assert f"next: sam3-hyperet train experiment=own_data data.root={roboflow} model=large\n" in said
    assert "warning: " not in "".join(line for line in said.splitlines() if "rectangles" not in line)
    prepare([f"root={roboflow}", out, "data.shots=1"])
    said = capsys.readouterr().out
    assert f"next: sam3-hyperet train experiment=own_data data.root={roboflow} data.shots=1 model=large\n" in said
    assert "shop: data.shots=1: 3 of 6 images; images by category: car 1, dog 1, house 1\n" in said


def test_prepare_checks_a_folder_in_which_nothing_can_be_written(roboflow, monkeypatch, capsys):
    def refuse(path, content):
        raise StorageError(f"{path}: Read-only file system")

    monkeypatch.setattr("sam3_hyperet.cli.prepare.write_json", refuse)
    assert prepare([str(roboflow)]) is None
    said = capsys.readouterr().out
    assert f"no manifest is written: {roboflow / 'prepared.json'}: Read-only file system, by out=FILE\nnext: " in said
    with pytest.raises(StorageError):
        prepare([str(roboflow), "out=there.json"])


def test_prepare_says_what_is_held_out_and_which_images_are_in_two_splits(tmp_path, capsys):
    root = EXPORTS["Roboflow"](tmp_path / "shop")
    again, copied = SPLITS["train"][1], SPLITS["train"][0]
    for split, picture, name in (("test", again, "again.png"), ("valid", copied, roboflow_name(copied, copy=2))):
        shutil.rmtree(root / split)
        write_json(root / split / "_annotations.coco.json", coco_content([picture], lambda picture, name=name: name))
        write_pictures(root / split, [picture], lambda picture, name=name: name)
    (root / "valid" / roboflow_name(copied, copy=2)).write_bytes(SPLITS["tune"][0].data)  # flipped, say
    prepare([str(root), "out=null"])
    said = capsys.readouterr().out
    remedy = "; take them out of one of the splits\n"
    assert (
        f"shop: warning: val has 1 picture of train; scores on them say nothing: again.png (there café){remedy}" in said
    )
    assert f"shop: warning: tune has 1 picture of train; scores on them say nothing: street-1{remedy}" in said
    prepare([str(EXPORTS["CVAT"](tmp_path / "one")), "out=null"])
    said = capsys.readouterr().out
    assert "one: no val split: 2 of 11 training images are held out for it" in said
    assert "say nothing" not in said


@pytest.mark.parametrize("tool", [prepare, init])
def test_pictures_that_are_held_out_and_trained_on_under_another_name(tool, tmp_path, monkeypatch, capsys):
    root = EXPORTS["COCO, one file"](tmp_path / "shop")
    content = json.loads((root / "annotations.json").read_text())
    for name in [image["file_name"] for image in content["images"]]:
        shutil.copy(root / name, root / f"copy-{name.replace('/', '-')}")
    copies = [
        {**image, "id": image["id"] + 100, "file_name": f"copy-{image['file_name'].replace('/', '-')}"}
        for image in content["images"]
    ]
    outlines = [{**one, "id": one["id"] + 100, "image_id": one["image_id"] + 100} for one in content["annotations"]]
    content["images"] += copies
    content["annotations"] += outlines
    write_json(root / "annotations.json", content)
    monkeypatch.chdir(tmp_path)
    tool([str(root)])
    found = r"shop: warning: val has [1-4] pictures? of (train|tune); scores on them say nothing: .+ \(there "
    assert re.search(found, capsys.readouterr().out)


def test_prepare_knows_a_picture_in_another_format(tmp_path, capsys):
    root = EXPORTS["COCO"](tmp_path / "shop")
    file = root / "annotations" / "instances_test.json"
    content = json.loads(file.read_text())
    Image.open(root / "train" / "0006.png").save(root / "test" / "again.bmp")
    content["images"][0]["file_name"] = "again.bmp"
    write_json(file, content)
    prepare([str(root), "out=null"])
    found = "shop: warning: val has 1 picture of train; scores on them say nothing: again.bmp (there 0006.png); take"
    assert found in capsys.readouterr().out
