"""Run an engine and what stands in front of it, until Ctrl-C or until one of them ends."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from trimtab.common.errors import UserError
from trimtab.common.processes import ending
from trimtab.engines.vllm import VLLMServer

LOOK = 0.5
"""seconds between two looks at whether the engine is there"""
LEAVE = 3
"""seconds that answers have when the server is stopped"""


def bound(host: str, port: int) -> socket.socket:
    """A socket that nobody else can have from now on.

    Raises:
        UserError: if the port is taken, or the address is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        one = socket.socket(found[0][0], socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine ({error.strerror or error})") from None
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(found[0][4])
        one.listen(2048)
    except OSError as error:
        one.close()
        why = (error.strerror or str(error)).lower()
        raise UserError(f"port {port} of {host} cannot be had ({why}); choose another with --port") from None
    return one


class Stoppable(uvicorn.Server):
    """A server that leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(app: ASGIApp, listening: socket.socket, engine: VLLMServer, ready: Callable[[], None]) -> None:
    """Serve on a bound socket until SIGINT, SIGTERM or SIGHUP.

    Args:
        ready: called when requests are taken.

    Raises:
        EngineFailed: if the engine ends.
        KeyboardInterrupt: for a Ctrl-C.
        SystemExit: for the others.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=LEAVE, ws="none"
    )
    came = asyncio.run(_until_signal(Stoppable(config), listening, engine, ready))
    if came == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + came)


async def _until_signal(
    server: uvicorn.Server, listening: socket.socket, engine: VLLMServer, ready: Callable[[], None]
) -> signal.Signals:
    """The signal that ended it."""
    asked: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
    for one in (signal.SIGINT, *ending()):
        asyncio.get_running_loop().add_signal_handler(one, lambda one=one: asked.done() or asked.set_result(one))
    running = asyncio.create_task(server.serve(sockets=[listening]))
    watching = asyncio.create_task(_watch(engine, server, ready))
    await asyncio.wait([running, watching, asked], return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await running
    if not asked.done():
        await watching  # which has failed
    watching.cancel()
    return asked.result()


async def _watch(engine: VLLMServer, server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    ready()
    while True:
        await asyncio.sleep(LOOK)
        engine.check_alive()
