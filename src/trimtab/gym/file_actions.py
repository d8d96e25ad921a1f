"""Actions on files, done from outside of the sandbox on paths that are resolved within the workspace."""

import fnmatch
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

from trimtab.common.count import count
from trimtab.gym import actions
from trimtab.gym.documents import Documents
from trimtab.gym.workspace import WORKSPACE, Workspace, WorkspaceError

WINDOW = 100
"""lines that are shown"""
READABLE = 16 << 20
"""bytes of a file that is shown, edited or searched"""
FOUND = 200
"""hits of a search"""
SEARCHING = 10.0
"""seconds of a search"""
KINDS = {stat.S_IFDIR: "folder", stat.S_IFREG: "file", stat.S_IFLNK: "link"}

Done = tuple[str, dict[str, Any]]
"""a message and fields"""


@dataclass
class View:
    """The file that is shown, and the first line of it that is."""

    path: str = ""
    line: int = 1


class FileActions:
    """What an agent does with files."""

    def __init__(self, workspace: Workspace, documents: Documents, view: View):
        self.workspace, self.documents, self.view = workspace, documents, view
        self.handlers = {
            actions.OpenFile: self.open,
            actions.FileGotoLine: self.goto,
            actions.FileScrollDown: lambda _: self._show(self.view.line + WINDOW),
            actions.FileScrollUp: lambda _: self._show(self.view.line - WINDOW),
            actions.CreateFile: self.create,
            actions.EditFile: self.edit,
            actions.SearchDir: self.search_dir,
            actions.SearchFile: self.search_file,
            actions.FindFile: self.find,
            actions.ListFiles: self.list_all,
            actions.GetFileInfo: self.info,
            actions.SearchDocuments: self.search_documents,
            actions.OpenDocument: self.open_document,
        }

    def open(self, action: actions.OpenFile) -> Done:
        lines = self._lines(action.path)
        first = max(1, action.line_number - action.context_lines // 2) if action.line_number > 1 else 1
        self.view.path, self.view.line = action.path, first
        return self._window(action.path, lines, first, action.context_lines)

    def goto(self, action: actions.FileGotoLine) -> Done:
        return self._show(action.line)

    def create(self, action: actions.CreateFile) -> Done:
        self.workspace.write(action.filename, _encoded(action.content))
        added = _numbered(_split(action.content), 1)
        return f"{action.filename} is written", {"file_path": action.filename, "content": added}

    def edit(self, action: actions.EditFile) -> Done:
        lines = self._lines(action.path, exactly=True)
        if action.start > len(lines) + 1 or action.end > len(lines) or action.end < action.start - 1:
            raise WorkspaceError(
                f"{action.path} has {len(lines)} lines; start may be 1 to {len(lines) + 1}, and end from start - 1 "
                f"to {len(lines)}, not {action.start} and {action.end}"
            )
        removed, added = lines[action.start - 1 : action.end], _split(action.content)
        changed = [*lines[: action.start - 1], *added, *lines[action.end :]]
        self.workspace.write(action.path, _encoded("".join(f"{line}\n" for line in changed)))
        fields = {
            "file_path": action.path,
            "removed": _numbered(removed, action.start),
            "added": _numbered(added, action.start),
        }
        return f"{len(removed)} lines are replaced by {len(added)}", fields

    def search_dir(self, action: actions.SearchDir) -> Done:
        hits, large, notes, end = [], 0, [], time.monotonic() + SEARCHING
        for path, folder, name, found in self.workspace.walk(action.path):
            if stat.S_ISREG(found.st_mode) and found.st_size <= READABLE:
                hits += [f"{path}:{hit}" for hit in _hits(_text_at(folder, name), action.term)]
            elif stat.S_ISREG(found.st_mode):
                large += 1
            if len(hits) > FOUND:
                break
            if time.monotonic() > end:
                notes.append(f"not all is searched after {SEARCHING:g} seconds")
                break
        if large:
            verb = "is" if large == 1 else "are"
            notes.append(f"{count(large, 'file')} of more than {READABLE:,} bytes {verb} not searched")
        message, fields = self._hits(hits, action.term, action.path)
        return "; ".join([message, *notes]), fields

    def search_file(self, action: actions.SearchFile) -> Done:
        path = action.path or self._current()
        return self._hits(_hits("\n".join(self._lines(path)), action.term), action.term, path)

    def find(self, action: actions.FindFile) -> Done:
        found = []
        for path, _, name, _ in self.workspace.walk(action.path):
            if fnmatch.fnmatchcase(name, action.pattern):
                found.append(path)
            if len(found) > FOUND:
                break
        shown, more = _first(found)
        return f"{count(len(shown), 'file')} named {action.pattern}{more}", {"content": "\n".join(sorted(shown))}

    def list_all(self, action: actions.ListFiles) -> Done:
        found = self.workspace.entries(action.path)
        rows = [f"{_kind(one):6} {one.st_size:>12,}  {name}" for name, one in found]
        return count(len(found), "entry", "entries"), {"file_path": action.path, "content": "\n".join(rows)}

    def info(self, action: actions.GetFileInfo) -> Done:
        found = self.workspace.stat(action.path)
        fields = {
            "file_path": action.path,
            "kind": _kind(found),
            "bytes": found.st_size,
            "modified": round(found.st_mtime, 3),
            "executable": bool(found.st_mode & 0o100),
        }
        return f"{action.path} is a {fields['kind']} of {found.st_size:,} bytes", fields

    def search_documents(self, action: actions.SearchDocuments) -> Done:
        found = self.documents.search(action.query, action.top_k)
        text = "\n\n".join(f"{one.document}, line {one.line}:\n{one.text}" for one in found)
        return count(len(found), "passage"), {"content": text, "documents": self.documents.names()}

    def open_document(self, action: actions.OpenDocument) -> Done:
        return self._window(action.document, self.documents.lines(action.document), action.line, WINDOW)

    def _show(self, line: int) -> Done:
        path = self._current()
        lines = self._lines(path)
        self.view.line = min(max(1, line), max(1, len(lines)))
        return self._window(path, lines, self.view.line, WINDOW)

    def _current(self) -> str:
        if not self.view.path:
            raise WorkspaceError("no file is open; open_file opens one")
        return self.view.path

    def _lines(self, path: str, exactly: bool = False) -> list[str]:
        """A file's lines, which are the same bytes when they are written again if they are to be had `exactly`."""
        data = self.workspace.read(path, READABLE + 1)
        if len(data) > READABLE:
            raise WorkspaceError(f"{path} has more than {READABLE:,} bytes; look at it by commands")
        if b"\0" in data[:8192]:
            raise WorkspaceError(f"{path} is no text; look at it by commands")
        try:
            return _split(data.decode("utf-8", "strict" if exactly else "replace"))
        except UnicodeDecodeError as error:
            raise WorkspaceError(
                f"{path} is no UTF-8 text, of which an edit would change more; use commands"
            ) from error

    def _window(self, path: str, lines: list[str], first: int, number: int) -> Done:
        shown = lines[first - 1 : first - 1 + number]
        last = first + len(shown) - 1
        fields = {"file_path": path, "content": _numbered(shown, first), "line_info": f"{first}-{last} of {len(lines)}"}
        return f"lines {first} to {last} of {len(lines)} of {path}", fields

    def _hits(self, hits: list[str], term: str, path: str) -> Done:
        shown, more = _first(hits)
        return f"{count(len(shown), 'line')} with {term!r} in {path}{more}", {"content": "\n".join(shown)}


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _numbered(lines: list[str], first: int) -> str:
    return "\n".join(f"{number:>6}  {line}" for number, line in enumerate(lines, start=first))


def _hits(text: str, term: str) -> list[str]:
    lines = enumerate(text.split("\n"), start=1)
    return [f"{number}: {line[:400]}" for number, line in lines if term in line]


def _first(found: list[str]) -> tuple[list[str], str]:
    """What is shown of what was found, and words that say so."""
    return found[:FOUND], ", more are not shown" if len(found) > FOUND else ""


def _text_at(folder: int, name: str) -> str:
    """A text in an open folder; empty where it is none, or no file any more."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        data = file.read(READABLE)
    return "" if b"\0" in data[:8192] else data.decode("utf-8", "replace")


def _kind(found: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(found.st_mode), "special")


assert WORKSPACE == "/workspace"  # as the texts of the actions say
