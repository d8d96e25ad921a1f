"""What stands in front of an engine: the token, the page, and OpenAI's API with the field `strength`."""

import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trimtab.common.errors import closest
from trimtab.models.dial import DialConfig
from trimtab.serving.changes import Changes
from trimtab.serving.dialects import Dialect, most_tokens
from trimtab.serving.forward import forward
from trimtab.serving.page import DialPage
from trimtab.serving.refusals import HANDLERS, RequestRefused, error_body, shown
from trimtab.serving.strengths import FIELD, Schedule, read_strength

LARGEST = 16 * 2**20
"""bytes of a request"""
OPEN = ("/", "/health")
"""paths that need no token: nothing of the model is there"""
OF_CHANGES = ("model", "messages", "answer", FIELD, "max_completion_tokens", "max_tokens")
"""fields of a request to /dial/changes"""
WARNING = "X-Trimtab-Warning"
"""header of an answer"""


@dataclass(frozen=True)
class Front:
    """An engine and what is said about it.

    Args:
        name: of the model, as requests call it.
        engine: its address, without /v1.
        key: of the engine; clients never see it.
        token: of clients.
        changes: answers `/dial/changes`.
    """

    name: str
    dial: DialConfig
    dialect: Dialect
    engine: str
    key: str
    token: str
    changes: Changes

    def app(self) -> ASGIApp:
        """The ASGI application."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
            key = {"Authorization": f"Bearer {self.key}"}
            async with httpx.AsyncClient(
                base_url=self.engine, headers=key, timeout=httpx.Timeout(10, read=None), limits=limits, trust_env=False
            ) as client:
                app.state.client = client
                yield

        page = DialPage.load()
        handlers = Handlers(self)
        routes = [
            Route("/", page.endpoint),
            Route("/health", handlers.health),
            Route("/dial", handlers.describe),
            Route("/dial/changes", handlers.changed, methods=["POST"]),
            Route("/v1/models", handlers.models),
            Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        ]
        app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={**HANDLERS, 404: _http, 405: _http})
        return Guarded(app, self.token)


def _http(request: Request, error: Any) -> Response:
    what = "there is no path" if error.status_code == 404 else f"{request.method} is not allowed for"
    message = f"{what} {request.url.path[:100]}; there are /v1/chat/completions, /v1/models, /dial and /dial/changes"
    return JSONResponse(error_body(message, error.status_code), error.status_code, headers=error.headers)


class Guarded:
    """Lets requests through that bring the token, compared in constant time."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._knows(scope):
            refused = RequestRefused("the token is missing or wrong; send Authorization: Bearer TOKEN (api_key)", 401)
            return await refused.response()(scope, receive, send)
        return await self.app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self.wanted)


class Handlers:
    """One method for each path."""

    def __init__(self, front: Front):
        self.front = front

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def describe(self, request: Request) -> Response:
        """What the page needs to know."""
        front, dial = self.front, self.front.dial
        return JSONResponse({
            "model": front.name, "engine": front.dialect.engine, "recommended": dial.recommended,
            "limits": dial.limits, "default": dial.default, "method": dial.method, "base": dial.base,
        })  # fmt: skip

    async def models(self, request: Request) -> Response:
        return await forward(request, "GET", "/v1/models")

    async def chat(self, request: Request) -> Response:
        body = await read_body(request)
        check_chat(body, self.front.name)
        strength, warning = read_strength(body.get(FIELD), self.front.dial, most_tokens(body))
        asked = self.front.dialect.request(body, strength)
        return await forward(
            request, "POST", "/v1/chat/completions", asked, headers={WARNING: warning} if warning else {},
            change=_with_warning(warning) if warning else None,
        )  # fmt: skip

    async def changed(self, request: Request) -> Response:
        """How much the strength has changed the probability of each token of an answer."""
        body = await read_body(request)
        check_chat(body, self.front.name)
        if unknown := next((key for key in body if key not in OF_CHANGES), None):
            raise RequestRefused(
                f"{unknown[:100]} is not taken here, where the fields are {', '.join(OF_CHANGES)}", param=unknown
            )
        answer = body.get("answer")
        if not isinstance(answer, str):
            raise RequestRefused("answer must be the text whose tokens are asked about", param="answer")
        most = most_tokens(body)
        strength, warning = read_strength(body.get(FIELD), self.front.dial, most)
        if isinstance(strength, list) and most is None:
            raise RequestRefused(
                "a list of strengths divides the tokens that the answer could have; give max_completion_tokens too",
                param=FIELD,
            )
        return await self.front.changes(request, body, answer, Schedule(strength, most or 1), warning)


def _with_warning(warning: str) -> Callable[[Any], Any]:
    return lambda answer: {**answer, "warning": warning} if isinstance(answer, dict) else answer


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        RequestRefused: if it is none, or too large.
    """
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > LARGEST:
            raise RequestRefused(f"the request is larger than {LARGEST:,} bytes", 413)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the request is no JSON: {str(error)[:100]}") from None
    if not isinstance(body, dict):
        raise RequestRefused("the request must be a JSON object")
    return body


def check_chat(body: Mapping[str, Any], name: str) -> None:
    """Raise RequestRefused for no messages, another model, and what an engine may ignore: a misspelt strength, parts
    that are no text."""
    for key in body:
        if key != FIELD and closest(key.lower(), [FIELD]):
            raise RequestRefused(f"there is no field {key[:100]!r}; did you mean {FIELD!r}?", param=key)
    if (model := body.get("model")) not in (None, name):
        raise RequestRefused(f"there is no model {str(model)[:100]!r} here; the model is {name!r}", 404, "model")
    if not isinstance(body.get("stream"), bool | None):
        raise RequestRefused(f"stream must be true or false, got {shown(body['stream'])}", param="stream")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise RequestRefused('messages must be a list such as [{"role": "user", "content": "..."}]', param="messages")
    for one in messages:
        if not isinstance(one.get("role"), str) or not isinstance(one.get("content", ""), str | list | None):
            raise RequestRefused("each message needs a role, and its content must be text or parts", param="messages")
        parts = one["content"] if isinstance(one.get("content"), list) else []
        if other := [part for part in parts if not _is_text(part)]:
            raise RequestRefused(f"a part of a message must be text, got {shown(other[0])}", param="messages")


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
