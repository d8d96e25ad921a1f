"""Snapshots of a run: agent, budget, workspace, submissions and trajectory, kept between two steps.

`snapshots/STEP/snapshot.json` names every file by the SHA-256 of its content, which lies once in `snapshots/objects`,
however many snapshots hold it.
"""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.common.errors import UserError
from trimtab.common.files import json_line, read_json, write_atomic
from trimtab.gym.episode import Episode
from trimtab.gym.task import GymTask
from trimtab.gym.trajectory import TRAJECTORY
from trimtab.gym.workspace import Workspace, WorkspaceError, remove_tree

FOLDER, FILE, OBJECTS = "snapshots", "snapshot.json", "objects"
KEPT = ("workspace", "submissions")
"""folders of a run that a snapshot holds"""
CHUNK = 16 << 20
"""bytes; files below are written only if they are new"""


class SnapshotError(UserError):
    """A snapshot that cannot be taken now, or cannot be restored."""


@dataclass(frozen=True)
class GymSnapshot:
    """A run between two steps."""

    step: int
    """steps before it"""
    episode: Mapping[str, Any]
    """`Episode.state()`"""
    agent: Mapping[str, Any]
    """what the agent remembers"""
    trajectory: tuple[int, str]
    """bytes of the trajectory, and their SHA-256"""
    folders: Mapping[str, list[list[Any]]]
    """folder -> its entries: path, kind, mode, time of change (ns) and SHA-256 or target"""


def take(episode: Episode, agent: Mapping[str, Any], step: int, lost: Sequence[str] = ()) -> Path:
    """Keep a run as it is now. The clock of its budget stands still meanwhile.

    Args:
        agent: what the agent remembers, as JSON.
        step: how many steps have been made.
        lost: sessions besides those that are open, to tell the agent of.

    Raises:
        SnapshotError: while something runs in a session, or if the files are larger than the quota or too deep.
    """
    for name, session in episode.sessions.sessions.items():
        if not session.idle:
            what = ", ".join(one.name for one in session.processes()[:3]) or "a command"
            raise SnapshotError(f"session {name} is busy with {what}; a snapshot is taken when nothing runs")
    store = episode.folder / FOLDER
    episode.budget.pause()
    try:
        (store / OBJECTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        folders = {"workspace": _entries(episode.workspace, store / OBJECTS, episode.workspace.quota.bytes)}
        with closing(Workspace(episode.submissions.folder)) as submissions:
            folders["submissions"] = _entries(submissions, store / OBJECTS)
        path = episode.folder / TRAJECTORY
        data = path.read_bytes() if path.is_file() else b""
        state = episode.state()
        state["sessions"] = sorted({*state["sessions"], *lost})
        found = GymSnapshot(step, state, agent, (len(data), hashlib.sha256(data).hexdigest()), folders)
        write_atomic(store / str(step) / FILE, json_line(asdict(found)))
        return store / str(step)
    except WorkspaceError as error:
        raise SnapshotError(f"there is no snapshot of the workspace: {error}") from error
    finally:
        (store / OBJECTS / ".part").unlink(missing_ok=True)
        episode.budget.begin()


def steps(run: Path) -> list[int]:
    """Of the snapshots of a run."""
    return sorted(int(path.parent.name) for path in (run / FOLDER).glob(f"[0-9]*/{FILE}"))


def read(run: Path, step: int | None = None) -> GymSnapshot:
    """A snapshot of a run, by default its last one.

    Raises:
        SnapshotError: if there is none.
    """
    there = steps(run)
    if not there:
        raise SnapshotError(f"{run} has no snapshot; `trimtab gym run` takes them, so name another run or begin anew")
    if step is not None and step not in there:
        raise SnapshotError(f"{run} has no snapshot at step {step}; there are: {', '.join(map(str, there))}")
    path = run / FOLDER / str(there[-1] if step is None else step) / FILE
    held = read_json(path)
    if not isinstance(held, dict) or held.keys() != GymSnapshot.__dataclass_fields__.keys():
        raise SnapshotError(f"{path} is not a snapshot of this version of trimtab")
    return GymSnapshot(**held)


def restore(run: Path, snapshot: GymSnapshot, task: GymTask, folder: Path, **how: Any) -> Episode:
    """A run as it was: workspace, submissions and trajectory in a folder, and the episode that goes on there. Sessions
    are lost.

    Args:
        run: where the snapshot was taken.
        folder: that of the run, whose later files go, or a new one.
        how: of `Episode`.

    Raises:
        SnapshotError: if it is of another task, or a file of it is damaged.
    """
    of = snapshot.episode
    if (of["task"], of["version"]) != (task.name, task.version()):
        raise SnapshotError(
            f"{run} is a run of {of['task']} {of['version']}, and this is {task.name} {task.version()}: scores of "
            "other versions do not compare; begin anew in another folder"
        )
    size, digest = snapshot.trajectory
    path = run / TRAJECTORY
    steps_made = path.read_bytes()[:size] if path.is_file() else b""
    if hashlib.sha256(steps_made).hexdigest() != digest:
        raise SnapshotError(f"{path} is not what it was at step {snapshot.step}: its SHA-256 differs")
    laid, fresh = {name: folder / f".{name}.part" for name in KEPT}, not folder.exists()
    try:
        for name, part in laid.items():
            if part.exists():
                remove_tree(part)
            _lay(part, snapshot.folders[name], run)
        for name, part in laid.items():
            if (folder / name).exists():
                remove_tree(folder / name)
            part.rename(folder / name)
    except BaseException:
        for place in [folder] if fresh else laid.values():
            if place.exists():
                remove_tree(place)
        raise
    write_atomic(folder / TRAJECTORY, steps_made.decode())
    for later in (step for step in steps(folder) if step > snapshot.step):
        remove_tree(folder / FOLDER / str(later))
    return Episode(task, folder, state=dict(of), **how)


# ---------------------------------------------------------------- comparing

Side = tuple[Path, GymSnapshot]
"""the run that took a snapshot, and the snapshot"""


class SnapshotDiff(NamedTuple):
    """What differs between two snapshots."""

    files: list[tuple[str, int | None, int | None]]
    """path of what is in the workspace, folders apart, and its bytes before and after; None where it is not there"""
    budget: dict[str, tuple[float, float]]
    """what was used before and after"""
    submissions: list[tuple[int, float | None, float | None]]
    """all submissions: number, and public score before and after"""


def diff(before: Side, after: Side) -> SnapshotDiff:
    """Compare two snapshots of a task, such as of two branches. A file differs by content, rights or kind, not by time.

    Raises:
        SnapshotError: if they are of different tasks or versions, or a file is missing.
    """
    tasks = [" ".join(one.episode[key] for key in ("task", "version")) for _, one in (before, after)]
    if tasks[0] != tasks[1]:
        raise SnapshotError(
            f"{before[0]} is a run of {tasks[0]}, and {after[0]} is a run of {tasks[1]}: they do not compare"
        )
    held, holds = (_files_of(run, one.folders["workspace"]) for run, one in (before, after))
    files = [
        (path, held[path][1] if path in held else None, holds[path][1] if path in holds else None)
        for path in sorted({*held, *holds})
        if held.get(path) != holds.get(path)
    ]
    budgets = [one.episode["budget"] for _, one in (before, after)]
    scores, scored = (_scores_of(*side) for side in (before, after))
    numbers = sorted({*scores, *scored})
    return SnapshotDiff(
        files,
        {key: (value, budgets[1][key]) for key, value in budgets[0].items()},
        [(number, scores.get(number), scored.get(number)) for number in numbers],
    )


def _files_of(run: Path, entries: list[list[Any]]) -> dict[str, tuple[Any, int]]:
    """What a folder holds, other folders apart: path -> all that tells it from another, and its bytes."""
    contents = {path: what for path, kind, _, _, what in entries if kind == "file"}
    found = {}
    for path, kind, mode, _, what in entries:
        digest = contents.get(what) if kind == "same" else contents.get(path)
        if kind != "folder":
            size = 0 if digest is None else _object(run, digest).stat().st_size
            found[path] = ((mode, digest or (kind, what)), size)
    return found


def _scores_of(run: Path, snapshot: GymSnapshot) -> dict[int, float]:
    records = [
        read_json(_object(run, what))
        for path, _, _, _, what in snapshot.folders["submissions"]
        if path.endswith(".json")
    ]
    return {one["number"]: one["score"] for one in records}


def _object(run: Path, digest: str) -> Path:
    place = run / FOLDER / OBJECTS / digest
    if not place.is_file():
        raise SnapshotError(f"{place} is missing, which the snapshot needs; choose another snapshot")
    return place


# ---------------------------------------------------------------- keeping


def _entries(workspace: Workspace, objects: Path, most: float = math.inf) -> list[list[Any]]:
    """What a folder holds; content that is not among the objects yet is added to them. Sockets are left out: nobody
    listens there once sessions are lost.

    Args:
        most: bytes of all files by their sizes, which sparse files do not take up on the disk.
    """
    root = workspace.stat(".")
    entries: list[list[Any]] = [[".", "folder", stat.S_IMODE(root.st_mode) & 0o1777, root.st_mtime_ns, ""]]
    links: dict[tuple[int, int], str] = {}
    size = 0
    for path, folder, name, found in workspace.walk():
        kind, what = "", ""
        if stat.S_ISDIR(found.st_mode):
            kind = "folder"
        elif stat.S_ISLNK(found.st_mode):
            kind, what = "link", os.readlink(name, dir_fd=folder)
        elif stat.S_ISFIFO(found.st_mode):
            kind = "pipe"
        elif stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) in links:
            kind, what = "same", links[found.st_dev, found.st_ino]
        elif stat.S_ISREG(found.st_mode):
            size += found.st_size
            if size > most:
                raise SnapshotError(f"the sizes of the files are beyond the {most:,} bytes of the quota")
            kind, what = "file", _kept(folder, name, path, objects)
            if found.st_nlink > 1:
                links[found.st_dev, found.st_ino] = path
        if kind:
            entries.append([path, kind, stat.S_IMODE(found.st_mode) & 0o1777, found.st_mtime_ns, what])
    return entries


def _kept(folder: int, name: str, path: str, objects: Path) -> str:
    """The SHA-256 of a file, whose content is among the objects then."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    part, digest = objects / ".part", hashlib.sha256()
    with os.fdopen(descriptor, "rb") as file:
        digest.update(data := file.read(CHUNK))
        if len(data) < CHUNK and (objects / digest.hexdigest()).exists():
            return digest.hexdigest()
        with part.open("wb") as out:  # hashed while it is written, so that its name fits whatever happens to the file
            while data:
                out.write(data)
                digest.update(data := file.read(CHUNK))
    held = objects / digest.hexdigest()
    if held.exists():  # not replaced: a file that is cut and written anew goes to the disk at once
        part.unlink()
    else:
        part.rename(held)
    return held.name


# ---------------------------------------------------------------- restoring


def _lay(place: Path, entries: list[list[Any]], run: Path) -> None:
    """Write a folder anew, content, rights and times."""
    makers: dict[str, Callable[[Path, str], Any]] = {
        "folder": lambda path, _: path.mkdir(parents=True),
        "link": lambda path, what: path.symlink_to(what),
        "pipe": lambda path, _: os.mkfifo(path),
        "same": lambda path, what: path.hardlink_to(place / what),
        "file": lambda path, what: _written(path, _object(run, what)),
    }
    for path, kind, _, _, what in sorted(entries, key=lambda one: one[1] == "same"):
        makers[kind](place / path, what)
    for path, kind, mode, changed, _ in reversed(entries):  # a folder's own time after all that is in it
        if kind != "link":
            (place / path).chmod(mode)
        os.utime(place / path, ns=(changed, changed), follow_symlinks=False)


def _written(path: Path, held: Path) -> None:
    digest = hashlib.sha256()
    with held.open("rb") as file, path.open("xb") as out:
        while data := file.read(CHUNK):
            digest.update(data)
            out.write(data)
    if digest.hexdigest() != held.name:
        raise SnapshotError(f"{held} is damaged: its SHA-256 differs; choose another snapshot")
