"""Imports only go down, nothing is circular, files are small, and the light parts of the package load without sam3."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "sam3_hyperet"

FLOORS = (  # from the bottom; imports only go down
    ("choices", "errors", "override", "version", "wording"),
    ("reading", "digest", "arrays", "hyperbolic", "precision"),
    ("files",),
    ("options", "masks", "adapters", "sam3_host", "scenes"),
    ("modeling", "data", "losses", "overlays"),
    ("inference", "layouts", "preparation"),
    ("training", "export"),
    ("evaluation", "launch"),
    ("report", "doctor", "recipes"),
    ("ablation", "hub", "demo"),
    ("cli",),
    ("__main__",),
)
MAY_IMPORT = {
    part: {one for below in FLOORS[:floor] for one in below} for floor, parts in enumerate(FLOORS) for part in parts
}
BOTTOM_NEEDS = {"torch", "__future__"} | set(sys.stdlib_module_names)
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(source: str, package: str, modules: set[str], *, at_load: bool) -> set[str]:
    """Modules that a source file names in its imports; with `at_load`, only those that run when it is loaded."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_load and (is_type_checking(node) or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.add(name if name in modules else base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def imports_of(module: str, *, at_load: bool = False) -> set[str]:
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imports(path.read_text(), package, set(MODULES), at_load=at_load)


def test_the_reader_of_imports_sees_every_form():
    source = (
        "import torch.nn\nfrom . import b\nfrom ..data import coco\nfrom sam3_hyperet import sam3_host as host\n"
        "def f():\n    from sam3_hyperet.cli import train\n"
    )
    modules = {"sam3_hyperet.sam3_host", "sam3_hyperet.data.coco", "sam3_hyperet.cli.train", "sam3_hyperet.losses.b"}
    everything = modules | {"torch.nn"}
    assert imports(source, "sam3_hyperet.losses", modules, at_load=False) == everything
    assert imports(source, "sam3_hyperet.losses", modules, at_load=True) == everything - {"sam3_hyperet.cli.train"}


def test_every_part_of_the_package_has_its_place():
    parts = {part_of(name) for name in MODULES} - {""}
    assert parts == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name)])
def test_imports_only_go_down(module):
    part = part_of(module)
    ours = {name for name in imports_of(module) if name.split(".")[0] == "sam3_hyperet"}
    upward = {name for name in ours if part_of(name) not in MAY_IMPORT[part] | {part, ""}}
    assert not upward, f"{module} ({part}) must not import {sorted(upward)}"


@pytest.mark.parametrize("module", [name for name in MODULES if part_of(name) in ("hyperbolic", "adapters")])
def test_the_bottom_needs_torch_alone(module):
    roots = {name.split(".")[0] for name in imports_of(module)} - {"sam3_hyperet"}
    assert roots <= BOTTOM_NEEDS, f"{module} imports {sorted(roots - BOTTOM_NEEDS)}"


def test_only_the_host_imports_sam3():
    importers = {name for name in MODULES if any(i.split(".")[0] == "sam3" for i in imports_of(name))}
    assert importers == {"sam3_hyperet.sam3_host"}


def test_no_import_is_circular():
    graph = {name: imports_of(name, at_load=True) & MODULES.keys() - {name, "sam3_hyperet"} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for below in graph[name]:
                visit(below, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_module_is_a_grab_bag():
    assert not [name for name in MODULES if FORBIDDEN_NAMES & set(name.split("."))]


def test_no_file_is_long():
    folders = (PACKAGE, REPOSITORY / "benchmarks", REPOSITORY / "tools", REPOSITORY / "tests", REPOSITORY / "datasets")
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    assert len(lengths) > 50
    assert not {path: n for path, n in lengths.items() if n > 350}


def test_no_folder_outgrows_the_others():
    lines: dict[str, int] = {}
    for name, path in MODULES.items():
        lines[part_of(name)] = lines.get(part_of(name), 0) + len(path.read_text().splitlines())
    assert max(lines.values()) <= sum(lines.values()) / 5, sorted(lines.items(), key=lambda item: item[1])[-3:]


def test_light_parts_do_not_load_sam3():
    program = (
        "import sys\n"
        "import sam3_hyperet.ablation.evidence\n"
        "assert 'torch' not in sys.modules\n"
        "import sam3_hyperet, sam3_hyperet.hyperbolic, sam3_hyperet.adapters, sam3_hyperet.evaluation.scoring.coco_ap\n"
        "sam3_hyperet.HyperET(8)\n"
        "heavy = sorted({'sam3', 'sam3_hyperet.sam3_host', 'lightning_fabric', 'geoopt'} & sys.modules.keys())\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
