"""What is looked at while an agent's commands run: budget, memory and disk. Whatever is beyond its limit ends them."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

import psutil

from trimtab.gym.budget import GymBudget
from trimtab.gym.session import Session
from trimtab.gym.workspace import DiskUsage, Workspace

ROOM = 0.02
"""part of the disk and of the memory that is left to the system, whoever uses the rest"""
RESTING = 2.0
"""seconds between two counts of a workspace whose disk does not fill"""
STEP = 0.1
"""part of what is left of a quota by which a disk fills between two counts"""


class Guard:
    """Asked twenty times a second by every session. The workspace is counted only when its disk has filled by a part of
    what the quota leaves, for that costs more than to ask how full the disk is.

    Args:
        memory: bytes that the processes of all sessions may hold together.
        sessions: those that are open.
    """

    def __init__(
        self, workspace: Workspace, budget: GymBudget, memory: int, sessions: Callable[[], Iterable[Session]]
    ):  # fmt: skip
        self.workspace, self.budget, self.memory, self._sessions = workspace, budget, memory, sessions
        self._lock = threading.Lock()
        self._usage, self._took = workspace.usage(), 0.0
        self._free, self._inodes, self._counted = *self._room(), time.monotonic()
        self._held: WeakKeyDictionary[Session, int] = WeakKeyDictionary()
        self._breach, self._breached = "", -math.inf
        self._settling = False

    def look(self, session: Session, cpu_seconds: float, memory: int) -> str | None:
        """Why what a session runs must end; None while it need not."""
        self.budget.use_cpu(f"{session.name}@{session.created}", cpu_seconds)
        if (why := self.budget.over()) is not None:
            return why
        with self._lock:
            return self._too_much_memory(session, memory) or self._too_much_disk(session)

    def _too_much_memory(self, session: Session, memory: int) -> str | None:
        """The session that holds the most is the one to end."""
        self._held[session] = memory
        held = [memory, *(self._held.get(one, 0) for one in self._sessions() if one is not session)]
        if sum(held) > self.memory and memory == max(held):
            return f"its processes hold {memory:,} bytes of memory; {self.memory:,} are allowed in all sessions"
        system = psutil.virtual_memory()
        if system.available < ROOM * system.total and memory == max(held):
            return "the machine has hardly any memory left"
        return None

    def _too_much_disk(self, session: Session) -> str | None:
        """What runs when the quota is breached is stopped; what is started later may remove files."""
        disk = os.statvfs(self.workspace.folder)
        if disk.f_bfree < ROOM * disk.f_blocks:
            return "the disk is nearly full"
        self._count()
        return self._breach if session.began < self._breached else None

    def _count(self) -> None:
        """Count the workspace where its disk has filled, or some time has passed; note it if it has grown too large."""
        free, inodes = self._room()
        quota, last = self.workspace.quota, self._usage
        filled = self._free - free > STEP * abs(quota.bytes - last.bytes)
        filled = filled or self._inodes - inodes > STEP * abs(quota.files - last.files)
        resting = RESTING if last.beyond(quota) is None else 0.0  # files may be being removed
        if not filled and time.monotonic() - self._counted < max(resting, 20 * self._took):
            return
        began = time.monotonic()
        counted = self.workspace.usage()
        open_still = sum(one.held_open(self.workspace) for one in self._sessions())
        self._usage = DiskUsage(counted.bytes + open_still, counted.files)
        self._free, self._inodes, self._counted = free, inodes, time.monotonic()
        self._took = self._counted - began
        why = self._usage.beyond(quota)
        grown = self._usage.bytes > last.bytes or self._usage.files > last.files
        if why is not None and grown and not self._settling:
            self._breach, self._breached = why, time.monotonic()
        self._settling = why is not None and grown and not self._settling  # what came before the end of what filled it

    def _room(self) -> tuple[int, int]:
        found = os.statvfs(self.workspace.folder)
        return found.f_bfree * found.f_frsize, found.f_ffree
