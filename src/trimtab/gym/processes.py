"""The processes of a sandbox, as the system counts them: which there are, what they use, and their end."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TICKS = os.sysconf("SC_CLK_TCK")
BLOCK = 512
"""bytes that st_blocks counts"""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A process, zombies left out."""

    pid: int
    """as the sandbox numbers it"""
    name: str
    started: int
    """clock ticks since the system has started: with the number it names a process for good"""
    cpu_seconds: float
    """of it alone"""
    with_children: float
    """CPU seconds of it and of those of its children that have ended"""
    memory: int
    """resident bytes"""


class Namespace:
    """The processes of a pid namespace, seen from outside through its own /proc.

    Args:
        init: its first process, by the number that the host gives it.
        own: numbers, within it, of processes that are not the agent's.
    """

    def __init__(self, init: int, own: frozenset[int]):
        self.init, self.own = init, own
        self.command = max(own)
        """number of the process that became the command"""
        self._proc = Path(f"/proc/{init}/root/proc")

    def all(self) -> list[Process]:
        """Those that live; none once the namespace is gone."""
        try:
            numbers = [int(name) for name in os.listdir(self._proc) if name.isdigit()]  # noqa: PTH208
        except OSError:
            return []
        return [found for number in numbers if (found := _read(self._proc / str(number), number)) is not None]

    def agents(self) -> list[Process]:
        """Those that the agent's commands have started."""
        return [one for one in self.all() if one.pid not in self.own]

    def held_open(self, device: int) -> int:
        """Bytes on a disk of deleted files that are still open."""
        return _held_open([self._proc / str(one.pid) for one in self.agents()], device)

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to those that the agent's commands have started.

        Returns:
            How many have got it.
        """
        sent = 0
        for pid in self._on_host():
            with _pointing_at(pid) as descriptor:  # whoever has the number later is not meant
                if descriptor is not None and self._within(pid) not in (None, *self.own):
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(descriptor, number)
                        sent += 1
        return sent

    def _on_host(self) -> list[int]:
        try:
            ours = os.stat(f"/proc/{self.init}/ns/pid").st_ino  # noqa: PTH116
        except OSError:
            return []
        found = []
        for pid in psutil.pids():
            try:
                if os.stat(f"/proc/{pid}/ns/pid").st_ino == ours:  # noqa: PTH116
                    found.append(pid)
            except OSError:  # it has ended, or belongs to somebody else
                continue
        return found

    def _within(self, pid: int) -> int | None:
        """The number that the namespace gives to a process of the host; None if it is none of its."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return None
        numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
        return int(numbers[-1]) if len(numbers) > 1 else None


class Tree:
    """The processes that come from one on the host, where there is no namespace; what has left the tree is missed."""

    def __init__(self, root: int):
        self.root = self.command = root

    def all(self) -> list[Process]:
        numbers = [self.root, *(one.pid for one in self._below())]
        return [found for pid in numbers if (found := _read(Path(f"/proc/{pid}"), pid)) is not None]

    def agents(self) -> list[Process]:
        return [one for one in self.all() if one.pid != self.root]

    def held_open(self, device: int) -> int:
        return _held_open([Path(f"/proc/{one.pid}") for one in self.agents()], device)

    def signal(self, number: signal.Signals) -> int:
        below = self._below()
        for one in below:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        return len(below)

    def _below(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.root).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


class CpuCount:
    """CPU seconds of a sandbox that never fall, from what is seen of its processes now and then.

    The system adds the time of a process that has ended to its parent's, unless the parent ignores its children; so
    the larger of two counts holds: that of the living with their ended children, and that of all ever seen.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], float] = {}
        self._gone = 0.0
        self.seconds = 0.0
        self._lock = threading.Lock()

    def see(self, processes: list[Process]) -> float:
        now = {(one.pid, one.started): one.cpu_seconds for one in processes}
        living = sum(one.with_children for one in processes)
        with self._lock:
            self._gone += sum(seconds for key, seconds in self._seen.items() if key not in now)
            self._seen = now
            self.seconds = max(self.seconds, living, self._gone + sum(now.values()))
            return self.seconds


def _read(folder: Path, number: int) -> Process | None:
    try:
        text = (folder / "stat").read_text(errors="replace")
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    own, ended = (sum(map(int, fields[at : at + 2])) / TICKS for at in (11, 13))
    return Process(number, name, int(fields[19]), own, own + ended, int(fields[21]) * PAGE)


def _held_open(processes: list[Path], device: int) -> int:
    found = {}
    for process in processes:
        with suppress(OSError):
            for one in os.listdir(process / "fd"):  # noqa: PTH208
                with suppress(OSError):
                    file = os.stat(process / "fd" / one)  # noqa: PTH116
                    if file.st_nlink == 0 and file.st_dev == device:
                        found[file.st_ino] = file.st_blocks * BLOCK
    return sum(found.values())


@contextmanager
def _pointing_at(pid: int) -> Iterator[int | None]:
    """A descriptor of a process; None if it has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
