"""Site hook: the reference of options and of Python names, from what the command line and the package have themselves.

The page has a comment, `<!-- reference: NAME -->`, in whose place it comes.
"""

import contextlib
import io
import re
from collections import defaultdict

import sam3_hyperet
from sam3_hyperet.cli.command import CONFIGS, EXPLAINED, parse_command
from sam3_hyperet.cli.composition import choices_of, section_values
from sam3_hyperet.cli.console import TOOLS
from sam3_hyperet.cli.help_text import option_rows
from sam3_hyperet.cli.sections import SECTIONS

_PLACE = re.compile(r"<!-- reference: (\w+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the references."""
    return _PLACE.sub(lambda match: _REFERENCES[match[1]](), markdown)


def _tools() -> str:
    """What `sam3-hyperet TOOL --help` prints, for every tool."""
    parts = []
    for tool, (_, does) in TOOLS.items():
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            parse_command(tool, ["--help"])
        parts.append(
            f"### `{tool}`\n\n{does[0].upper()}{does[1:]}.\n\n``````text\n{output.getvalue().rstrip()}\n``````\n"
        )
    return "\n".join(parts)


def _sections() -> str:
    """Each option of a section: its default in `train`, which has them all, and its meaning."""
    return "\n".join(_section(name, cls) for name, cls in SECTIONS.items())


def _section(name: str, cls: type) -> str:
    values = section_values("train", CONFIGS / "train.yaml", EXPLAINED.get(name, ()), name, CONFIGS)
    choices = ", ".join(f"`{name}={one}`" for one in choices_of(name, CONFIGS))
    rows = [f"| `{key}` | `{shown}` | {_cell(meaning)} |" for key, shown, meaning in option_rows(cls, values)]
    head = [f"| `{name}.` | default in `train` | |", "|---|---|---|"]
    return "\n".join([f"### `{name}`\n", *([f"Choices: {choices}.\n"] if choices else []), *head, *rows, ""])


def _cell(text: str) -> str:
    """Text in a cell of a table, where < is no tag and a bar no border."""
    return text.replace("<", "&lt;").replace("|", "&#124;").replace("*", "\\*").replace("_", "\\_")


def _python() -> str:
    """The names of `import sam3_hyperet as hy`, by the folder they come from, for mkdocstrings to document."""
    by_folder = defaultdict(list)
    for name, module in sam3_hyperet._HOME.items():
        by_folder[module.partition(".")[0]].append(f"::: sam3_hyperet.{module}.{name}")
    return "\n\n".join(f"## {folder}\n\n" + "\n\n".join(names) for folder, names in by_folder.items())


_REFERENCES = {"tools": _tools, "sections": _sections, "python": _python}
