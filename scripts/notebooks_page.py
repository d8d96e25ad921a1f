"""Write docs/notebooks/*.md from the notebooks beside them, with the outputs that these hold.

python scripts/notebooks_page.py --run      runs the notebooks first, a minute or two, and keeps their outputs
python scripts/notebooks_page.py --check    only compares; exit code 1 if a page is stale
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

from pages import DOCS

FOLDER = DOCS / "notebooks"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def page(notebook: Path) -> str:
    """A notebook as Markdown: texts as they are, code in blocks, what it printed below it."""
    cells = nbformat.read(notebook, as_version=4).cells
    title, parts = "", []
    for number, cell in enumerate(cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source.strip())
            if number == 0:
                title, _, rest = cell.source.strip().partition("\n")
                note = f"<!-- written by scripts/notebooks_page.py; change docs/notebooks/{notebook.name} -->"
                get = f"This page is a notebook: `docs/notebooks/{notebook.name}`."
                parts = [f"{title}\n\n{note}\n\n{get}\n{rest}"]
        else:
            parts.append(f"<!-- not run: a notebook -->\n```python\n{cell.source.strip()}\n```")
            parts += [f"```text\n{text}\n```" for text in map(_output, cell.outputs) if text]
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    if output.output_type == "stream":
        text = "" if output.name == "stderr" else output.text
    else:
        text = output.get("data", {}).get("text/plain", "")
    lines = ANSI.sub("", text).splitlines()  # a terminal's ends are carriage returns too
    return "\n".join(line.rstrip() for line in lines).rstrip()


def run(notebook: Path, folder: Path) -> None:
    """Run a notebook in a folder and keep its outputs, without times and counts that differ from run to run.

    Raises:
        nbclient.exceptions.CellExecutionError: where a cell fails.
    """
    from nbclient import NotebookClient

    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(book, notebook)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the pages of the notebooks.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if a page is stale")
    parser.add_argument("--run", action="store_true", help="run the notebooks first")
    args, stale = parser.parse_args(), []
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        if args.run:
            import tempfile

            with tempfile.TemporaryDirectory() as folder:
                run(notebook, Path(folder))
        target, text = notebook.with_suffix(".md"), page(notebook)
        if not args.check:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
    for name in stale:
        print(f"{name} is stale; write it anew with: python scripts/notebooks_page.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
