"""Who writes the text of a role: a model in memory, with an adapter for each role, or a server.

A role keeps the keys and values of what it last read, and reads only what is new of a prompt that goes on from it.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from trimtab.common.errors import Unanswered, UserError, first_line
from trimtab.data.tokens import coder
from trimtab.decoding._batching import alone, keeps, keeps_keys_and_values, takes
from trimtab.decoding._config import config_of
from trimtab.decoding._prefill import grows
from trimtab.engines.http import API_KEY, RequestFailed, api_key, request_json
from trimtab.models.folder import shown
from trimtab.models.limits import of_model
from trimtab.models.probing import eval_mode

OnText = Callable[[str], Any]


class RolesError(UserError):
    """Roles that cannot speak together, or a folder that holds none."""


class Spoken(NamedTuple):
    """What a role has written."""

    text: str
    """without the token that ends it"""
    read: int
    """tokens of the prompt that were read; 0 if a server does not count them"""
    reused: int
    """tokens of the prompt whose keys and values were there already"""
    written: int
    """new tokens, with the one that ends the text"""


class Speaker(Protocol):
    """Writes what follows a prompt."""

    context: int | None
    """most tokens of a prompt and what follows it; None where only a server knows"""

    def length(self, prompt: str) -> int:
        """Tokens of a prompt; 0 where only a server knows."""
        ...

    def write(
        self, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Spoken:
        """What follows; greedy at temperature 0. `on_text` gets the text piece by piece."""
        ...


# ---------------------------------------------------------------- models in memory


@dataclass
class LocalModel:
    """A model in memory, by itself or with adapters by name, of which one is active at a time."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    """as users call it"""
    policy: Any = None
    """PEFT's wrapper, once there is an adapter"""
    active: str | None = None

    def add(self, name: str, folder: str, expected: Sequence[str]) -> None:
        """Load an adapter.

        Args:
            name: it is called so from here on.
            expected: names of the tensors that its file holds.

        Raises:
            RolesError: if it does not fit.
        """
        from peft import PeftModel, get_peft_model_state_dict

        try:
            if self.policy is None:
                self.policy = PeftModel.from_pretrained(self.model, folder, adapter_name=name)
                self.active = name
            else:
                self.policy.load_adapter(folder, adapter_name=name)
        except Exception as error:  # of shapes, settings, missing layers, unknown kinds
            raise RolesError(f"the adapter {folder} does not fit {self.name}: {first_line(error)}") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a base that stands beside the adapter
            own = set(get_peft_model_state_dict(self.policy, adapter_name=name))
        if own != set(expected):
            apart = sorted(own ^ set(expected))
            raise RolesError(
                f"the adapter {folder} does not fit {self.name}: {len(apart)} tensors are on one side only: "
                f"{shown(apart)}"
            )
        self.policy.eval()

    def use(self, adapter: str | None) -> None:
        """Switch to an adapter, or to the model without any."""
        if self.policy is None or adapter == self.active:
            return
        if adapter is None:
            self.policy.base_model.disable_adapter_layers()
        else:
            if self.active is None:
                self.policy.base_model.enable_adapter_layers()
            self.policy.base_model.set_adapter(adapter, inference_mode=True)
        self.active = adapter


@dataclass
class LocalSpeaker:
    """A role of a model in memory.

    Args:
        owner: the model, which other roles may use too.
        adapter: its name there; None for the model itself.
        reuse: keep what was read for the next prompt.
        most: tokens of a prompt and what follows, if fewer than the model reads.
    """

    owner: LocalModel
    adapter: str | None = None
    reuse: bool = True
    most: int | None = None
    context: int | None = field(init=False)
    _ids: list[int] = field(default_factory=list, init=False)
    """those that the cache holds"""
    _cache: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        limits = of_model(self.owner.model)
        known = [one for one in (self.most, limits.places or limits.trained) if one is not None]
        self.context = min(known, default=None)

    def ids(self, prompt: str) -> list[int]:
        """As in training: a plain text, which begins as the tokenizer begins texts."""
        return coder(self.owner.tokenizer).prompt(prompt, True)

    def length(self, prompt: str) -> int:
        return len(self.ids(prompt))

    def forget(self) -> None:
        """Drop what was read."""
        self._ids, self._cache = [], None

    @torch.no_grad()
    def write(
        self, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Spoken:
        model, tokenizer = self.owner.model, self.owner.tokenizer
        kind: Any = type(model)  # not an override on this instance
        self.owner.use(self.adapter)
        ids = self.ids(prompt)
        how = {"do_sample": temperature > 0, "temperature": temperature or 1.0, "return_dict_in_generate": True}
        config = config_of(model, tokenizer, how, max_new_tokens)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=model.device)}
        if takes(model, "attention_mask"):
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        reused = self._back_to(ids)
        if reused:
            inputs["past_key_values"] = self._cache
        streamer = None if on_text is None else TextPieces(tokenizer, on_text)
        cache, self._cache = self._cache, None  # of a reading that is broken off nothing is kept
        devices = [] if model.device.type == "cpu" else [model.device]
        with torch.random.fork_rng(devices=devices), eval_mode(model), alone(model):
            torch.manual_seed(seed)
            found = kind.generate(model, **inputs, generation_config=config, streamer=streamer)
        del cache
        new = found.sequences[0, len(ids) :].tolist()
        self._keep([*ids, *new], getattr(found, "past_key_values", None))
        return Spoken(_text(tokenizer, new), len(ids) - reused, reused, len(new))

    def _back_to(self, ids: Sequence[int]) -> int:
        """Cut the cache back to what a prompt shares with it, and all but its last token; how much that is."""
        if self._cache is None:
            return 0
        most = min(len(self._ids), len(ids) - 1)
        shared = next((i for i in range(most) if self._ids[i] != ids[i]), most)
        if not shared:
            self.forget()
        elif shared < len(self._ids):
            self._cache.crop(shared - len(self._ids))
            self._ids = self._ids[:shared]
        return shared

    def _keep(self, ids: Sequence[int], cache: Any) -> None:
        """Keep a cache that holds keys and values of all that was read, which can be cut anywhere; no other."""
        self.forget()
        if self.reuse and cache is not None and can_be_cut(self.owner.model, cache):
            self._ids, self._cache = list(ids[: cache.get_seq_length()]), cache


def can_be_cut(model: Any, cache: Any) -> bool:
    """Whether a model's cache can be cut back to any earlier token: not windows that have moved on, nor states."""
    if keeps(model) != "rows" or not keeps_keys_and_values(model) or not grows(cache):
        return False
    return not any(getattr(layer, "is_sliding", False) for layer in cache.layers)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class TextPieces(BaseStreamer):
    """Hands on a text while its tokens are drawn, in whole characters."""

    def __init__(self, tokenizer: Any, on_text: OnText):
        self.tokenizer, self.on_text = tokenizer, on_text
        self.ids: list[int] | None = None
        self.told = ""

    def put(self, value: Tensor) -> None:
        if self.ids is None:  # the prompt comes first
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        text = _text(self.tokenizer, self.ids or [])
        if not text.endswith("\ufffd"):
            self._tell(text)

    def end(self) -> None:
        self._tell(_text(self.tokenizer, self.ids or []))

    def _tell(self, text: str) -> None:
        if len(text) > len(self.told):
            self.on_text(text[len(self.told) :])
            self.told = text


# ---------------------------------------------------------------- servers

TRIES = 4
"""of a request that may pass at the next try"""
CHAT = "/chat"
"""end of an address whose model is asked by messages instead of a text"""


@dataclass
class EndpointSpeaker:
    """A role of a server that speaks OpenAI's completions, or chat completions.

    Args:
        url: up to and with /v1; with /chat behind it, a prompt is the message of a user.
        model: as the server calls it.
        end: text at which it stops, the end of a turn.
        timeout: of a try, seconds.
        pause: seconds before the second try; doubles with each.
    """

    url: str
    model: str
    end: str
    timeout: float = 120.0
    pause: float = 1.0
    context: int | None = None

    @classmethod
    def at(cls, address: str, end: str) -> "EndpointSpeaker":
        """Of `http://HOST/v1#MODEL`.

        Raises:
            RolesError: for an address without a model.
        """
        url, _, model = address.partition("#")
        if not model or not url.startswith(("http://", "https://")):
            raise RolesError(f"{address}: a role on a server is written as http://HOST/v1#MODEL")
        return cls(url.rstrip("/"), model, end)

    def length(self, prompt: str) -> int:
        return 0

    def write(
        self, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, on_text: OnText | None = None
    ) -> Spoken:
        """Raises:
        RolesError: if the server refuses the request.
        Unanswered: if it does not answer.
        """
        chat = self.url.endswith(CHAT)
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        body = {
            "model": self.model, **asked, "max_tokens": max_new_tokens, "temperature": temperature,
            "seed": seed % 2**31, "stop": [self.end],
        }  # fmt: skip
        found = self._ask(f"{self.url.removesuffix(CHAT)}/{'chat/completions' if chat else 'completions'}", body)
        try:
            first, usage = found["choices"][0], found.get("usage") or {}
            text = first["message"]["content"] if chat else first["text"]
        except (TypeError, KeyError, IndexError, AttributeError):
            raise Unanswered(f"{self.url}: the answer holds no text; is it a server of OpenAI's form?") from None
        text = str(text or "").partition(self.end)[0]
        if on_text is not None:
            on_text(text)
        return Spoken(text, int(usage.get("prompt_tokens") or 0), 0, int(usage.get("completion_tokens") or 0))

    def _ask(self, url: str, body: dict[str, Any]) -> Any:
        last = None
        for number in range(TRIES):
            try:
                return request_json(url, body, key=api_key(), timeout=self.timeout)
            except RequestFailed as error:
                if not error.passing:
                    raise RolesError(
                        f"{self.url}#{self.model} refused the request ({error}); look at the address, the model's name "
                        f"and {API_KEY}; a server that only takes chats is written as http://HOST/v1/chat#MODEL"
                    ) from None
                last = error
            if number + 1 < TRIES:
                time.sleep(self.pause * 2**number)
        raise Unanswered(f"{self.url} does not answer ({last}, in {TRIES} tries); start it, or look at the address")


def is_endpoint(name: str | Path) -> bool:
    """Whether a role is named by the address of a server."""
    return "://" in str(name)
