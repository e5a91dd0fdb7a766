"""Site hook: files of the repository outside docs/ that are pages, or that pages link to, become pages of the site.

A link to a folder or a file of the repository, which works wherever the repository is browsed, leads to a page that
shows it. So every page is the file that is in the repository, and every link is checked when the site is built.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "tools/README.md": "tools.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "examples/own_data.ipynb": "notebook.md",
}
"""Files that are pages under another name."""
_SHOWN = "repository"
"""The folder of the site with the pages that show a file or a folder."""
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown", ".cff": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        files.append(_generated(config, page, PurePosixPath(source)))
    queue = [file for file in files if file.is_documentation_page()]
    while queue:
        file = queue.pop()
        for _, link in _LINK.findall(file.content_string):
            target = _target(file, link)
            if target is None or files.get_file_from_path(_page_of(target)):
                continue
            if not (REPOSITORY / target).exists():
                continue  # MkDocs warns of it
            added = _generated(config, _page_of(target), target)
            added.inclusion = added.inclusion.NOT_IN_NAV
            files.append(added)
            queue.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages."""

    def rewritten(match: re.Match[str]) -> str:
        target = _target(page.file, match[2])
        if target is None:
            return match[0]
        uri = os.path.relpath(_page_of(target), PurePosixPath(page.file.src_uri).parent)
        return f"{match[1]}{uri}"

    return _LINK.sub(rewritten, markdown)


def _generated(config: MkDocsConfig, page: str, source: PurePosixPath) -> File:
    """The page of a file or folder: text as it is, anything else shown in it."""
    if source.suffix == ".md":
        return File.generated(config, page, abs_src_path=str(REPOSITORY / source))
    return File.generated(config, page, content=_shown(source))


def _target(file: File, link: str) -> PurePosixPath | None:
    """The path in the repository that a link leads to; None for a page that shows a file, whose links are text."""
    if file.abs_src_path is None:
        return None
    path = Path(os.path.normpath(Path(file.abs_src_path).parent / link))
    return PurePosixPath(path.relative_to(REPOSITORY).as_posix()) if path.is_relative_to(REPOSITORY) else None


def _page_of(target: PurePosixPath) -> str:
    """The page that a path of the repository has on the site."""
    if str(target) in PAGES:
        return PAGES[str(target)]
    if target.parts[0] == "docs":
        return "/".join(target.parts[1:])
    return f"{_SHOWN}/{target}" if target.suffix == ".md" else f"{_SHOWN}/{target}.md"


def _shown(target: PurePosixPath) -> str:
    """The page of a file, or of the files of a folder."""
    path = REPOSITORY / target
    if path.suffix == ".ipynb":
        return "\n\n".join(_cells(json.loads(path.read_text(encoding="utf-8"))["cells"]))
    if path.is_file():
        return f"# `{target}`\n\n{_code(path)}"
    parts = [f"## `{file.name}`\n\n{_code(file)}" for file in sorted(path.iterdir()) if file.suffix in _LANGUAGES]
    return "\n".join([f"# `{target}/`\n", *parts])


def _cells(cells: list[dict[str, Any]]) -> Iterator[str]:
    """The cells of a notebook with what they printed and drew."""
    for cell in cells:
        text = "".join(cell["source"])
        yield text if cell["cell_type"] == "markdown" else f"``````python\n{text}\n``````"
        for output in cell.get("outputs", ()):
            if output["output_type"] == "stream":
                yield f"``````text\n{''.join(output['text']).rstrip()}\n``````"
            else:
                picture = output["data"]["image/png"].strip()
                yield f'<img alt="what the cell draws" src="data:image/png;base64,{picture}">'


def _code(path: Path) -> str:
    return f"``````{_LANGUAGES.get(path.suffix, 'text')}\n{path.read_text(encoding='utf-8').rstrip()}\n``````\n"
