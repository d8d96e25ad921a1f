"""What each engine takes in place of the field `strength`, and how it is told apart from the other."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.common.errors import UserError
from trimtab.common.files import read_json
from trimtab.models.dial import is_number
from trimtab.serving.refusals import RequestRefused, shown
from trimtab.serving.strengths import FIELD

EngineName = Literal["vllm", "transformers"]
NOT_BY_TRANSFORMERS = ("audio", "frequency_penalty", "function_call", "functions", "logprobs", "modalities",
                       "prediction", "presence_penalty", "reasoning_effort", "response_format", "tool_choice",
                       "top_logprobs", "web_search_options")  # fmt: skip
"""fields that `transformers serve` would ignore without a word to the client, or take for a repetition penalty"""
WITHOUT_EFFECT = ("metadata", "parallel_tool_calls", "service_tier", "store", "stream_options", "user")
"""fields that it ignores, and that change no answer"""


@dataclass(frozen=True)
class Dialect:
    """How requests are written for one engine."""

    engine: EngineName
    settings: Mapping[str, Any] = field(default_factory=dict)
    """the folder's own generation settings, which a request to transformers would lose"""

    def request(self, body: Mapping[str, Any], strength: float | list[float]) -> dict[str, Any]:
        """A request as the engine takes it. Without a temperature, the most probable token is taken."""
        asked = {name: value for name, value in body.items() if name != FIELD and value is not None}
        asked.setdefault("temperature", 0)
        if self.engine == "vllm":
            given = asked.get("vllm_xargs", {})
            if not isinstance(given, dict):
                raise RequestRefused("vllm_xargs must be a mapping", param="vllm_xargs")
            return {**asked, "vllm_xargs": {**given, FIELD: strength}}
        return self._for_transformers(asked, strength)

    def _for_transformers(self, asked: dict[str, Any], strength: float | list[float]) -> dict[str, Any]:
        for name in ("generation_config", "vllm_xargs"):
            if name in asked:
                raise RequestRefused(f"{name} is not taken here; put strength beside the other fields", param=name)
        if asked.get("tool_choice") == "none":
            asked.pop("tools", None)
        elif asked.get("tool_choice") == "auto":
            del asked["tool_choice"]
        if asked.pop("n", 1) != 1:
            raise RequestRefused("n: this engine gives one answer a request (vLLM gives several)", param="n")
        for name in NOT_BY_TRANSFORMERS:
            if asked.pop(name, None) not in (None, False, 0, "none", {"type": "text"}):
                raise RequestRefused(f"{name} is not supported by this engine, transformers; leave it out", param=name)
        for name in WITHOUT_EFFECT:
            asked.pop(name, None)
        for name, (holds, form) in SAMPLED.items():
            if name in asked and not holds(asked[name]):
                raise RequestRefused(f"{name} must be {form}, got {shown(asked[name])}", param=name)
        if "logit_bias" in asked:
            asked["logit_bias"] = {token: float(bias) for token, bias in asked["logit_bias"].items()}
        warm = asked["temperature"]
        own = {"seed": asked.pop("seed")} if "seed" in asked else {}  # the handler would seed what all requests share
        asked["generation_config"] = json.dumps({**self.settings, "do_sample": warm > 0, FIELD: strength, **own})
        if warm == 0:
            del asked["temperature"]
            asked.pop("top_p", None)
        return asked


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) and one for one in value))


def _is_bias(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and is_number(bias) for key, bias in value.items())


SAMPLED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: is_number(value) and (value == 0 or value >= 0.01), "a number, 0 or at least 0.01"),
    "top_p": (lambda value: is_number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
    "seed": (_is_whole, "a whole number of 64 bits"),
    "stop": (_is_stop, "a text, or a list of texts"),
    "logit_bias": (_is_bias, "a mapping from token ids to numbers"),
}
"""fields that transformers does not check: whether a value is of their form, and that form in words"""
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "max_length", "max_new_tokens",
            "transformers_version", "_from_model_config", "trust_remote_code", "custom_generate")  # fmt: skip
"""settings that the request decides"""


def settings_of(folder: Path) -> dict[str, Any]:
    """The generation settings of a folder without those of sampling and length: its end tokens, above all.

    Raises:
        UserError: if its file is broken.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    found = read_json(path, "copy it again")
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; copy it again")
    return {name: value for name, value in found.items() if name not in SAMPLING}


def most_tokens(body: Mapping[str, Any]) -> int | None:
    """The most tokens that a request allows for its answer; None if it does not say.

    Raises:
        RequestRefused: for anything but a positive whole number.
    """
    found = {name: body.get(name) for name in ("max_completion_tokens", "max_tokens")}
    given = {name: value for name, value in found.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise RequestRefused(f"{name} must be a whole number of at least 1, got {shown(value)}", param=name)
    return next(iter(given.values()), None)
