"""Tools of a server of the Model Context Protocol, by the package `mcp`, which nothing else of trimtab knows."""

import contextlib
import importlib.util
import json
import os
import shlex
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, TimeoutError
from typing import Any

from trimtab.agents.tools import Toolbox, ToolFailed, ToolsError, check_limits
from trimtab.common.errors import first_line

STARTING = 60.0
"""seconds within which a server must have listed its tools"""
ENDING = 15.0
"""seconds that a server gets to end"""


class McpTools(Toolbox):
    """The tools of a server. One that ends, or a call that takes too long, is an observation that says so; the server
    is started, or connected to, anew at the next call.

    Args:
        server: a command that is started, with the environment of this process, and spoken to over its standard
            streams; or the URL of one that runs, http:// or https://.
        seconds: of a call.
        longest: characters of an observation.

    Raises:
        ToolsError: if `mcp` is not installed, or the server does not answer.
    """

    def __init__(self, server: str, seconds: float = 30.0, longest: int = Toolbox.longest):
        check_limits(seconds, longest)
        self.server, self.seconds, self.longest = server, seconds, longest
        if not server.strip():
            raise ToolsError("mcp: names no server; expected mcp:COMMAND or mcp:URL")
        try:
            self._words = [] if server.startswith(("http://", "https://")) else shlex.split(server)
        except ValueError as error:
            raise ToolsError(f"mcp:{server} is no command: {error}") from error
        if importlib.util.find_spec("mcp") is None:
            raise ToolsError(f"MCP server {server}: the package mcp is not installed: pip install mcp")
        self._lock = threading.Lock()
        self._live: _Connection | None = None
        self.schemas = self._connected().schemas

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        with self._lock:
            live = self._connected()
            try:
                result = live.call(name, arguments, self.seconds)
            except TimeoutError:
                self._drop()
                anew = "started" if self._words else "connected to"
                raise ToolFailed(
                    f"{name} took longer than {self.seconds:g} s and was given up; the server is {anew} anew"
                ) from None
            except Exception as error:  # of the protocol, of the pipe, or of the library
                ended = live.ended()
                self._drop()
                said = first_line(_root(error))
                raise ToolFailed(f"{name}: the server has ended ({said})" if ended else f"{name}: {said}") from error
            except BaseException:
                self._drop()
                raise
        text = _text(result)
        if result.is_error:
            raise ToolFailed(text)
        return text

    def restart(self) -> None:
        """Start the server, or connect to it, anew at the next call."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        self.restart()

    def _connected(self) -> "_Connection":
        if self._live is None:
            self._live = _Connection(self.server, self._words)
        return self._live

    def _drop(self) -> None:
        if self._live is not None:
            self._live.close()
            self._live = None


class _Connection:
    """A server that has listed its tools; the protocol runs in a thread of its own."""

    def __init__(self, server: str, words: list[str]):
        from anyio.from_thread import start_blocking_portal

        self._said = _LastLines()
        self._stop: Any = None
        self._ready: Future[list[dict[str, Any]]] = Future()
        self._portals = contextlib.ExitStack()
        self._portal = self._portals.enter_context(start_blocking_portal())
        self._life = self._portal.start_task_soon(self._live, server, words)
        try:
            self.schemas = self._ready.result(STARTING)
        except TimeoutError:
            self.close()
            raise ToolsError(f"MCP server {server}: it did not answer within {STARTING:g} seconds") from None
        except Exception as error:
            self.close()
            cause = _root(error)
            what = "it was not started" if isinstance(cause, OSError) and words else "it did not answer"
            heard = f"; it said: {self._said.last}" if self._said.last else ""
            raise ToolsError(f"MCP server {server}: {what}: {first_line(cause)}{heard}") from error
        except BaseException:
            self.close()
            raise

    async def _live(self, server: str, words: list[str]) -> None:
        import anyio
        from mcp import Client, StdioServerParameters, stdio_client  # type: ignore[import-not-found]

        self._stop = anyio.Event()
        try:
            parameters = (
                StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ)) if words else None
            )
            transport = server if parameters is None else stdio_client(parameters, errlog=self._said.pipe)
            async with Client(transport) as self._client:
                self._ready.set_result([_schema(tool) for tool in await self._listed()])
                await self._stop.wait()
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _listed(self) -> list[Any]:
        page = await self._client.list_tools()
        found = list(page.tools)
        while page.next_cursor:
            page = await self._client.list_tools(cursor=page.next_cursor)
            found += page.tools
        return found

    def call(self, name: str, arguments: dict[str, Any], seconds: float) -> Any:
        asked = self._portal.start_task_soon(self._client.call_tool, name, arguments)
        try:
            return asked.result(seconds)
        except BaseException:
            asked.cancel()
            raise

    def ended(self) -> bool:
        """Whether the connection is gone, rather than a call refused."""
        ping = self._portal.start_task_soon(self._client.list_tools)
        try:
            ping.result(1.0)
        except Exception:
            return True
        return False

    def close(self) -> None:
        """End the server, and the thread."""
        with contextlib.suppress(Exception):
            if self._stop is not None and not self._life.done():
                self._portal.call(self._stop.set)
            self._life.result(ENDING)
        self._life.cancel()
        with contextlib.suppress(Exception):
            self._portals.close()
        self._said.close()


class _LastLines:
    """What a server writes beside the protocol: read, so that it never waits, and forgotten but for its end."""

    def __init__(self) -> None:
        source, sink = os.pipe()
        self._kept: deque[str] = deque(maxlen=20)
        self.pipe = os.fdopen(sink, "w")
        self._reader = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._reader.start()

    def _read(self, source: int) -> None:
        with os.fdopen(source, "rb") as lines:
            while line := lines.readline(10_000):
                self._kept.append(line.decode(errors="replace"))

    @property
    def last(self) -> str:
        self.close()
        self._reader.join(1.0)
        return next((line.strip()[:300] for line in reversed(self._kept) if line.strip()), "")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.close()


def _schema(tool: Any) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _text(result: Any) -> str:
    """The texts of a result, or its JSON; other parts by their kind."""
    parts = []
    for one in result.content:
        inside = getattr(one, "resource", None)
        text = getattr(one, "text", None) or getattr(inside, "text", None)
        parts.append(text if isinstance(text, str) else f"[{one.type}]" if one.type != "text" else "")
    structured: Mapping[str, Any] | None = result.structured_content
    if not parts and structured is not None:
        return json.dumps(structured, ensure_ascii=False)
    return "\n".join(parts)


def _root(error: BaseException) -> BaseException:
    """The first of a group of exceptions, which is what asynchronous libraries raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
