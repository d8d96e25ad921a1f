"""How much the dial has changed the probability of each token of an answer: log p at the strength minus log p at 0.

    d_t = log softmax((1 - s) z_original + s z_aligned)[y_t] - log softmax(z_original)[y_t]    (nats)

Each is asked with the tokens before it as they stand in the answer.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trimtab.common.errors import UserError
from trimtab.serving.dialects import Dialect
from trimtab.serving.forward import forward, sendable
from trimtab.serving.refusals import RequestRefused, in_form
from trimtab.serving.strengths import Schedule


class Changes(Protocol):
    """Answers a request for changes."""

    async def __call__(
        self, request: Request, body: Mapping[str, Any], answer: str, schedule: Schedule, warning: str
    ) -> Response: ...


async def by_engine(
    request: Request, body: Mapping[str, Any], answer: str, schedule: Schedule, warning: str
) -> Response:
    """Passed on to our own process of transformers, which has the model."""
    asked = {"messages": body["messages"], "answer": answer, **asdict(schedule)}
    return await forward(request, "POST", "/dial/changes", asked, change=lambda found: {**found, "warning": warning})


@dataclass(frozen=True)
class Followed:
    """Asked of vLLM, which is told to give that answer, once at the strength and once at 0."""

    dialect: Dialect
    tokenizer: Any
    """of `tokenizers`"""

    @classmethod
    def of(cls, folder: Path, dialect: Dialect) -> "Followed":
        """With the tokenizer of a folder.

        Raises:
            UserError: if it has no file of a fast one.
        """
        from tokenizers import Tokenizer

        if not (folder / "tokenizer.json").is_file():
            raise UserError(
                f"{folder} has no tokenizer.json, by which tokens are told apart under vLLM; save its tokenizer as a "
                "fast one, or add --engine transformers"
            )
        return cls(dialect, Tokenizer.from_file(str(folder / "tokenizer.json")))

    async def __call__(
        self, request: Request, body: Mapping[str, Any], answer: str, schedule: Schedule, warning: str
    ) -> Response:
        found = self.tokenizer.encode(answer, add_special_tokens=False)
        tokens = []
        if found.ids:
            strengths = schedule.tokens(len(found.ids))
            there = [self._logprobs(request, body, found.ids, one) for one in (strengths, 0.0)]
            at, before = await asyncio.gather(*there)
            tokens = pieces(answer, found.offsets, [one - other for one, other in zip(at, before, strict=True)])
        return JSONResponse({"tokens": tokens, "strength": schedule.strength, "warning": warning})

    async def _logprobs(
        self, request: Request, body: Mapping[str, Any], ids: Sequence[int], strength: float | list[float]
    ) -> list[float]:
        """[T] nats."""
        asked = self.dialect.request(
            {
                **{name: value for name, value in body.items() if name in ("model", "messages")},
                "max_completion_tokens": len(ids), "logprobs": True, "ignore_eos": True,
                "vllm_xargs": {"follow": list(ids)},
            },
            strength,
        )  # fmt: skip
        try:
            response = await request.app.state.client.post("/v1/chat/completions", json=sendable(asked))
        except httpx.HTTPError as error:
            raise RequestRefused(f"the engine does not answer ({type(error).__name__})", 502) from None
        if response.status_code != 200:
            raise RequestRefused(
                in_form(response.content, response.status_code)["error"]["message"], response.status_code
            )
        content = json.loads(response.content)["choices"][0]["logprobs"]["content"]
        return [one["logprob"] for one in content]


def pieces(text: str, offsets: Iterable[tuple[int, int]], changes: Iterable[float]) -> list[dict[str, Any]]:
    """Pieces of a text with the change of each; together they are the text.

    Tokens that share a character, as bytes of one do, are one piece, whose change is their sum. What no token covers,
    such as white space, belongs to the piece that follows.
    """
    found: list[dict[str, Any]] = []
    done, held = 0, 0.0
    for (_, end), change in zip(offsets, changes, strict=True):
        if end <= done:
            if found:
                found[-1]["change"] += change
            else:
                held += change
            continue
        found.append({"text": text[done:end], "change": held + change})
        done, held = end, 0.0
    if done < len(text):
        found.append({"text": text[done:], "change": held})
    return found
