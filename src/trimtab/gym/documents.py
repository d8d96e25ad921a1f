"""A search in the texts that a task brings, in place of the web."""

import re
import sqlite3
from pathlib import Path
from typing import NamedTuple

from trimtab.common.files import read_text, split_lines
from trimtab.gym.workspace import WorkspaceError

KINDS = (".md", ".txt", ".tex", ".rst")
PASSAGE = 10
"""lines of a passage"""


class DocumentPassage(NamedTuple):
    """A place in a document."""

    document: str
    line: int
    text: str


class Documents:
    """Texts below a folder, searched by SQLite's full-text index (BM25)."""

    def __init__(self, folder: Path):
        self._lines: dict[str, list[str]] = {}
        if folder.is_dir():
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix in KINDS:
                    self._lines[path.relative_to(folder).as_posix()] = split_lines(read_text(path))
        self._index: sqlite3.Connection | None = None

    def names(self) -> list[str]:
        return list(self._lines)

    def search(self, query: str, most: int) -> list[DocumentPassage]:
        """The passages that fit the words of a query best."""
        words = re.findall(r"\w+", query)
        if not words or not self._lines:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        rows = self._made().execute(
            "SELECT document, line, text FROM passages WHERE text MATCH ? ORDER BY rank, document, line LIMIT ?",
            (asked, most),
        )
        return [DocumentPassage(document, int(line), text) for document, line, text in rows]

    def lines(self, name: str) -> list[str]:
        """A document's lines.

        Raises:
            WorkspaceError: if there is none of this name.
        """
        if name not in self._lines:
            raise WorkspaceError(f"there is no document {name!r}; there are: {', '.join(self._lines) or 'none'}")
        return self._lines[name]

    def _made(self) -> sqlite3.Connection:
        if self._index is None:
            self._index = sqlite3.connect(":memory:", check_same_thread=False)
            self._index.execute(
                "CREATE VIRTUAL TABLE passages USING fts5(document UNINDEXED, line UNINDEXED, text, tokenize='porter')"
            )
            for name, lines in self._lines.items():
                for at in range(0, len(lines), PASSAGE):
                    row = (name, at + 1, "\n".join(lines[at : at + PASSAGE]))
                    self._index.execute("INSERT INTO passages VALUES (?, ?, ?)", row)
        return self._index
