"""Refusals of requests, in the form of OpenAI's API: one line of JSON that its clients understand."""

import json
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

SHOWN = 60
"""characters of a wrong value in a message"""
KINDS = {401: "authentication_error", 404: "not_found_error", 502: "engine_error"}
"""status of HTTP -> OpenAI's name for such an error"""


class RequestRefused(Exception):
    """A request that is not passed on.

    Args:
        message: one line: where, what, and the way out.
        status: of HTTP.
        param: the field that is wrong.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None):
        super().__init__(message)
        self.status, self.param = status, param

    def response(self) -> JSONResponse:
        more = {"WWW-Authenticate": "Bearer"} if self.status == 401 else None
        return JSONResponse(error_body(str(self), self.status, self.param), self.status, headers=more)


def error_body(message: str, status: int, param: str | None = None) -> dict[str, Any]:
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": " ".join(message.split()), "type": kind, "param": param, "code": status}}


def in_form(raw: bytes, status: int) -> dict[str, Any]:
    """An engine's own error in OpenAI's form."""
    try:
        said = json.loads(raw)
    except ValueError:
        said = raw.decode(errors="replace")
    if isinstance(said, dict):
        inner = said.get("error", said.get("detail", said))
        if isinstance(inner, dict) and isinstance(inner.get("message"), str):
            return error_body(inner["message"], status, inner.get("param"))
        said = inner
    return error_body(str(said)[:1000] or f"the engine answered with HTTP {status}", status)


def refused(request: Any, error: Any) -> Response:
    """The answer to a request that was refused."""
    return error.response()


def left(request: Any, error: Any) -> Response:
    """Of a client that has gone before its request was whole: nobody reads it."""
    return Response(status_code=499)


HANDLERS = {RequestRefused: refused, ClientDisconnect: left}
"""for Starlette"""


def shown(value: Any) -> str:
    """A value as in Python, cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
