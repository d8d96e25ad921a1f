"""Serve a teacher with vLLM, for models.teacher=vllm://HOST:PORT: start the right command, print it, and stop it."""

import os
import secrets
import shlex
import time
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator

from trimtab.common.errors import UserError
from trimtab.common.processes import until_stopped
from trimtab.common.settings import CommandSettings, SettingsError, Shown
from trimtab.engines.http import API_KEY
from trimtab.engines.vllm import (
    LOOPBACK,
    EngineMissing,
    Serve,
    VLLMServer,
    cache_bytes,
    check_port,
    command_line,
    find_vllm,
    served,
)

DEFAULT_PORT = 8000
BATCHED = 2048
"""tokens of prompts that the server reads at a time: it keeps their log-probabilities over the whole vocabulary, 1.2 GB
with 152 thousand tokens, outside of what it plans its memory with"""


class ServeTeacherSettings(CommandSettings):
    """Which model, and where it listens."""

    positional = ("model",)
    words: ClassVar[str] = "MODEL"
    model: str
    """A builtin model, a folder, or ORG/NAME (or ORG/NAME@REVISION) on the Hub; no adapter."""
    k: int = Field(64, ge=1)
    """Most likely tokens that a recipe may ask for (models.teacher_k)."""
    port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    """Port to listen on."""
    host: str = LOOPBACK
    """Address to listen on: by default of this machine alone. For others write one of its addresses, or 0.0.0.0."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights and of what is computed; auto: that of the model."""
    max_length: Annotated[int | None, Shown("TOKENS")] = Field(None, ge=2)
    """Tokens of the longest row, as training.max_length has it; by default what the model can read."""
    cache_gib: Annotated[float | None, Shown("GIB")] = Field(None, gt=0)
    """Memory for the keys and values of what is read; by default what vLLM finds on a GPU, and 1 on a CPU."""
    eager: bool = False
    """Start without compiling the model: sooner, and slower then; for tests and CPUs."""
    more: str = ""
    """Further arguments of `vllm serve`, as one text: "--tensor-parallel-size 2"."""
    log: Path | None = None
    """File for what the server prints; by default a temporary one."""
    dry_run: bool = False
    """Print the command, and exit."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (Path(self.model).expanduser() / "adapter_config.json").is_file():
            raise SettingsError(f"{self.model} is an adapter, and vLLM serves whole models; merge it, and name that")
        try:
            shlex.split(self.more)
        except ValueError as error:
            raise SettingsError(f"--more: {error}; write it as for a shell") from None
        return self


SETTINGS = ServeTeacherSettings


def main(settings: ServeTeacherSettings) -> None:
    """Serve until Ctrl-C."""
    from trimtab.runs.early import check_asked

    check_asked([("MODEL", settings.model)])
    key = os.environ.get(API_KEY, "").strip() or secrets.token_urlsafe(24)
    if settings.dry_run:
        try:
            program = find_vllm()
        except EngineMissing:  # the line is for another machine
            program = "vllm"
        typer.echo(f'VLLM_API_KEY="${API_KEY}" {command_line(serve_of(settings).command(program))}')
        return
    find_vllm()
    check_port(settings.host, settings.port)
    server = VLLMServer(serve_of(settings), key=key, log=settings.log)
    typer.echo(server.said)
    if not os.environ.get(API_KEY, "").strip():
        typer.echo(f"who asks needs this key in the environment: export {API_KEY}={key}")
    with until_stopped("the server"):
        try:
            run(server, key)
        finally:
            server.stop()


def run(server: VLLMServer, key: str) -> None:
    """Start it, say where it is, and wait as long as it runs.

    Raises:
        EngineFailed: if it ends.
    """
    server.start()
    typer.echo(f"starting, which takes a minute or more; it prints to {server.log}")
    server.wait_ready()
    said = served(server.url, key=key)
    address = server.url.replace("http", "vllm", 1)
    typer.echo(f"ready: vLLM {said.version}, rows of up to {(said.longest[0] or 0) - 1:,} tokens")
    typer.echo(f"train on it with models.teacher={address}; Ctrl-C stops it")
    while True:
        time.sleep(1.0)
        server.check_alive()


def serve_of(settings: ServeTeacherSettings) -> Serve:
    """What vLLM is asked for."""
    model, revision = folder_of(settings.model), ""
    if not Path(model).expanduser().is_dir():
        model, _, revision = model.partition("@")
    more = (
        *(("--revision", revision) if revision else ()),
        "--logprobs-mode", "raw_logprobs",  # before temperature and penalties
        "--generation-config", "vllm",  # the model's own sampling changes nothing
        "--max-num-batched-tokens", str(BATCHED),
        "--enable-scale-out",  # token ids in and out
        *shlex.split(settings.more),
    )  # fmt: skip
    return Serve(
        model,
        settings.port,
        settings.host,
        "teacher",
        settings.dtype,
        None if settings.max_length is None else settings.max_length + 1,  # and one token that it makes
        max_logprobs=max(20, settings.k),
        kv_cache_bytes=cache_bytes(settings.cache_gib),
        eager=settings.eager,
        more=more,
    )


def folder_of(model: str) -> str:
    """The folder of a builtin model, which vLLM does not know; any other name as it is."""
    from trimtab.models.builtin import BUILTIN, StoredWhole, builtin_folder

    if model not in BUILTIN:
        return model
    if isinstance(BUILTIN[model], StoredWhole):  # an encoder
        raise UserError(f"{model} predicts no next token, and cannot be a teacher of language; name another model")
    return str(builtin_folder(model))
