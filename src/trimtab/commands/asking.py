"""What the commands that ask models have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from trimtab.common.settings import CommandSettings, SettingsError, Shown

if TYPE_CHECKING:
    from trimtab.models.asked import How


class LoadedSettings(CommandSettings):
    """How models are loaded."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto: the one that the checkpoint was saved in."""
    device_map: Literal["auto"] | None = None
    """auto: spread over all GPUs, and where they are too small the CPU; else all on one device."""

    @property
    def how(self) -> "How":
        from trimtab.models.asked import How

        return How(self.dtype, self.device_map)


class AskedSettings(LoadedSettings):
    """A model, and an adapter on it."""

    model: Annotated[str, Shown("MODEL")]
    """A builtin model, a folder or a hub id."""
    adapter: Annotated[str | None, Shown("FOLDER")] = None
    """Of PEFT (or a hub id), put on MODEL, whichever it names."""

    @property
    def asked(self) -> str:
        """The name by which the model is loaded, with its adapter."""
        from trimtab.models.asked import with_adapter

        return with_adapter(self.model, self.adapter)


def check_server(settings: LoadedSettings) -> None:
    """Refuse what says how to load a model, where a server has loaded its own.

    Raises:
        SettingsError: naming the options.
    """
    found = ["--adapter"] if getattr(settings, "adapter", None) else []
    found += ["--dtype"] if settings.dtype != "auto" else []
    found += ["--device-map"] if settings.device_map else []
    if found:
        raise SettingsError(
            f"{' and '.join(found)}: only of a model that is loaded here, and --endpoint names a server"
        )


def check_decoding(settings: CommandSettings) -> None:
    """Hold `--decoding` and its settings against each other, and against a server, which decodes by itself.

    Raises:
        SettingsError: naming them.
    """
    name, given = getattr(settings, "decoding", None), getattr(settings, "options", {}).get("decoding", {})
    if given and not name:
        raise SettingsError(f"decoding.{next(iter(given))} is a setting of a strategy; name it: --decoding NAME")
    if name and getattr(settings, "endpoint", None):
        raise SettingsError("--decoding needs a model in memory; a server decodes by itself")


def keys_of_strategy(key: str, name: str | None) -> list[str]:
    """decoding.KEY, where the strategy has such a setting."""
    from trimtab import decoding

    if name is None or name not in decoding.known():
        return []
    return [f"decoding.{key}"] if key in decoding.strategy(name).options.model_fields else []


def keys_of_suites(key: str, names: Sequence[str]) -> list[str]:
    """SUITE.KEY of the suites that have such a setting."""
    from trimtab.evals import suites

    chosen = [name for name in names if name in suites.names()]
    return [f"{name}.{key}" for name in chosen if key in suites.load(name).options.model_fields]
