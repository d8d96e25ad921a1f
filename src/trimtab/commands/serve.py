"""Serve a model with a dial: OpenAI's API with a strength for each request, and a page to try it."""

import re
import secrets
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator

from trimtab.common.processes import until_stopped
from trimtab.common.settings import CommandSettings, SettingsError, Shown, flag
from trimtab.engines.http import API_KEY, api_key
from trimtab.engines.vllm import LOOPBACK

if TYPE_CHECKING:
    from trimtab.models.dial import DialConfig
    from trimtab.serving.start import Choice

LOCAL = (LOOPBACK, "localhost", "::1")
OF_VLLM = ("dtype", "max_length", "cache_gib", "eager", "more")
"""settings that the other engine has not"""


class ServeSettings(CommandSettings):
    """Which model, and where it listens."""

    positional = ("model",)
    words: ClassVar[str] = "MODEL"
    model: Path
    """Folder of a finished run with a dial (runs/NAME), or one that `trimtab export` wrote."""
    host: str = LOOPBACK
    """Address to listen on: by default of this machine alone. For others write one of its addresses, or 0.0.0.0."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 for any free one."""
    token: str | None = None
    """What clients must send; by default that of TRIMTAB_API_KEY, or a new one. Other users of this machine can read a
    command line: prefer the variable."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """Engine to start; auto: vLLM if it is installed with trimtab-vllm, else transformers."""
    name: str | None = None
    """Name of the model in requests; by default that of the folder."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights under vLLM; auto: that of the model."""
    max_length: Annotated[int | None, Shown("TOKENS")] = Field(None, ge=2)
    """Most tokens of a prompt and its answer under vLLM; by default what the model can read."""
    cache_gib: Annotated[float | None, Shown("GIB")] = Field(None, gt=0)
    """Memory for keys and values under vLLM; by default what it finds on a GPU, and 1 on a CPU."""
    eager: bool = False
    """Start vLLM without compiling the model: sooner, and slower then."""
    more: str = ""
    """Further arguments of `vllm serve`, as one text."""
    log: Path | None = None
    """File for what the engine prints; by default a temporary one."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.token is not None:
            check_token(self.token, "--token")
        if self.name is not None and not self.name.strip():
            raise SettingsError("--name is empty")
        try:
            shlex.split(self.more)
        except ValueError as error:
            raise SettingsError(f"--more: {error}; write it as for a shell") from None
        return self

    def check_engine(self, choice: "Choice") -> None:
        """Raise SettingsError for settings of vLLM where it is not the engine."""
        fields = type(self).model_fields
        given = [flag(name) for name in OF_VLLM if getattr(self, name) != fields[name].default]
        if choice.engine != "vllm" and given:
            why = f": {choice.why}" if choice.why else ""
            raise SettingsError(
                f"{' and '.join(given)}: only under vLLM, and the engine is {choice.engine}{why}; leave it out"
            )


def check_token(token: str, where: str) -> None:
    """Raise SettingsError for a token that is short, or that clients could not send."""
    if not re.fullmatch(r"[!-~]{8,}", token):
        raise SettingsError(f"{where} must have at least 8 characters, letters, digits and signs without spaces")


SETTINGS = ServeSettings


def main(settings: ServeSettings) -> None:
    """Serve until Ctrl-C."""
    from trimtab.common.terminal import quiet
    from trimtab.serving.start import check_installed, choose

    check_installed()
    if not settings.token and api_key():
        check_token(api_key(), API_KEY)
    with until_stopped("the server"), tempfile.TemporaryDirectory(prefix="trimtab-serve-") as temporary:
        quiet()
        choice = choose(settings.engine)
        settings.check_engine(choice)
        folder, dial = folder_of(settings.model, Path(temporary), template="--chat-template" in settings.more)
        _run(settings, folder, dial, choice)


def folder_of(model: Path, temporary: Path, *, template: bool = False) -> tuple[Path, "DialConfig"]:
    """A folder with a dial: the one that is named, or what a run's export writes into a temporary folder.

    Args:
        template: the engine is given a chat template, so that the folder needs none.

    Raises:
        UserError: if it has no dial or no chat template, or if files are missing or broken.
    """
    from trimtab.models.dial import KEY, read_dial
    from trimtab.runs.exporting import config_with_dial, export_dial, source_of
    from trimtab.serving.dialects import settings_of
    from trimtab.serving.start import check_chats

    source = source_of(model)
    config = config_with_dial(source)
    dial = read_dial(source.model) if KEY in config else None
    settings_of(source.model)
    if not template:
        check_chats(source.model)
    if dial is not None:
        return source.model, dial
    return temporary / "dial", export_dial(source, temporary / "dial", link=True)


def _run(settings: ServeSettings, folder: Path, dial: "DialConfig", choice: "Choice") -> None:
    """Start the engine, say where the page is, and serve until one of both ends."""
    from trimtab.serving.changes import Followed, by_engine
    from trimtab.serving.dialects import Dialect, settings_of
    from trimtab.serving.front import Front
    from trimtab.serving.run import bound, serve
    from trimtab.serving.start import server_of, vllm_settings

    given = settings.token or api_key()
    token, key = given or secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    name = settings.name or settings.model.expanduser().resolve().name
    dialect = Dialect(choice.engine, settings_of(folder))
    changes = Followed.of(folder, dialect) if choice.engine == "vllm" else by_engine
    listening = bound(settings.host, settings.port)
    asked = vllm_settings(settings.dtype, settings.max_length, settings.cache_gib, settings.eager, settings.more)
    engine = server_of(choice, folder, name, key, asked, settings.log)
    why = f" ({choice.why})" if choice.why else ""
    typer.echo(f"engine: {choice.engine}{why}; it starts, which takes from seconds to minutes")
    with listening, engine:
        front = Front(name, dial, dialect, engine.url, key, token, changes)
        address = _address(settings.host, listening.getsockname()[1])

        def ready() -> None:
            typer.echo(f"page: {address}/#token={token if not given else 'TOKEN'}")
            typer.echo(f'openai client: base_url="{address}/v1", model="{name}", extra_body={{"strength": 0.5}}')
            if settings.host not in LOCAL:
                typer.echo(
                    "anyone who can reach this address and has the token can use it; what is sent is not encrypted"
                )
            typer.echo("Ctrl-C stops it")

        serve(front.app(), listening, engine, ready)


def _address(host: str, port: int) -> str:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
