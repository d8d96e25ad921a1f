"""vLLM as a server: its command, its start in an environment of its own, what it says of itself, and its end."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psutil

from trimtab.common.errors import FailedOutside, UserError
from trimtab.engines.http import RequestFailed, request_json

COMMAND = "TRIMTAB_VLLM"
"""environment variable with the path of the program `vllm`"""
MADE = Path(".engines/vllm/bin/vllm")
"""where `make engines` puts it"""
LOOPBACK = "127.0.0.1"
START_SECONDS = 600.0
"""in which a server must be ready: a large model is read from disk and compiled first"""
STOP_SECONDS = 20.0
"""that a server has to end by itself before it is ended"""
ERROR = re.compile(r"\b(\w*(?:Error|Exception): .*)")
NO_CAUSE = "Engine core initialization failed| WARNING "
"""what vLLM says after the error that matters, and warnings that only name one"""
SHOWN_OF_ERROR = 400
"""characters"""
LAST_LINES = 20
"""of a server that died, in the error"""
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_API_KEY")
"""variables of this process's environment that the engine's has no use for"""
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_",
             "TORCHELASTIC_", "GROUP_", "ROLE_", "FSDP_")  # fmt: skip
"""beginnings of those that a launcher sets, by which vLLM would take itself for one of its processes"""


class EngineMissing(UserError):
    """No engine is installed, or it is not where it was said to be."""


class EngineFailed(FailedOutside):
    """A server that did not start, or ended."""


ON_A_CPU = 1.0
"""GiB of the KV cache where nobody says how much"""


def cache_bytes(gib: float | None) -> int | None:
    """As asked; else on a CPU one GiB, where vLLM would claim nine tenths of the memory, and on a GPU what is left."""
    import torch

    if gib is None and torch.cuda.is_available():
        return None
    return int((ON_A_CPU if gib is None else gib) * 2**30)


def find_vllm() -> str:
    """The program `vllm`: that of TRIMTAB_VLLM, on the PATH, or of `make engines`.

    Raises:
        EngineMissing: if there is none.
    """
    named = os.environ.get(COMMAND, "").strip()
    if named:
        found = shutil.which(named)
        if found is None:
            raise EngineMissing(f"{COMMAND} is {named}, which is no program; set it to the path of vllm, or unset it")
        return found
    found = shutil.which("vllm") or (str(MADE.resolve()) if os.access(MADE, os.X_OK) else None)
    if found is None:
        raise EngineMissing(
            f"vLLM is not installed: there is no vllm on the PATH and no {MADE}; make one with `make engines`, or set "
            f"{COMMAND} to the vllm of another environment"
        )
    return found


class ServeCommand(Protocol):
    """A server's command, and where it listens."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def url(self) -> str: ...
    def command(self, program: str) -> list[str]: ...


@dataclass(frozen=True)
class Serve:
    """What `vllm serve` is asked for; what is None is left to vLLM."""

    model: str
    """a folder or a Hub id"""
    port: int
    host: str = LOOPBACK
    name: str | None = None
    """under which it is asked; the model's own by default"""
    dtype: str | None = None
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    max_logprobs: int | None = None
    kv_cache_bytes: int | None = None
    seed: int | None = None
    eager: bool = False
    """without compilation"""
    more: tuple[str, ...] = ()
    """further arguments, as vLLM takes them"""

    def command(self, program: str) -> list[str]:
        given = {
            "--served-model-name": self.name,
            "--dtype": self.dtype,
            "--max-model-len": self.max_model_len,
            "--max-num-seqs": self.max_num_seqs,
            "--max-logprobs": self.max_logprobs,
            "--kv-cache-memory-bytes": self.kv_cache_bytes,
            "--seed": self.seed,
        }
        flags = [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
        eager = ["--enforce-eager"] if self.eager else []
        return [program, "serve", self.model, "--host", self.host, "--port", str(self.port), *flags, *eager, *self.more]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of an engine: this one without what is meant for our own Python or set by a launcher."""
    kept = {
        name: value for name, value in os.environ.items() if name not in OURS and not name.startswith(tuple(LAUNCHERS))
    }
    return {**kept, "VLLM_NO_USAGE_STATS": "1", **(more or {})}


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind((host, 0))
        return one.getsockname()[1]


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken, whose server would be mistaken for ours.

    Raises:
        UserError: if it is.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise UserError(f"port {port} of {host} cannot be had ({why}); choose another port") from None


class VLLMServer:
    """A server that was started here, and ends with the block that it is used in.

    Args:
        serve: what it serves.
        key: that it asks for; it is given by the environment, where the list of processes does not show it.
        environment: further variables.
        log: file for what it prints; by default a temporary one, which is removed at the end.
        program: `find_vllm` by default.
    """

    def __init__(
        self,
        serve: ServeCommand,
        *,
        key: str = "",
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        program: str | None = None,
    ):
        self.serve, self.key, self.url = serve, key, serve.url
        self.command = serve.command(program or find_vllm())
        self.environment = clean_environment({**({"VLLM_API_KEY": key} if key else {}), **(environment or {})})
        self._kept = log is not None
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def said(self) -> str:
        """The command, as for a shell."""
        return shlex.join(self.command)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, in a process group of its own: a Ctrl-C here is not sent to it.

        Raises:
            UserError: if the port is taken, or the program cannot be run.
        """
        check_port(self.serve.host, self.serve.port)
        if self.log is None:
            handle, name = tempfile.mkstemp(prefix="trimtab-vllm-", suffix=".log")
            os.close(handle)
            self.log = Path(name)
        try:
            out = self.log.open("wb")
        except OSError as error:
            raise UserError(
                f"the log {self.log} cannot be written: {error.strerror or error}; choose another file"
            ) from None
        try:
            with out:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,
                )
        except OSError as error:
            self.stop()
            raise EngineMissing(f"{self.command[0]} cannot be run: {error.strerror or error}") from None

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        """Wait until it answers.

        Raises:
            EngineFailed: with the error that it printed, if it dies or is not ready in time.
        """
        until = time.monotonic() + seconds
        while True:
            self.check_alive()
            with suppress(RequestFailed):
                request_json(f"{self.url}/health", timeout=5.0)
                self.check_alive()  # and it was not another one that answered
                return
            if time.monotonic() > until:
                raise EngineFailed(f"{self.said} was not ready in {seconds:,.0f} seconds{self._last()}")
            time.sleep(0.2)

    def check_alive(self) -> None:
        """Raise EngineFailed, with the error that it printed, if it has ended."""
        assert self.process is not None
        code = self.process.poll()
        if code is not None:
            raise EngineFailed(f"{self.said} ended with exit code {code}{self._last()}")

    def last_lines(self, number: int = LAST_LINES) -> list[str]:
        """What it printed last."""
        if self.log is None or not self.log.exists():
            return []
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip()][-number:]

    def _last(self) -> str:
        """Why it ended, by the first error that it printed, and where the rest stands; else its last line."""
        lines = self.last_lines(10**6)
        if not lines:
            return ""
        errors = [found[1] for line in lines if (found := ERROR.search(line)) and not re.search(NO_CAUSE, line)]
        said = (errors or lines[-1:])[0].strip()[:SHOWN_OF_ERROR]
        said = said.replace(self.key, "***") if self.key else said
        return f": {said}{f' (see {self.log})' if self._kept else ''}"

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End it and its children, which it is asked to do itself first; without effect on one that is not running."""
        if self.process is not None:
            end_tree(self.process, seconds)
        if self.log is not None and not self._kept:
            self.log.unlink(missing_ok=True)
            self.log = None


def end_tree(process: subprocess.Popen[bytes], seconds: float = STOP_SECONDS) -> None:
    """End a process that leads a session, and all that is left of the session."""
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    _, left = psutil.wait_procs(children, timeout=2.0)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=2.0)
    with suppress(ProcessLookupError, PermissionError):  # those that were started meanwhile
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Served:
    """What a server says of itself."""

    models: tuple[str, ...]
    """names under which it is asked"""
    roots: tuple[str, ...]
    """folder or Hub id of each"""
    longest: tuple[int | None, ...]
    """most tokens of a sequence, of each"""
    version: str
    """of vLLM; nothing from a server that does not say"""


def served(url: str, *, key: str = "", timeout: float = 10.0) -> Served:
    """What /v1/models and /version say.

    Args:
        url: without /v1.

    Raises:
        RequestFailed: if it does not answer, or not in OpenAI's form.
    """
    listed = request_json(f"{url}/v1/models", key=key, timeout=timeout)
    models = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not all(isinstance(one, dict) and "id" in one for one in models):
        raise RequestFailed("an answer to /v1/models that lists no models")
    version = ""
    with suppress(RequestFailed):
        said = request_json(f"{url}/version", key=key, timeout=timeout)
        version = str(said.get("version", "")) if isinstance(said, dict) else ""
    lengths = [one.get("max_model_len") for one in models]
    return Served(
        tuple(str(one["id"]) for one in models),
        tuple(str(one.get("root") or one["id"]) for one in models),
        tuple(length if isinstance(length, int) else None for length in lengths),
        version,
    )


def command_line(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """A command as for a shell, behind its variables."""
    return " ".join(
        [*(f"{name}={shlex.quote(value)}" for name, value in (environment or {}).items()), shlex.join(words)]
    )
