"""One decoding strategy a file, found by its name; those of transformers stand beside them under their own names.

A file exports STRATEGY, which says what `model.generate` is given for its settings; or, where two streams of logits are
mixed, a function of the file's name for `model.generate(..., custom_generate=)`, which any strategy may draw from.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trimtab.common import by_file
from trimtab.common.errors import UserError, check_settings

if TYPE_CHECKING:
    from trimtab.decoding._strategy import Strategy

MODEL = "model"
"""The strategy that is the checkpoint's own."""
STOCK = {
    MODEL: "Model: as the model's authors set it, in the generation config that came with it.",
    "greedy": "Greedy: always the best token.",
    "beam": "Beam search: the likeliest of several sequences that are kept at each step.",
    "sample": "Sampling: from the model's whole distribution.",
    "top_k": "Top-k: sampling among the k best tokens.",
    "top_p": "Top-p (nucleus): sampling among the best tokens of a share.",
    "typical": "Typical: sampling among tokens whose surprise is near the entropy.",
    "eta": "Eta: sampling among tokens above a bound that falls with the entropy.",
    "min_p": "Min-p: sampling among tokens above a share of the best one's probability.",
    "top_h": "Top-H: sampling among tokens whose entropy is bounded by a share of the whole one's.",
}
"""Strategies of transformers, and what they are."""


class Marks(NamedTuple):
    """Ids of tokens that are not text."""

    ends: tuple[int, ...]
    """after any of which a text is over"""
    pad: int | None


class DecodingError(UserError):
    """A strategy that is not there, or a setting that it does not have."""


_FILES = by_file.Catalogue(Path(__file__).parent, __name__, "decoding strategy", DecodingError, lambda: STOCK)
names, known, check_name = _FILES.names, _FILES.known, _FILES.check_name


def summary(name: str) -> str:
    """What it is, in a line; nothing is imported."""
    return STOCK[name] if name in STOCK else _FILES.summary(name)


def load(name: str) -> Callable[..., Any]:
    """The function of the file called `name`."""
    return getattr(_FILES.module(name), name)


def strategy(name: str) -> "Strategy":
    """A strategy of a file here, or of transformers.

    Raises:
        DecodingError: with the nearest name.
    """
    check_name(name)
    if name in STOCK:
        return _FILES.module("_stock").STOCK[name]
    module = _FILES.module(name)
    if not hasattr(module, "STRATEGY"):
        raise DecodingError(f"{name} mixes two streams of logits and is chosen by a strength (--strength), not by name")
    return module.STRATEGY


def arguments(name: str, tokenizer: Any = None, *, model: Any = None, **settings: Any) -> dict[str, Any]:
    """Arguments of `model.generate` for a strategy with these settings; anew for each call.

    They name every field of the generation config that chooses tokens, so that nothing which a model's own config
    switches on acts besides. To change one of them, write `{**arguments(...), "min_new_tokens": 5}`. Those of "model"
    are empty: everything is left to the model's own config.

    Args:
        name: of `known()`.
        tokenizer: whose end tokens (see `trimtab.models.ends`) and padding a strategy may need.
        model: whose config may name further end tokens.
        settings: of the strategy.

    Raises:
        DecodingError: for an unknown strategy or setting, a value that makes no sense, or a tokenizer that is missing.
    """
    from trimtab.decoding._config import switched_off
    from trimtab.models.ends import end_tokens

    found, checked = strategy(name), check(name, settings)
    marks = None if tokenizer is None else Marks(end_tokens(tokenizer, model), tokenizer.pad_token_id)
    asked = found.arguments(checked, marks)
    if name == MODEL:
        return asked
    silent = {} if asked.get("do_sample") else {"top_k": 50}  # transformers' own, which does nothing here
    return {**switched_off(), **silent, **asked}


def sets(name: str, arguments: Mapping[str, Any]) -> set[str]:
    """Which of a strategy's `arguments` it sets itself, and does not only switch off."""
    shared = {"do_sample", "num_beams"}
    if name == MODEL:
        return set()
    return shared | ({"temperature", "top_k", "top_p"} if arguments.get("do_sample") else set())


def check(name: str, settings: Mapping[str, Any]) -> Any:
    """The settings of a strategy, with its defaults.

    Raises:
        DecodingError: naming the setting, what it is, and what may be meant; also one that does nothing beside the
            others.
    """
    found = strategy(name)
    checked = check_settings(found.options, settings, f"decoding {name}", "decoding.", DecodingError)
    idle = found.idle(checked)
    for key in sorted(checked.model_fields_set & idle.keys()):
        if getattr(checked, key) != found.options.model_fields[key].default:
            raise DecodingError(f"decoding.{key} does nothing here: {idle[key]}")
    return checked
