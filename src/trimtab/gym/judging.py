"""What an evaluator works with. A task's evaluator.py defines

    def validate(submitted: Submitted):
        return {"public": [{"name": "accuracy", "value": 0.7}], "private": [{"name": "accuracy", "value": 0.6}]}

It runs outside of the agent's sandbox. Whatever it wants to run of what the agent has handed in, it runs by
`submitted.run`, in a sandbox that sees no hidden file; and it computes the values itself, from outputs.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.gym.running import Ran
from trimtab.gym.sandbox import Engine, Sandbox, SandboxLimits
from trimtab.gym.workspace import Workspace, WorkspaceError, remove_tree


class Rejected(Exception):
    """Outputs that are missing or malformed: they score 0, and the agent is told this text."""


@dataclass(frozen=True)
class JudgedRun:
    """A command of the agent's that was run for the evaluator."""

    ran: Ran
    files: dict[str, bytes]
    """what was asked for of what it has written; files that it has not written are missing"""


@dataclass(frozen=True)
class Submitted:
    """What was handed in, and what it is measured by."""

    folder: Path
    """the outputs, as the workspace held them; they are an agent's: load nothing of them that can hold code"""
    hidden: Path
    """of the task"""
    task: Path
    engine: Engine
    limits: SandboxLimits
    readable: tuple[Path, ...] = ()
    environment: Mapping[str, str] | None = None

    def path(self, name: str) -> Path:
        """A file that was handed in.

        Raises:
            Rejected: if it was not.
        """
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            raise Rejected(f"{name} is missing")
        return path

    def text(self, name: str, most: int = 64 << 20) -> str:
        """The text of a file that was handed in.

        Raises:
            Rejected: if it is missing, too large or no text.
        """
        path = self.path(name)
        if path.stat().st_size > most:
            raise Rejected(f"{name} has {path.stat().st_size:,} bytes; {most:,} are allowed")
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise Rejected(f"{name} is no UTF-8 text") from error

    def run(
        self,
        command: Sequence[str],
        seconds: float,
        given: Mapping[str, str | bytes | Path] | None = None,
        wanted: Sequence[str] = (),
        input: bytes = b"",
    ) -> JudgedRun:
        """Run a command in a fresh sandbox, in a copy of what was handed in.

        Args:
            seconds: after which it is killed.
            given: path in that copy -> text, bytes or a file, laid over it.
            wanted: paths of files to read when it has ended.
        """
        place = Path(tempfile.mkdtemp(prefix="trimtab-judged-"))
        try:
            workspace = Workspace.create(place / "workspace", self.folder)
            for name, content in (given or {}).items():
                data = content.read_bytes() if isinstance(content, Path) else content
                workspace.write(name, data.encode() if isinstance(data, str) else data)
            sandbox = Sandbox(
                workspace.folder,
                engine=self.engine,
                uid=workspace.uid,
                limits=self.limits,
                readable=self.readable,
                masked=(self.task,),
                environment=self.environment or {},
            )
            ran = sandbox.run(command, seconds, input)
            return JudgedRun(ran, _files(workspace, wanted))
        finally:
            remove_tree(place)


def _files(workspace: Workspace, wanted: Sequence[str]) -> dict[str, bytes]:
    found = {}
    for name in wanted:
        try:
            if workspace.stat(name).st_size <= workspace.quota.bytes:
                found[name] = workspace.read(name, workspace.quota.bytes)
        except WorkspaceError:  # it was not written, or is no file
            continue
    return found
