"""Which engine serves a folder with a dial, and its start."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trimtab.common.errors import UserError
from trimtab.engines.vllm import LOOPBACK, EngineMissing, Serve, VLLMServer, cache_bytes, find_vllm, free_port
from trimtab.serving.dialects import EngineName

KEY = "TRIMTAB_ENGINE_KEY"
"""environment variable with the key of our own process of transformers"""
NEEDED = ("fastapi", "httpx", "openai", "starlette", "uvicorn")
FIRST_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
"""the one whose processors the plugin knows"""


class ServingError(UserError):
    """A model that cannot be served here."""


def check_installed() -> None:
    """Raise ServingError if a library is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ServingError(f"serving needs {', '.join(missing)}; install them with: pip install 'trimtab[serve]'")


def check_chats(folder: Path) -> None:
    """Raise ServingError for a model without a chat template: every request is a chat."""
    from trimtab.models.loading import load_tokenizer

    try:
        load_tokenizer(str(folder)).get_chat_template()
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise ServingError(
            f"{folder} has no chat template, and all that is served are chats; put the chat_template.jinja of its "
            "model there, or answer plain prompts with trimtab generate --strength"
        ) from None


@dataclass(frozen=True)
class Choice:
    """An engine, and why not the other one."""

    engine: EngineName
    program: str
    why: str


def choose(asked: str) -> Choice:
    """The engine that was asked for; with "auto" vLLM where it and the plugin are installed, else transformers.

    Raises:
        ServingError: if vLLM is asked for without its plugin.
        EngineMissing: without vLLM.
    """
    if asked == "transformers":
        return Choice("transformers", sys.executable, "")
    try:
        program = find_vllm()
    except EngineMissing:
        if asked == "vllm":
            raise
        return Choice("transformers", sys.executable, "vLLM is not installed")
    if has_plugin(program):
        return Choice("vllm", program, "")
    why = f"{program} has no trimtab-vllm with a dial"
    if asked == "vllm":
        python = Path(program).with_name("python")
        raise ServingError(f"{why}; install it with: {python} -m pip install --no-deps trimtab-vllm")
    return Choice("transformers", sys.executable, why)


def has_plugin(program: str) -> bool:
    """Whether the environment of `vllm` has the dial; vLLM is not imported."""
    python = Path(program).with_name("python")
    code = "from importlib.util import find_spec; raise SystemExit(find_spec('trimtab_vllm.two_streams') is None)"
    try:
        return subprocess.run([python, "-I", "-c", code], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class TransformersServe:
    """What our own process of transformers is asked for."""

    model: str
    name: str
    port: int
    host: str = LOOPBACK

    def command(self, program: str) -> list[str]:
        return [
            program,
            "-P",
            "-m",
            "trimtab.serving.transformers_app",
            self.model,
            self.name,
            self.host,
            str(self.port),
        ]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


def server_of(choice: Choice, folder: Path, name: str, key: str, serve: "VLLMSettings", log: Path | None) -> VLLMServer:
    """The engine, not yet started, on a free port of this machine alone."""
    port = free_port()
    if choice.engine == "vllm":
        asked = Serve(
            str(folder), port, name=name, dtype=serve.dtype, max_model_len=serve.max_length,
            kv_cache_bytes=serve.cache_bytes, eager=serve.eager,
            more=("--logprobs-mode", "raw_logprobs", *serve.more),
        )  # fmt: skip
        return VLLMServer(asked, key=key, environment=FIRST_RUNNER, log=log, program=choice.program)
    environment = {KEY: key, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    asked = TransformersServe(str(folder), name, port)
    return VLLMServer(asked, key=key, environment=environment, log=log, program=choice.program)


@dataclass(frozen=True)
class VLLMSettings:
    """What the user may say of vLLM."""

    dtype: str = "auto"
    max_length: int | None = None
    cache_bytes: int | None = None
    eager: bool = False
    more: tuple[str, ...] = ()


def vllm_settings(dtype: str, max_length: int | None, gib: float | None, eager: bool, more: str) -> VLLMSettings:
    """As a command line says it."""
    return VLLMSettings(dtype, max_length, cache_bytes(gib), eager, tuple(shlex.split(more)))
