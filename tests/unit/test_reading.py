"""The readers of files: regular files alone, texts in UTF-8, JSON and YAML that end, else one clear line."""

from __future__ import annotations

import pytest
from special_files import SPECIAL, replace_by

from sam3_hyperet.cli.of_run import read_yaml, sections_of_runs
from sam3_hyperet.errors import ConfigError, DataError, UserError
from sam3_hyperet.evaluation.record_store import FINGERPRINT, RecordStore
from sam3_hyperet.files import MANIFEST, Manifest
from sam3_hyperet.reading import read_json, read_text, regular_file
from sam3_hyperet.training.run_log import read_history

READERS = {
    "text": read_text,
    "JSON": read_json,
    "YAML": lambda path: read_yaml(path, "data=own.yaml"),
    "history": read_history,
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_opens_what_is_no_file(tmp_path, reader, kind):
    path = replace_by(kind, tmp_path / "file")
    with pytest.raises(UserError, match=rf"file: cannot be read \(it is a {kind}.*, expected a file\)"):
        READERS[reader](path)


@pytest.mark.parametrize("kind", SPECIAL)
def test_folders_of_ours_with_what_is_no_file(tmp_path, kind):
    replace_by(kind, tmp_path / MANIFEST)
    with pytest.raises(ConfigError, match=f"damaged .*it is a {kind}"):
        Manifest(tmp_path).check("a")
    replace_by(kind, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=f"it is a {kind}"):
        sections_of_runs([str(tmp_path)], ["model"], tmp_path)
    store = RecordStore(tmp_path)
    replace_by(kind, tmp_path / "000000.npz")
    assert store.read(0) is None
    replace_by(kind, tmp_path / FINGERPRINT)
    assert store._mismatch({"a": 1}) == "their fingerprint is missing"


@pytest.mark.parametrize("name", ["none", "none/none", "a\0b", "n" * 300])
def test_what_is_not_there(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"no such file|File name too long"):
        regular_file(f"{tmp_path}/{name}")
    with pytest.raises(DataError, match="no such file"):
        regular_file(tmp_path / "file" / "below")


JSON = {
    "brackets": (b"[" * 5_000, "its brackets are nested too deeply"),
    "objects": (b'{"a":' * 5_000, "its brackets are nested too deeply"),
    "digits": (b"[" + b"7" * 5_000 + b"]", "Exceeds the limit"),
    "a key twice": (b'{"images": [1], "images": []}', "the key 'images' occurs twice"),
    "a key twice inside": (b'[{"a": 1, "b": 2, "b": 3}]', "the key 'b' occurs twice"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "a web page": (b"<!DOCTYPE html>", "it is a web page"),
    "empty": (b"", "it is empty"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it is UTF-16; expected a text in UTF-8"),
    "Latin-1": ('{"é": 1}'.encode("latin-1"), "byte 2 is not UTF-8"),
    "a part": (b'{"a": [1, 2', "not valid JSON"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_that_is_none(tmp_path, case):
    content, message = JSON[case]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_json(tmp_path / "a.json")
    assert str(raised.value).startswith(f"{tmp_path}/a.json: ")
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}, *a{k - 1}]\n" for k in range(1, 30))
YAML = {
    "billion laughs": (LAUGHS, r"its aliases \(\*name\) stand for more than 100,000 values"),
    "merged laughs": (LAUGHS.replace("[x, x]", "{x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n"), "aliases"),
    "interpolations": ("".join(f"a{k}: ${{a{k + 1}}}${{a{k + 1}}}\n" for k in range(30)), "interpolations .* multiply"),
    "an alias of itself": ("a: &a [*a]", r"the alias \*a stands for nothing before it"),
    "brackets": ("a: " + "[" * 500, "nested deeper than 50 levels"),
    "a Python object": ("a: !!python/object/apply:os.getcwd []", "not readable as YAML"),
    "digits": ("a: " + "7" * 5_000, "not readable as YAML .*limit"),
    "a key twice": ("a: 1\na: 2", "not readable as YAML .*duplicate key"),
    "long": ("a: '" + "x" * 2_000_000 + "'", "expected a YAML file of at most 2,000,000"),
    "no mapping": ("[1, 2]", "not keys with values"),
    "a null character": ("a: \0", "not readable as YAML"),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml_that_is_none(tmp_path, case):
    content, message = YAML[case]
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as raised:
        read_yaml(tmp_path / "a.yaml", "data=a.yaml")
    assert str(raised.value).startswith(f"{tmp_path}/a.yaml: ")
    assert "\n" not in str(raised.value)


def test_aliases_that_stand_for_little_are_fine(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: {c: *a, d: *a}\n")
    assert read_yaml(tmp_path / "a.yaml", "data=a.yaml") == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}


def test_a_run_without_its_values(tmp_path):
    for text, message in (
        ("model: {name: '${data.name}${data.name}'}\ndata: {name: x}\n", "it has interpolations"),
        ("model: tiny\ndata: {}\n", "not the configuration of a training run"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            sections_of_runs([str(tmp_path)], ["model"], tmp_path)


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1}', '{"step": "one"}', "[" * 5_000])
def test_a_damaged_line_of_a_history_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is "):
        read_history(tmp_path / "metrics.jsonl")
