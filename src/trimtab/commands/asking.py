"""Settings shared by the commands that run a model."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trimtab.common import on_ray
from trimtab.common.settings import Bare, CommandSettings, SettingsError, Shown, flag

if TYPE_CHECKING:
    from trimtab.evals.spending import RequestBudget
    from trimtab.models.inference import LoadOptions


class LoadedSettings(CommandSettings):
    """How models are loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; auto: that of the checkpoint."""
    device_map: Literal["auto"] | None = None
    """auto: spread the model over all GPUs, and the CPU if they are too small; by default one device."""

    @property
    def how(self) -> "LoadOptions":
        from trimtab.models.inference import LoadOptions

        return LoadOptions(self.dtype, self.device_map)


class AskedSettings(LoadedSettings):
    """A model, optionally with an adapter."""

    model: Annotated[str, Shown("MODEL")]
    """A builtin model (`trimtab list models`), a folder or a Hub id."""
    adapter: Annotated[str | None, Shown("FOLDER")] = None
    """A PEFT adapter (a folder or a Hub id) to apply to MODEL, whatever base model it names."""

    @property
    def asked(self) -> str:
        """The name by which the model is loaded, with its adapter."""
        from trimtab.models.inference import with_adapter

        return with_adapter(self.model, self.adapter)


class StrategySettings(AskedSettings):
    """A model, and the settings of the decoding strategy that the field `decoding` of a command names."""

    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @classmethod
    def rivals(cls, key: str, given: Mapping[str, Any], plain: Sequence[str]) -> Sequence[str]:
        return keys_of_strategy(key, given.get("decoding"))


class RaySettings(CommandSettings):
    """Workers that share the work."""

    ray: Annotated[str | None, Shown("[ADDRESS]"), Bare(on_ray.LOCAL, on_ray.ADDRESS)] = None
    """Share the work among workers of Ray, of the cluster at HOST:PORT; without ADDRESS on this machine alone."""
    ray_workers: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Workers; by default one for each GPU, or for each CPU if there is no GPU."""

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.ray is not None:
            on_ray.check_asked(self.ray)
        elif self.ray_workers is not None:
            raise SettingsError("--ray-workers: only workers of Ray have a number; add --ray, or leave it out")
        return self

    def cluster(self) -> AbstractContextManager[on_ray.Cluster | None]:
        """See `trimtab.common.on_ray.cluster`."""
        return on_ray.cluster(self.ray, self.ray_workers)


class ServerSettings(CommandSettings):
    """A server that is asked for many answers, and what they may cost. A budget is of all that was spent in the folder,
    also by earlier runs."""

    endpoint: Annotated[str | None, Shown("URL")] = None
    """URL of an OpenAI-compatible server, up to and with /v1."""
    key_env: Annotated[str, Shown("NAME")] = "TRIMTAB_API_KEY"
    """Environment variable with the server's key."""
    served_as: Annotated[str | None, Shown("NAME")] = None
    """Name under which the server answers, if that is not MODEL or a dated version of it."""
    tries: Annotated[int, Shown("N"), Field(ge=1)] = 5
    """Tries of a request that a server fails to answer, with growing pauses or those that it asks for."""
    timeout: Annotated[float, Shown("SECONDS"), Field(gt=0, allow_inf_nan=False)] = 120.0
    """Time limit of a try."""
    budget_requests: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Most requests to send to the server, also failed ones."""
    budget_tokens: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Most tokens of prompts and completions, as the server counts them."""
    budget_cost: Annotated[float | None, Shown("X"), Field(gt=0, allow_inf_nan=False)] = None
    """Most money to spend, in the currency of the prices."""
    price_prompt: Annotated[float | None, Shown("X"), Field(ge=0, allow_inf_nan=False)] = None
    """Price of a million prompt tokens."""
    price_completion: Annotated[float | None, Shown("X"), Field(ge=0, allow_inf_nan=False)] = None
    """Price of a million completion tokens."""

    def check_endpoint(self) -> None:
        """Check that these settings have an endpoint, a key where one is named, and prices where money is meant.

        Raises:
            SettingsError: naming the setting.
        """
        fields = ServerSettings.model_fields
        given = [name for name, field in fields.items() if getattr(self, name) != field.default]
        if given and not self.endpoint:
            raise SettingsError(f"{flag(given[0])} is about a server; name it: --endpoint URL")
        if "key_env" in given and not os.environ.get(self.key_env, "").strip():
            raise SettingsError(f"--key-env {self.key_env}: there is no such environment variable, or it is empty")
        prices = [name for name in ("price_prompt", "price_completion") if getattr(self, name) is not None]
        if len(prices) == 1 or (self.budget_cost is not None and not prices):
            raise SettingsError("a cost needs both --price-prompt and --price-completion, of a million tokens each")

    def budget(self, rows: Iterable[Mapping[str, Any]]) -> "RequestBudget":
        """What may still be spent after stored rows."""
        from trimtab.evals.spending import Prices, RequestBudget, Usage

        prices = None
        if self.price_prompt is not None and self.price_completion is not None:
            prices = Prices(self.price_prompt, self.price_completion)
        limits = (self.budget_requests, self.budget_tokens, self.budget_cost)
        return RequestBudget(*limits, prices=prices, spent=Usage.of(rows))


def check_server(settings: LoadedSettings) -> None:
    """Refuse options that say how to load a model when a server runs it.

    Raises:
        SettingsError: naming the options.
    """
    found = ["--adapter"] if getattr(settings, "adapter", None) else []
    found += ["--dtype"] if settings.dtype != "auto" else []
    found += ["--device-map"] if settings.device_map else []
    if found:
        raise SettingsError(
            f"{' and '.join(found)}: only for a model that is loaded here, but --endpoint names a server"
        )


def check_decoding(settings: CommandSettings) -> None:
    """Check `--decoding` against its settings, and against a server, which does its own decoding.

    Raises:
        SettingsError: naming them.
    """
    name, given = getattr(settings, "decoding", None), getattr(settings, "options", {}).get("decoding", {})
    if given and not name:
        raise SettingsError(f"decoding.{next(iter(given))} is a setting of a strategy; name it: --decoding NAME")
    if name and getattr(settings, "endpoint", None):
        raise SettingsError("--decoding needs a model in memory; a server does its own decoding")


def keys_of_strategy(key: str, name: str | None) -> list[str]:
    """decoding.KEY, if the strategy has such a setting."""
    from trimtab import decoding

    if name is None or name not in decoding.known():
        return []
    return [f"decoding.{key}"] if key in decoding.strategy(name).options.model_fields else []


def keys_of_suites(key: str, names: Sequence[str]) -> list[str]:
    """SUITE.KEY of the suites that have such a setting."""
    from trimtab.evals import suites

    chosen = [name for name in names if name in suites.names()]
    return [f"{name}.{key}" for name in chosen if key in suites.load(name).options.model_fields]


PARTS = ("model", "adapter", "final", "checkpoint", "checkpoints", "output", "outputs")
"""folder names that say nothing about the model; checkpoint-100 says half"""


def folder_name(model: str) -> str:
    """A name for the evaluations of a model: a folder's name behind that of its run, RUN for RUN/model and
    RUN-checkpoint-10 for RUN/checkpoints/checkpoint-10; of a hub's model the last part of its id."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rstrip("/").split("/")[-1] or "model"
    kept: list[str] = []
    for name in path.resolve().parts[:0:-1]:
        if name in PARTS:
            continue
        kept.insert(0, name)
        if not name.startswith("checkpoint-"):
            break
    adapter = ["adapter"] if path.resolve().name == "adapter" else []
    return "-".join([*kept, *adapter]) or "model"
