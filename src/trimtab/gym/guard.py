"""What is looked at while an agent's commands run: budget, memory and disk. Whatever is beyond its limit ends them."""

import os
import threading
import time

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
    """Asked twenty times a second for every session. The workspace is counted only when its disk has filled by a part
    of what the quota leaves, for that costs more than to ask how full the disk is.

    Args:
        memory: bytes that the processes of a session may hold together.
    """

    def __init__(self, workspace: Workspace, budget: GymBudget, memory: int):
        self.workspace, self.budget, self.memory = workspace, budget, memory
        self._lock = threading.Lock()
        self._usage = workspace.usage()
        self._took = 0.0
        self._free, self._inodes, self._counted = *self._room(), time.monotonic()

    def look(self, session: Session, cpu_seconds: float, memory: int) -> str | None:
        """Why what a session runs must end; None while it need not."""
        self.budget.use_cpu(f"{session.name}@{session.created}", cpu_seconds)
        if (why := self.budget.over()) is not None:
            return why
        if memory > self.memory:
            return f"its processes hold {memory:,} bytes of memory; {self.memory:,} are allowed"
        if psutil.virtual_memory().available < ROOM * psutil.virtual_memory().total:
            return "the machine has hardly any memory left"
        with self._lock:
            return self._disk(session)

    def _disk(self, session: Session) -> str | None:
        free, inodes = self._room()
        quota = self.workspace.quota
        total = os.statvfs(self.workspace.folder)
        if free < ROOM * total.f_blocks * total.f_frsize:
            return "the disk is nearly full"
        written, made = self._free - free, self._inodes - inodes
        filling = written > STEP * (quota.bytes - self._usage.bytes) or made > STEP * (quota.files - self._usage.files)
        resting = max(RESTING, 20 * self._took)
        if not filling and time.monotonic() - self._counted < resting:
            return None
        began = time.monotonic()
        counted, before = self.workspace.usage(), self._usage
        self._usage = DiskUsage(counted.bytes + session.held_open(self.workspace), counted.files)
        self._free, self._inodes, self._counted = free, inodes, time.monotonic()
        self._took = self._counted - began
        why = self._usage.beyond(quota)
        grown = self._usage.bytes > before.bytes or self._usage.files > before.files
        return why if grown else None  # or files are being removed

    def _room(self) -> tuple[int, int]:
        found = os.statvfs(self.workspace.folder)
        return found.f_bfree * found.f_frsize, found.f_ffree
