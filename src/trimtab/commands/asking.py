"""Settings shared by the commands that run a model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from trimtab.common.settings import CommandSettings, SettingsError, Shown

if TYPE_CHECKING:
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
