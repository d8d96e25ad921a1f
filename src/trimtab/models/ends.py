"""Where answers end: one set of end tokens for generation, training and the saved model."""

import json
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedTokenizerBase

_ASKED, _SAID, _AGAIN, _LAST = "Zanzibar", "Reykjavik", "Kathmandu", "Montevideo"
"""words that no template writes itself"""


def end_tokens(tokenizer: Any, model: Any = None) -> tuple[int, ...]:
    """Ids of the tokens that end an answer, sorted.

    These are the tokenizer's end token, those with which its chat template ends an answer (`turn_end`) and a tool call
    (`call_end`) or, if it ends none, opens the next turn (`next_turns`), and those of the config and generation config
    of `model`, which may be wrapped. Without a model they are those that training answers end with.
    """
    named = [getattr(tokenizer, "eos_token_id", None), turn_end(tokenizer), call_end(tokenizer), next_turns(tokenizer)]
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        named.append(getattr(config, "eos_token_id", None))
        if config is not None and hasattr(config, "get_text_config"):
            named.append(getattr(config.get_text_config(), "eos_token_id", None))
    return tuple(sorted({token for value in named for token in _ids(value) if token >= 0}))


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(token) for token in value] if isinstance(value, Iterable) else [int(value)]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends a turn of the assistant; None if it has no template, or one that ends
    turns by text alone.

    A conversation of known words is rendered. The special tokens that follow both the last answer and an earlier one,
    up to one that opens a turn, end it, and generation stops at the last of them (Command R has two, Phi-3 writes a
    further one after the last turn). If they have nothing in common, the first one after the last answer ends it.
    """
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        return None
    key = (str(template), tokenizer.bos_token, tokenizer.eos_token)
    if _FOUND.get(tokenizer, ((), None))[0] != key:
        _FOUND[tokenizer] = key, _turn_end(tokenizer)
    return _FOUND[tokenizer][1]


_FOUND: WeakKeyDictionary[Any, tuple[tuple[Any, ...], int | None]] = WeakKeyDictionary()


def call_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which the chat template ends a tool call, if it is not `turn_end`, as in gpt-oss; else None."""
    if getattr(tokenizer, "chat_template", None) is None or turn_end(tokenizer) is None:
        return None
    ends = []
    for arguments in ({_AGAIN: _LAST}, json.dumps({_AGAIN: _LAST})):
        call = {"type": "function", "function": {"name": _SAID, "arguments": arguments}}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        text = _render(tokenizer, [{"role": "user", "content": _ASKED}, called]) or ""
        rest = text.rpartition(_LAST)[2] if _LAST in text else ""
        ends += _until_opening(_special(tokenizer, rest), _opening(tokenizer))[-1:]
    return next((end for end in ends if end != turn_end(tokenizer)), None)


def next_turns(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that open a user's or a tool's turn, if the chat template writes nothing before them: a model with such a
    template, as GLM 4's, ends its answer with one of these."""
    if getattr(tokenizer, "chat_template", None) is None or turn_end(tokenizer) is not None:
        return ()
    user, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    call = {"type": "function", "function": {"name": _SAID, "arguments": {}}}
    chats = [
        [user, said, {"role": "user", "content": _AGAIN}],
        [user, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": _AGAIN}],
    ]
    found = []
    for chat in chats:
        done, whole = _render(tokenizer, chat[:2]), _render(tokenizer, chat)
        rest = whole[len(done) :] if done and whole and whole.startswith(done) else ""
        ids = tokenizer(rest, add_special_tokens=False).input_ids if rest else []
        if ids and ids[:1] == _special(tokenizer, rest)[:1] and ids[0] != tokenizer.bos_token_id:
            found.append(int(ids[0]))
    return tuple(found)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    after_last, between = _after_answers(tokenizer)
    opening = _opening(tokenizer)
    last = _until_opening(_special(tokenizer, after_last), opening)
    if between is None:
        return last[0] if last else None
    first = _until_opening(_special(tokenizer, between), opening)
    shared = [token for place, token in enumerate(last) if first[: place + 1] == last[: place + 1]]
    return shared[-1] if shared else last[0] if last else None


def _after_answers(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str | None]:
    """The template's text after the last answer, and between an answer and the next question if it renders both."""
    user, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    more = [{"role": "user", "content": _AGAIN}, {"role": "assistant", "content": _LAST}]
    system = {"role": "system", "content": "Answer."}
    for start in ([user, said], [system, user, said], [said]):
        text = _render(tokenizer, [*start, *more])
        if text and _LAST in text:
            rest = text.rpartition(_LAST)[2]
            known = _SAID in text and _AGAIN in text.partition(_SAID)[2]
            return rest, text.partition(_SAID)[2].partition(_AGAIN)[0] if known else None
        text = _render(tokenizer, start)
        if text and _SAID in text:
            return text.rpartition(_SAID)[2], None
    return "", None


def _render(tokenizer: PreTrainedTokenizerBase, chat: Sequence[dict[str, Any]], **options: Any) -> str | None:
    """The text of a conversation; None if the template refuses it, with contents as texts and as parts."""
    for messages in (list(chat), [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat]):
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)  # type: ignore[arg-type]
        except (TemplateError, ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue  # only a probe is refused
        if isinstance(text, str) and any(word in text for word in (_ASKED, _SAID)):
            return text
    return None


def _opening(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that open a turn: those of the generation prompt, those before the first word that do not end its
    turn, and the BOS token; never the end token."""
    asked = {"role": "user", "content": _ASKED}
    short, whole = (_render(tokenizer, [asked], add_generation_prompt=wanted) or "" for wanted in (False, True))
    found = set(_special(tokenizer, whole.removeprefix(short))) if whole.startswith(short) else set()
    text = _render(tokenizer, [asked, {"role": "assistant", "content": _SAID}]) or ""
    if _ASKED in text:
        before, _, after = text.partition(_ASKED)
        found |= set(_special(tokenizer, before)) - set(_special(tokenizer, after)[:1])
    begins, ends = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos"))
    return (found | {begins}) - {ends, None}  # type: ignore[arg-type]


def _special(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of the special and added tokens in a text that are not whitespace."""
    known = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    ids = tokenizer(text, add_special_tokens=False).input_ids if text else []
    unknown = getattr(tokenizer, "unk_token_id", None)
    return [i for i in ids if i in known and i != unknown and tokenizer.decode([i]).strip()]  # type: ignore[union-attr]


def _until_opening(ids: Sequence[int], opening: set[int]) -> list[int]:
    return list(takewhile(lambda token: token not in opening, ids))


class UncheckedConfig(GenerationConfig):
    """A generation config that is saved as it is: transformers refuses to save one with a setting without effect, such
    as a temperature without sampling, which many models ship with."""

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        super().validate(strict=False, user_set_attributes=user_set_attributes)


def settle(model: Any, tokenizer: Any) -> str | None:
    """Write the end tokens and the padding token into the generation config of a model; returns a note on what changed,
    or None."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return None
    before, ends = sorted(_ids(config.eos_token_id)), list(end_tokens(tokenizer, model))
    kept = UncheckedConfig()
    kept.__dict__.update(config.__dict__)
    kept.pad_token_id = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
    if ends:
        kept.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.generation_config = kept
    if before == ends:
        return None
    new, old = (", ".join(repr(tokenizer.decode([i])) for i in ids) or "none" for ids in (ends, before))
    return (
        f"end tokens: answers end at {new}, the tokenizer's, its chat template's and the config's; the model's own "
        f"generation config named {old}, and the saved one names them all"
    )
