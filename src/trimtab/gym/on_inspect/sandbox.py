"""The gym's isolation as a sandbox of inspect_ai: `--sandbox trimtab`, or `Task(sandbox="trimtab")`."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, overload

import anyio.to_thread
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, Field

from trimtab.gym.running import Ran
from trimtab.gym.sandbox import SCRATCH, Engine, Sandbox, SandboxError, SandboxLimits, find_engine
from trimtab.gym.workspace import Quota, Workspace, WorkspaceError

FOREVER = 24 * 3600.0
"""seconds of a command without a limit of its own"""


class SandboxConfig(BaseModel, frozen=True):
    """Settings of the sandbox: `SandboxEnvironmentSpec("trimtab", SandboxConfig(...))`."""

    limits: SandboxLimits = Field(default_factory=lambda: SandboxLimits())
    quota: Quota = Field(default_factory=lambda: Quota())
    readable: tuple[str, ...] = ()
    """Files and folders that commands may read besides the system and this Python."""
    unsafe: bool = False
    """Run without isolation where there is none on this machine."""


@sandboxenv(name="trimtab")
class TrimtabSandbox(SandboxEnvironment):
    """A workspace of its own for each sample; each command runs in a fresh sandbox around it.

    Processes do not outlive their command; files below /workspace and /tmp stay.
    """

    def __init__(self, config: SandboxConfig):
        super().__init__()
        engine: Engine = "none" if config.unsafe else find_engine()
        self._place = tempfile.TemporaryDirectory(prefix="trimtab-sample-")
        self.workspace = Workspace.create(Path(self._place.name) / "workspace", quota=config.quota)
        self.scratch = Workspace.create(
            Path(self._place.name) / "scratch", quota=config.quota, uid=self.workspace.uid, seen_as=SCRATCH
        )
        self.sandbox = Sandbox(
            self.workspace.folder,
            engine=engine,
            uid=self.workspace.uid,
            scratch=self.scratch.folder,
            limits=config.limits,
            readable=tuple(map(Path, config.readable)),
        )

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        made = await anyio.to_thread.run_sync(cls, _config(config))
        return {"default": made}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        for one in environments.values():
            one.as_type(TrimtabSandbox).remove()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        return SandboxConfig.model_validate(config)

    def _of(self, file: str) -> Workspace:
        """Where a file lies."""
        return self.scratch if PurePosixPath(file).is_relative_to(SCRATCH) else self.workspace

    def remove(self) -> None:
        """Delete all its files."""
        self.workspace.remove()
        self.scratch.remove()
        self._place.cleanup()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        if user not in (None, "agent"):
            raise SandboxUserUnsupportedError(f"the sandbox runs commands as one user, not as {user!r}")
        given = input.encode() if isinstance(input, str) else input or b""
        most = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
        folder = os.path.join(self.sandbox.inside, cwd or "")  # noqa: PTH118
        run = partial(self.sandbox.run, cmd, timeout or FOREVER, given, most, folder=folder, environment=env)
        ran: Ran = await anyio.to_thread.run_sync(run)
        if ran.timed_out:
            raise TimeoutError(f"the command took longer than {timeout} seconds")
        output, error = (text.decode(errors="replace") for text in (ran.output, ran.error))
        if ran.cut:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, output or error)
        if ran.code == 126 and error.startswith(f"{cmd[0]}: Permission denied"):
            raise PermissionError(error.strip())
        for place in (self.workspace, self.scratch):
            if (fault := place.usage().beyond(place.quota)) is not None:
                return ExecResult(False, ran.code or 1, output, f"{error}\n{fault}")
        return ExecResult(ran.code == 0, ran.code, output, error)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        data = contents.encode() if isinstance(contents, str) else contents
        with _as_os_errors(file):
            self._of(file).write(file, data)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        most = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        with _as_os_errors(file):
            data = self._of(file).read(file, most + 1)
        if len(data) > most:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data


def _config(given: SandboxEnvironmentConfigType | None) -> SandboxConfig:
    if given is None:
        return SandboxConfig()
    if isinstance(given, SandboxConfig):
        return given
    raise SandboxError(f"the sandbox trimtab takes no file of settings, got {given!r}; use SandboxConfig")


@contextmanager
def _as_os_errors(file: str) -> Iterator[None]:
    """inspect tells the kinds of errors apart by their classes."""
    try:
        yield
    except WorkspaceError as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise type(cause)(cause.errno, cause.strerror, file) from error
        raise PermissionError(str(error)) from error
