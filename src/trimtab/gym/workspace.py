"""The folder that an agent works in. Its paths are resolved within it, whatever links and races are in the way."""

import errno
import os
import shutil
import stat
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import Field

from trimtab.common.errors import UserError
from trimtab.common.options import Options
from trimtab.gym.sandbox import WORKSPACE, agent_uid

DEEPEST = 64
"""folders within folders that are looked through or handed in"""
LONGEST_PATH = 2_000
"""bytes of a path that is looked through or handed in: a copy of it elsewhere may lie deeper"""
LINKS = 40
"""symbolic links that a path may lead through"""
BLOCK = 512


class WorkspaceError(UserError):
    """A path that an agent may not use, or that is not what it should be."""


class Quota(Options):
    """What a workspace may hold."""

    bytes: int = Field(default=1 << 30, ge=1 << 12)
    """Bytes on the disk, and of the sizes of files."""
    files: int = Field(default=20_000, ge=1)
    """Files, folders and links."""


@dataclass(frozen=True)
class DiskUsage:
    """What a workspace holds."""

    bytes: int
    """on the disk"""
    files: int

    def beyond(self, quota: Quota) -> str | None:
        """What is too much; None if nothing is."""
        if self.bytes > quota.bytes:
            return f"the workspace holds {self.bytes:,} bytes of {quota.bytes:,}; remove files"
        if self.files > quota.files:
            return f"the workspace holds more than {quota.files:,} files; remove some"
        return None


class Workspace:
    """A folder with a quota.

    Args:
        folder: an existing folder; what it holds is the agent's.
        uid: its owner within sandboxes, where this process is root.
        seen_as: where sandboxes see it.
    """

    def __init__(
        self, folder: Path, quota: Quota | None = None, uid: int | None = None, seen_as: str = WORKSPACE
    ):  # fmt: skip
        self.folder, self.quota, self.uid, self.seen_as = folder.resolve(), quota or Quota(), uid, seen_as
        self._root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @classmethod
    def create(
        cls,
        folder: Path,
        source: Path | None = None,
        quota: Quota | None = None,
        uid: int | None = None,
        seen_as: str = WORKSPACE,
    ) -> "Workspace":
        """A new one, with a copy of what the source holds; without a `uid` it gets a fresh one."""
        if source is None:
            folder.mkdir(parents=True)
        else:
            shutil.copytree(source, folder, symlinks=True)
        folder.chmod(0o700)
        found = cls(folder, quota, uid or agent_uid(), seen_as)
        found.own()
        return found

    @classmethod
    def adopt(cls, folder: Path, quota: Quota | None = None) -> "Workspace":
        """One that is there already, such as of an earlier process."""
        found = cls(folder, quota, agent_uid())
        found.own()
        return found

    def own(self) -> None:
        """Give all that it holds to the agent."""
        if self.uid is not None:
            subprocess.run(["chown", "-R", "-h", f"{self.uid}:{self.uid}", str(self.folder)], check=True)

    def close(self) -> None:
        if self._root != -1:
            os.close(self._root)
            self._root = -1

    def remove(self) -> None:
        """Delete it, however deep it is and whatever its rights are."""
        self.close()
        remove_tree(self.folder)

    # ------------------------------------------------------------ paths

    def parts(self, path: str) -> list[str]:
        """The parts of a path below the workspace, as an agent writes it: relative, or below /workspace.

        Raises:
            WorkspaceError: if it lies elsewhere.
        """
        if "\0" in path or not path or not _encodable(path):
            raise WorkspaceError(f"{path!r} is not a path; give one below {self.seen_as}")
        pure = PurePosixPath(path)
        if pure.is_absolute():
            if not pure.is_relative_to(self.seen_as):
                raise WorkspaceError(f"{path} is outside of {self.seen_as}; give a path below it")
            pure = pure.relative_to(self.seen_as)
        return list(pure.parts)

    @contextmanager
    def at(self, path: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """The folder of a path as a descriptor, and the path's last part, which is no link. The workspace itself has
        the name ".".

        Args:
            make: create folders that are missing.
        """
        stack = [os.dup(self._root)]
        try:
            name = self._walk(stack, path, make)
            yield stack[-1], name
        except OSError as error:
            raise WorkspaceError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        finally:
            for one in stack:
                os.close(one)

    def _walk(self, stack: list[int], path: str, make: bool) -> str:
        """Follow a path to its last part; the stack holds the folders on the way, and at its end that of the part."""
        waiting, links = deque(self.parts(path)), 0
        while waiting:
            part = waiting.popleft()
            if part == "..":
                if len(stack) == 1:
                    raise WorkspaceError(f"{path} leads out of {self.seen_as}; give a path below it")
                os.close(stack.pop())
                continue
            if (text := _link(stack[-1], part)) is not None:
                links += 1
                if links > LINKS:
                    raise WorkspaceError(f"{path} leads through too many links")
                target = self.parts(text)
                if text.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                waiting.extendleft(reversed(target))
                continue
            if not waiting:
                return part
            if make:
                self._make(stack[-1], part)
            stack.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=stack[-1]))
        return "."

    def _make(self, folder: int, name: str) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=folder)
        except FileExistsError:
            return
        if self.uid is not None:
            os.chown(name, self.uid, self.uid, dir_fd=folder, follow_symlinks=False)

    # ------------------------------------------------------------ files

    def read(self, path: str, most: int) -> bytes:
        """A regular file's first `most` bytes.

        Raises:
            WorkspaceError: if it is something else, or not there.
        """
        with self.at(path) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            with os.fdopen(descriptor, "rb") as file:
                self._check(os.fstat(descriptor), path, stat.S_IRUSR)
                return file.read(most)

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file, with the folders that it needs.

        Raises:
            WorkspaceError: if the quota has no room for it, or something that is no file is in the way.
        """
        usage = self.usage()
        if (fault := DiskUsage(usage.bytes + len(data), usage.files + 1).beyond(self.quota)) is not None:
            raise WorkspaceError(f"{path} is not written: {fault}")
        with self.at(path, make=True) as (folder, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(name, flags, 0o644, dir_fd=folder)
            with os.fdopen(descriptor, "wb") as file:
                self._check(os.fstat(descriptor), path, stat.S_IWUSR)
                if self.uid is not None:
                    os.fchown(descriptor, self.uid, self.uid)
                file.truncate(0)
                file.write(data)

    def _check(self, found: os.stat_result, path: str, right: int) -> None:
        """Refuse what is no regular file, and what its owner may not touch, as root might."""
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise WorkspaceError(f"{path} is not a regular file")
        if self.uid is not None and not found.st_mode & right:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def stat(self, path: str) -> os.stat_result:
        with self.at(path) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def entries(self, path: str = ".") -> list[tuple[str, os.stat_result]]:
        """Names in a folder and what they are, sorted."""
        with self.at(path) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                names = sorted(os.listdir(descriptor))  # noqa: PTH208
                return [(one, os.stat(one, dir_fd=descriptor, follow_symlinks=False)) for one in names]
            finally:
                os.close(descriptor)

    def walk(self, path: str = ".") -> Iterator[tuple[str, int, str, os.stat_result]]:
        """All that lies below a folder: its path from there, a descriptor of its folder while it is the current one,
        its name, and what it is. Links are not followed.

        Raises:
            WorkspaceError: at a folder that cannot be read, or lies too deep, and at a path that is too long.
        """

        def failed(error: OSError) -> None:
            raise WorkspaceError(f"{path}: a folder cannot be read: {error.strerror}")

        with self.at(path) as (parent, name):
            for place, folders, files, descriptor in os.fwalk(name, dir_fd=parent, onerror=failed):
                relative = PurePosixPath(place).relative_to(name)
                if len(relative.parts) > DEEPEST:
                    raise WorkspaceError(f"{path} is more than {DEEPEST} folders deep")
                for one in sorted((*folders, *files)):
                    try:
                        found = os.stat(one, dir_fd=descriptor, follow_symlinks=False)
                    except FileNotFoundError:  # it was removed meanwhile
                        continue
                    if len(os.fsencode(relative / one)) > LONGEST_PATH:
                        raise WorkspaceError(f"{path} holds a path of more than {LONGEST_PATH:,} bytes")
                    yield str(relative / one), descriptor, one, found

    def usage(self) -> DiskUsage:
        """What it holds, counted until it is clearly beyond the quota, at any depth and whatever the rights are."""
        return self._counted() or self._counted(repaired=True) or DiskUsage(0, 0)

    def _counted(self, repaired: bool = False) -> DiskUsage | None:
        """None if a folder cannot be read, which the agent has seen to; once `repaired`, it can."""
        if repaired:
            _make_readable(self.folder)
        size, files = 0, -1  # less the folder itself
        with subprocess.Popen(
            ["find", "-P", str(self.folder), "-printf", "%b\n"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not repaired else subprocess.DEVNULL,
        ) as counting:
            assert counting.stdout is not None
            for line in counting.stdout:
                size += BLOCK * int(line)
                files += 1
                if files > self.quota.files:
                    counting.kill()
                    break
            said = counting.stderr.read() if counting.stderr is not None else b""
        return None if b"Permission denied" in said else DiskUsage(size, files)

    def hide(self, text: str) -> str:
        """A text in which the folder is called as the agent knows it."""
        return text.replace(str(self.folder), self.seen_as)


def _encodable(path: str) -> bool:
    """Whether the system can have a file of this name; a lone surrogate is in none."""
    try:
        return bool(os.fsencode(path))
    except UnicodeEncodeError:
        return False


def remove_tree(folder: Path) -> None:
    """Delete a folder of an agent: its depth, names and rights may be anything."""
    _make_readable(folder)
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


def _make_readable(folder: Path) -> None:
    if os.geteuid() != 0:
        subprocess.run(["chmod", "-R", "u+rwX", "--", str(folder)], check=False, stderr=subprocess.DEVNULL)


def _link(folder: int, name: str) -> str | None:
    """The text of a link; None if it is something else, or not there."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None
