"""Pass a request to the engine, and its answer back piece by piece; a client that leaves ends the request."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from trimtab.serving.refusals import RequestRefused, in_form

EVENTS = "text/event-stream"


async def forward(
    request: Request,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    change: Callable[[Any], Any] | None = None,
) -> Response:
    """The engine's answer.

    Args:
        request: of the client, who may leave.
        headers: that are added to the answer.
        change: of the JSON of an answer that is not streamed.

    Raises:
        RequestRefused: if the engine does not answer (502), or the request holds what JSON cannot say (400).
    """
    client: httpx.AsyncClient = request.app.state.client
    asked = client.build_request(method, path, json=None if body is None else sendable(body))
    answer = await unless_gone(request, client.send(asked, stream=True))
    if answer is None:
        return Response(status_code=499)  # nobody reads it
    if answer.status_code == 200 and answer.headers.get("content-type", "").startswith(EVENTS):
        return Relayed(answer, dict(headers or {}))
    try:
        raw = await unless_gone(request, answer.aread())
    finally:
        await answer.aclose()
    if raw is None:
        return Response(status_code=499)
    if answer.status_code != 200:
        return JSONResponse(in_form(raw, answer.status_code), answer.status_code)
    try:
        found = json.loads(raw)
    except ValueError:
        raise RequestRefused("the engine's answer is no JSON", 502) from None
    return JSONResponse(change(found) if change else found, headers=headers)


def sendable(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request as it is.

    Raises:
        RequestRefused: if it holds NaN, infinity, or text with half of a surrogate pair, which the way in lets through.
    """
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise RequestRefused("a text of the request is no Unicode: it holds half of a surrogate pair") from None
    except ValueError:
        raise RequestRefused("a number of the request is not finite; JSON has no NaN and no infinity") from None
    return body


async def unless_gone(request: Request, work: Any) -> Any:
    """What the engine gives, or None as soon as the client is gone: the connection to the engine is closed then.

    Raises:
        RequestRefused: if the engine does not answer.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone(request.receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        return None
    except httpx.HTTPError as error:
        raise RequestRefused(f"the engine does not answer ({type(error).__name__})", 502) from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gone(receive: Receive) -> None:
    """Wait for the client to leave."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Relayed(Response):
    """Events of an engine, each sent as soon as it comes."""

    def __init__(self, answer: httpx.Response, headers: dict[str, str]):
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        self.answer = answer
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        tasks = [asyncio.ensure_future(self._send(send)), asyncio.ensure_future(gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(httpx.HTTPError):
                await self.answer.aclose()

    async def _send(self, send: Send) -> None:
        async for piece in self._pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pieces(self) -> AsyncIterator[bytes]:
        """What comes, an error if it breaks off, and at last `[DONE]`, which not every engine sends."""
        last = b""
        try:
            async for piece in self.answer.aiter_raw():
                last = (last + piece)[-64:]
                yield piece
        except httpx.HTTPError:
            broken = in_form(b'"the engine broke off in the middle of the answer"', 502)
            yield f"data: {json.dumps(broken)}\n\n".encode()
        if b"data: [DONE]" not in last:
            yield b"data: [DONE]\n\n"
