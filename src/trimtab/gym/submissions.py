"""What an agent hands in: an archive of its outputs, kept with its digest and its scores."""

import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trimtab.common.errors import UserError
from trimtab.common.files import json_line, read_json, write_atomic
from trimtab.gym.workspace import Workspace, WorkspaceError

ENTRIES_NAMED = 5


class SubmissionError(UserError):
    """Outputs that cannot be handed in, or a stored submission that is not what it was."""


@dataclass(frozen=True)
class SubmissionRecord:
    """A submission and what came of it, as its JSON file holds it."""

    number: int
    """from 1"""
    sha256: str
    """of the archive"""
    task: str
    version: str
    """of the task"""
    seconds: float
    """of the episode, when it was handed in"""
    score: float
    """of the public split: what the agent is told"""
    private_score: float
    metrics: dict[str, float] = field(default_factory=dict)
    private_metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    """what the agent is told besides"""
    final: bool = False
    """whether it was handed in by the end of the episode, not by the agent"""


class Submissions:
    """The folder that keeps them: `001.tar` and `001.json` for each.

    Raises:
        SubmissionError: at a record that is none.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.records = [_record(path) for path in sorted(folder.glob("[0-9]*.json"))]

    def archive(self, number: int) -> Path:
        return self.folder / f"{number:03}.tar"

    def add(self, archive: bytes, **values: Any) -> SubmissionRecord:
        """Keep one."""
        number = len(self.records) + 1
        record = SubmissionRecord(number=number, sha256=hashlib.sha256(archive).hexdigest(), **values)
        self.archive(number).write_bytes(archive)
        write_atomic(self.folder / f"{number:03}.json", json_line(asdict(record), indent=1))
        self.records.append(record)
        return record

    def read(self, number: int) -> bytes:
        """An archive, as it was handed in.

        Raises:
            SubmissionError: if it is not there, or not the same.
        """
        record = next((one for one in self.records if one.number == number), None)
        if record is None or not self.archive(number).is_file():
            raise SubmissionError(f"{self.folder} has no submission {number}")
        data = self.archive(number).read_bytes()
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise SubmissionError(f"{self.archive(number)} is not what was handed in: its SHA-256 differs")
        return data


def _record(path: Path) -> SubmissionRecord:
    try:
        return SubmissionRecord(**read_json(path))
    except TypeError as error:
        raise SubmissionError(f"{path} is not a submission of this version of trimtab") from error


def pack(workspace: Workspace, outputs: Sequence[str]) -> tuple[bytes, list[str]]:
    """An archive of the regular files and folders among the outputs; the same outputs give the same bytes.

    Returns:
        The archive, and what was left out: links, devices, sockets and pipes.

    Raises:
        SubmissionError: if the sizes of the files are beyond the quota, however little of them is on the disk.
    """
    held, left_out, size = io.BytesIO(), [], 0
    with tarfile.open(fileobj=held, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for output in outputs:
            for path, folder, name, found in _entries(workspace, output):
                if stat.S_ISDIR(found.st_mode):
                    archive.addfile(_entry(path, 0, folder=True))
                    continue
                data = _content(folder, name, workspace.quota.bytes - size) if stat.S_ISREG(found.st_mode) else None
                if data is None:
                    left_out.append(path)
                    continue
                size += len(data)
                archive.addfile(_entry(path, len(data)), io.BytesIO(data))
    return held.getvalue(), left_out


def unpack(archive: bytes, folder: Path) -> None:
    """Lay the files of an archive into a folder; nothing lands outside of it.

    Raises:
        SubmissionError: if it is no archive, or holds what is no file or folder below it.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
            for entry in opened:
                _lay(opened, entry, folder)
    except tarfile.TarError as error:
        raise SubmissionError(f"a submission cannot be unpacked: {error}") from error


def _lay(opened: tarfile.TarFile, entry: tarfile.TarInfo, folder: Path) -> None:
    """One file or folder of an archive, as `pack` makes them (`tarfile`'s filters need Python 3.11.4)."""
    parts = PurePosixPath(entry.name).parts
    if not parts or "/" in parts or ".." in parts or not (entry.isreg() or entry.isdir()):
        raise SubmissionError(f"a submission cannot be unpacked: {entry.name!r} is no file or folder below it")
    path = folder.joinpath(*parts)
    if entry.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    content = opened.extractfile(entry)
    assert content is not None
    with path.open("xb") as out:
        shutil.copyfileobj(content, out)


def _entries(workspace: Workspace, output: str) -> Any:
    """The place of an output, and all below it: path, descriptor of its folder, name and what it is."""
    try:
        with workspace.at(output) as (folder, name):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            yield output, folder, name, found
    except WorkspaceError:  # it is not there, or its folder is not, or leads elsewhere
        return
    if stat.S_ISDIR(found.st_mode):
        for path, descriptor, name, below in workspace.walk(output):
            yield f"{output}/{path}", descriptor, name, below


def _content(folder: int, name: str, most: int) -> bytes | None:
    """A regular file; None if something else has taken its place, or it has gone."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        if found.st_size > most:
            raise SubmissionError(f"the outputs are larger than the quota of the workspace ({name} is too much)")
        return file.read(found.st_size)


def _entry(path: str, size: int, folder: bool = False) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o755 if folder else 0o644
    entry.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    return entry
