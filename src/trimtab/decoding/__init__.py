"""Decoding strategies, one file each, found by file name; those of transformers are available under their own names.

A file exports STRATEGY, which turns its settings into arguments of `model.generate`; or, if two streams of logits are
mixed, a function named like the file for `model.generate(..., custom_generate=)`, to be combined with any strategy.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trimtab.common import by_file
from trimtab.common.errors import UserError, check_settings

if TYPE_CHECKING:
    from trimtab.decoding._strategy import Strategy

MODEL = "model"
"""The strategy of the checkpoint's own generation config."""
STOCK = {
    MODEL: "Model: the generation config that the model's authors ship with it.",
    "greedy": "Greedy: always the most likely token.",
    "beam": "Beam search: the most likely of several sequences kept at each step.",
    "sample": "Sampling: from the model's full distribution.",
    "top_k": "Top-k: sampling from the k most likely tokens.",
    "top_p": "Top-p (nucleus): sampling from the most likely tokens that add up to probability p.",
    "typical": "Typical: sampling from tokens whose surprisal is close to the entropy.",
    "eta": "Eta: sampling from tokens above a threshold that falls with the entropy.",
    "min_p": "Min-p: sampling from tokens above a fraction of the most likely one's probability.",
    "top_h": "Top-H: sampling from tokens whose entropy is at most a fraction of the full distribution's.",
}
"""Strategies of transformers, with a one-line description."""


class Marks(NamedTuple):
    """Ids of tokens that are not text."""

    ends: tuple[int, ...]
    """end tokens"""
    pad: int | None


class DecodingError(UserError):
    """An unknown strategy, or an unknown or invalid setting."""


_FILES = by_file.Catalogue(Path(__file__).parent, __name__, "decoding strategy", DecodingError, lambda: STOCK)
names, known, check_name = _FILES.names, _FILES.known, _FILES.check_name


def summary(name: str) -> str:
    """A one-line description; nothing is imported."""
    return STOCK[name] if name in STOCK else _FILES.summary(name)


def load(name: str) -> Callable[..., Any]:
    """The function of the file called `name`."""
    return getattr(_FILES.module(name), name)


def strategy(name: str) -> "Strategy":
    """A strategy of a file here, or of transformers."""
    check_name(name)
    if name in STOCK:
        return _FILES.module("_stock").STOCK[name]
    module = _FILES.module(name)
    if not hasattr(module, "STRATEGY"):
        raise DecodingError(f"{name} mixes two streams of logits and is chosen by a strength (--strength), not by name")
    return module.STRATEGY


def arguments(name: str, tokenizer: Any = None, *, model: Any = None, **settings: Any) -> dict[str, Any]:
    """Arguments of `model.generate` for a strategy with these settings; made new for each call.

    They set every field of the generation config that affects which token is chosen, so that the model's own config has
    no effect. To change one of them, write `{**arguments(...), "min_new_tokens": 5}`. Those of "model"
    are empty: everything is left to the model's own config.

    Args:
        tokenizer: its end tokens (see `trimtab.models.ends`) and padding token may be needed.
        model: its config may name further end tokens.
    """
    from trimtab.decoding._config import switched_off
    from trimtab.models.ends import end_tokens

    found, checked = strategy(name), check(name, settings)
    marks = None if tokenizer is None else Marks(end_tokens(tokenizer, model), tokenizer.pad_token_id)
    given = found.arguments(checked, marks)
    if name == MODEL:
        return given
    silent = {} if given.get("do_sample") else {"top_k": 50}  # transformers' default, which does nothing here
    return {**switched_off(), **silent, **given}


def sets(name: str, arguments: Mapping[str, Any]) -> set[str]:
    """The `arguments` that a strategy sets, as opposed to switching off."""
    shared = {"do_sample", "num_beams"}
    if name == MODEL:
        return set()
    return shared | ({"temperature", "top_k", "top_p"} if arguments.get("do_sample") else set())


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The settings of a strategy with its defaults, checked to be known, valid and with an effect."""
    found = strategy(name)
    checked = check_settings(found.options, settings, f"decoding {name}", "decoding.", DecodingError)
    idle = found.idle(checked)
    for key in sorted(checked.model_fields_set & idle.keys()):
        if getattr(checked, key) != found.options.model_fields[key].default:
            raise DecodingError(f"decoding.{key} has no effect: {idle[key]}")
    return checked
