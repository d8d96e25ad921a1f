"""What an evaluator works with. A task's evaluator.py defines

    def validate(submitted: Submitted):
        return {"public": [{"name": "accuracy", "value": 0.7}], "private": [{"name": "accuracy", "value": 0.6}]}

It runs outside of the agent's sandbox. Whatever it wants to run of what the agent has handed in, it runs by
`submitted.run`, in a sandbox that sees no hidden file; and it computes the values itself, from outputs.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.running import Pipes, Ran
from trimtab.gym.sandbox import Engine, Sandbox, SandboxLimits
from trimtab.gym.talking import Talk, TalkError
from trimtab.gym.task import SEED
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
    workspace: Path = Path()
    """of the task, as agents get it"""

    @property
    def seed(self) -> int:
        """Of what is random in the evaluation; see `GymTask.seeded`."""
        return int((self.environment or {}).get(SEED, "0"))

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
        with self._sandbox(given) as (workspace, sandbox):
            ran = sandbox.run(command, seconds, input)
            return JudgedRun(ran, _files(workspace, wanted))

    @contextmanager
    def talk(
        self, command: Sequence[str], seconds: float, given: Mapping[str, str | bytes | Path] | None = None
    ) -> Iterator[Talk]:
        """Talk with a command in a fresh sandbox, as `run` makes it, in lines of JSON.

        So the evaluator can hold what the agent's code must not: a model that is asked, a network that is trained.

        Args:
            seconds: of the whole talk.

        Raises:
            Rejected: if it ends, is silent for too long or writes no JSON.
        """
        with self._sandbox(given) as (_, sandbox), closing(Pipes()) as pipes:
            try:
                running = sandbox.start(command, stdin=pipes.input[0], stdout=pipes.output[1], stderr=pipes.error[1])
                with closing(Talk(running, pipes, seconds)) as talk:
                    yield talk
            except TalkError as error:
                raise Rejected(f"{' '.join(command)}: {error}") from error

    def module(self, name: str) -> ModuleType:
        """Python of the task's own folder, such as "workspace/trainer.py"; not of what was handed in."""
        return user_code.load(str(self.task / name), "task", name, name, UserError)

    @contextmanager
    def _sandbox(self, given: Mapping[str, str | bytes | Path] | None) -> Iterator[tuple[Workspace, Sandbox]]:
        """A fresh sandbox around a copy of what was handed in, and of what is given."""
        with judged_workspace(self.folder) as workspace:
            for name, content in (given or {}).items():
                data = content.read_bytes() if isinstance(content, Path) else content
                workspace.write(name, data.encode() if isinstance(data, str) else data)
            yield (
                workspace,
                Sandbox(
                    workspace.folder,
                    engine=self.engine,
                    uid=workspace.uid,
                    limits=self.limits,
                    readable=self.readable,
                    masked=(self.task,),
                    environment=self.environment or {},
                ),
            )


@contextmanager
def judged_workspace(outputs: Path) -> Iterator[Workspace]:
    """A workspace with a copy of what was handed in, of which nothing is left."""
    place = Path(tempfile.mkdtemp(prefix="trimtab-judged-"))
    try:
        with closing(Workspace.create(place / "workspace", outputs)) as workspace:
            yield workspace
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
