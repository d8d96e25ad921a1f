"""Where a long command writes: created or resumed, by one process at a time, atomically."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from trimtab.common import failures, processes
from trimtab.common.disk import check_writable, made, reason
from trimtab.common.errors import FailedOutside, Interrupted, OutputClosed, Unanswered, UserError
from trimtab.common.files import DataError, JsonLines, json_line, read_json, write_atomic, write_together
from trimtab.common.locks import lock_path, writing

SIGNATURE, RECIPE, META = "signature.txt", "recipe.yaml", ".meta.json"
LOOSE = frozenset({"trimtab", "versions", "hardware", "python"})
"""signature lines that may differ when work is resumed"""


class WorkdirError(UserError):
    """A place that cannot be used: it holds other work, is locked, or is not writable."""


class Workdir:
    """A folder that a command writes, or a file with companions of the same stem.

    Args:
        names: files that the command writes in the folder; for a file, suffixes of its companions: ".meta.json".
        option: how to choose another place.
        force: replace earlier results of the command.
        error: raised if the place cannot be used.
        parts: suffixes of companions of a file that hold partial results until the whole is written.
    """

    def __init__(
        self,
        place: Path,
        command: str,
        names: Collection[str] = (),
        *,
        is_file: bool = False,
        option: str = "another --out",
        force: bool = False,
        error: type[UserError] = WorkdirError,
        parts: Collection[str] = (),
    ):
        self.place, self.command, self.names, self.force = place, command, tuple(names), force
        self.way_out = f"{'add --force to replace it or ' * (not force)}choose {option}"
        self.elsewhere = f"choose {option}"
        self.is_file, self.error, self.parts = is_file, error, tuple(parts)
        self.signature = place.with_suffix(f".{SIGNATURE}") if is_file else place / SIGNATURE
        self.lines: list[JsonLines] = []
        self.fresh = False

    def path(self, name: str) -> Path:
        return self.place.with_suffix(name) if self.is_file else self.place / name

    def check(self) -> None:
        """Check that the place is writable, holds no other command's work and is not an existing file, before anything
        heavy is loaded."""
        if processes.rank() != 0:
            return
        if (other := self._owner()) not in (None, self.command):
            raise self.error(f"{self.place} holds results of `trimtab {other}`; {self.elsewhere}")
        if self.is_file:
            own = self._owner() == self.command  # a meta whose rows were removed says nothing any more
            companions = [self.path(name) for name in self.names if not (own and name == META)]
            there = next((one for one in (self.place, *companions) if one.exists()), None)
            if there is not None and not self.force:
                raise self.error(f"{there} exists; {self.way_out}")
            check_writable(self.place.parent, self.error, self.elsewhere, shown=self.place)
            return
        check_writable(self.place, self.error, self.elsewhere)

    def _owner(self) -> str | None:
        """The command whose results are there; None if unknown."""
        if not self.is_file:
            return command_of(self.place)
        try:
            meta = read_json(self.path(META))
        except DataError:
            return None
        return meta.get("command") if isinstance(meta, dict) else None

    @contextmanager
    def open(self, kept: Callable[[str], str] | None = None) -> Iterator["Workdir"]:
        """Lock the place for this context. On an error, work that has kept nothing is removed.

        Args:
            kept: what to do first, if anything -> that, what is kept, and how to resume, in words; about the opened
                records by default.

        Raises:
            FailedOutside: if a disk, the machine or a library fails, with what is kept. A bug gets a note of that.
            Interrupted: after a Ctrl-C, with what is kept.
        """
        kept = kept or self._kept
        lock = writing(self.place, "another process", f"wait for it, or {self.elsewhere}", self.error)
        folder = self.place.parent if self.is_file else self.place
        with made(folder) if processes.rank() == 0 else nullcontext(), lock:  # made by one, and removed by that one
            try:
                self.check()  # another process may have written there meanwhile
                self.fresh = processes.rank() == 0 and not any(map(Path.exists, self._made()))
                yield self
            except KeyboardInterrupt:
                self._tidy()
                raise Interrupted(f"stopped; {kept('')}") from None
            except OutputClosed:
                self._tidy()
                raise OutputClosed(f"the output was closed by its reader; {kept('')}") from None
            except (UserError, Interrupted, Unanswered, BrokenPipeError):  # their messages are complete
                self._tidy()
                raise
            except Exception as failed:
                self._tidy()
                what = reason(failed, self.place) if isinstance(failed, OSError) else failures.said(failed)
                if what is None:
                    failed.add_note(f"{self.place}: {kept('have that fixed')}")
                    raise
                what, room, _ = what.partition("; make room")
                first = "make room" if room or failures.is_full(failed) else "fix that"
                raise FailedOutside(f"{self.place}: {what}; {kept(first)}") from failed
            except BaseException:
                self._tidy()
                raise

    def abandon(self) -> None:
        """Leave nothing behind where nothing is kept, in a process that ends from within; `open` does not return."""
        self._tidy()
        lock_path(self.place).unlink(missing_ok=True)
        if self.place.is_dir() and not any(self.place.iterdir()):
            self.place.rmdir()

    def _kept(self, first: str) -> str:
        found = [f"{len(one)} {one.what} are in {one.path}" for one in self.lines if len(one)]
        nothing = f"nothing of {self.place} is kept: run the same command again"
        kept = f"{', '.join(found)}: run the same command again to continue" if found else nothing
        return f"{first} first; {kept}" if first else kept

    def _tidy(self) -> None:
        """Remove the files of work that was started now and has kept nothing."""
        if any(len(one) for one in self.lines) or (self.place / RECIPE).exists():
            return
        for one in self.lines:
            one.path.unlink(missing_ok=True)
        if self.fresh:
            self._clear()

    def _made(self) -> list[Path]:
        return [self.signature, *map(self.path, self.parts if self.is_file else self.names)]

    def _clear(self) -> None:
        """Remove what the command made in the folder, or next to the file; of subfolders only empty ones."""
        for path in self._made():
            if not path.is_dir():
                path.unlink(missing_ok=True)
            elif not any(path.iterdir()):
                path.rmdir()

    def sign(self, signature: Mapping[str, str], loose: Collection[str] = ()) -> None:
        """Record the signature of the work, or check it against an existing one.

        Args:
            loose: lines that may differ when the work is resumed, besides `LOOSE`.
        """
        before = _read_lines(self.signature)
        if self.force and not (self.is_file and before and not differences(before, signature, loose)):
            self._clear()  # parts of a file that replaces another are continued if they are of the same work
            before = None
        if before is None and (there := next((path for path in self._made() if path.exists()), None)):
            raise self.error(f"{self.place} holds {there.name} but no {self.signature.name}; {self.way_out}")
        if before is not None:
            for key, was, now in differences(before, signature, loose):
                found = different(key, was, now)
                raise self.error(f"{self.place} holds results of `trimtab {self.command}` with {found}; {self.way_out}")
        _write_lines(self.signature, self.command, signature)

    def write(self, name: str, text: str | Iterable[str]) -> Path:
        return write_atomic(self.path(name), text)

    def write_rows(self, rows: Iterable[Mapping[str, Any]], meta: Mapping[str, Any], name: str = "") -> Path:
        """Write the rows of a file, and FILE.meta.json, which says how they were made; partial results are removed.

        Args:
            name: suffix of the rows' file, if that is not the place itself.

        Returns:
            The path of the meta file.
        """
        path, beside = self.path(name) if name else self.place, self.path(META)
        meta = {"command": self.command, **meta}
        write_together({path: map(json_line, rows), beside: json_line(meta, indent=1)})
        self._clear()
        return beside

    def records(self, name: str, *keys: str, what: str = "lines") -> JsonLines:
        """Open a file of JSON lines to append to, which need these keys."""
        found = JsonLines(self.path(name), *keys, what=what, error=self.error)
        self.lines.append(found)
        return found


def read_signature(folder: Path) -> dict[str, str] | None:
    """The lines of a folder's signature; None if it has none."""
    return _read_lines(folder / SIGNATURE)


def _read_lines(path: Path) -> dict[str, str] | None:
    if not path.is_file():
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def differences(
    before: Mapping[str, str], signature: Mapping[str, Any], loose: Collection[str] = ()
) -> list[tuple[str, str | None, str | None]]:
    """Lines in which a stored signature differs: key, stored value and current value, None for a missing line. Those of
    `loose` and `LOOSE` may differ."""
    now = {key: _line(value) for key, value in signature.items()}
    keys = [key for key in {**now, **before} if key not in {"command", *LOOSE, *loose}]
    return [(key, before.get(key), now.get(key)) for key in keys if before.get(key) != now.get(key)]


def different(key: str, was: str | None, now: str | None) -> str:
    """A line that differs, in words: "a different seed (0 there, 1 here)", "different items (...)"."""
    article = "" if key.endswith(("s", "data")) else "a "
    there, here = (value or "none" for value in (was, now))
    return f"{article}different {key} ({there} there, {here} here)"


def write_signature(folder: Path, command: str, signature: Mapping[str, Any]) -> None:
    _write_lines(folder / SIGNATURE, command, signature)


def _write_lines(path: Path, command: str, signature: Mapping[str, Any]) -> None:
    lines = {"command": command, **signature}
    write_atomic(path, "".join(f"{key}: {_line(value)}\n" for key, value in lines.items()))


def _line(value: Any) -> str:
    return str(value).replace("\n", "\\n")


def command_of(folder: Path) -> str | None:
    """The command whose results a folder holds; None if unknown."""
    if (folder / RECIPE).is_file():
        return "train"
    return (read_signature(folder) or {}).get("command")
