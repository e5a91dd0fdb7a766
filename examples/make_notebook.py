"""Make the notebook of a script whose cells begin with `# %%`, and run it: python examples/make_notebook.py own_data

The script is the source; what the notebook shows is what it printed and drew.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

EXAMPLES = Path(__file__).resolve().parent


def notebook_of(script: str) -> nbformat.NotebookNode:
    """A notebook with a cell for each `# %%` of the script; those of `# %% [markdown]` lose the comment signs."""
    cells = []
    for number, part in enumerate(re.split(r"^# %%", script, flags=re.MULTILINE)[1:]):
        kind, _, text = part.partition("\n")
        if kind.strip() == "[markdown]":
            cell = new_markdown_cell(re.sub(r"^# ?", "", text.strip(), flags=re.MULTILINE))
        else:
            cell = new_code_cell(text.strip())
        cell["id"] = f"cell-{number}"  # not by chance, so that the file changes only where the script does
        cells.append(cell)
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return new_notebook(cells=cells, metadata=kernel)


def run(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """Run every cell, in order, in a folder. Raises nbclient's CellExecutionError for the first that fails."""
    where = {"metadata": {"path": str(folder)}}
    limits = {"timeout": timeout, "startup_timeout": timeout}
    client = NotebookClient(notebook, resources=where, record_timing=False, **limits)
    ran: nbformat.NotebookNode = client.execute()
    return ran


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What a cell printed as one plain text that every viewer shows, without colours or the clone's path; pictures."""
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    texts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in outputs if one not in pictures]
    text = re.sub(r"\x1b\[[\d;]*m", "", "".join(texts)).replace(f"{EXAMPLES.parent}/", "")
    return [*([new_output("stream", name="stdout", text=text)] if text else []), *pictures]


def main(name: str, folder: Path) -> Path:
    """Write `NAME.ipynb` from `NAME.py`, run in a folder."""
    notebook = run(notebook_of((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")), folder)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    path = EXAMPLES / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


if __name__ == "__main__":
    print(main(sys.argv[1], Path.cwd()))
