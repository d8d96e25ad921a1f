"""Commands in sandboxes while they run: their pipes, their end, and what they leave."""

import os
import re
import selectors
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from trimtab.gym.processes import Namespace, Tree


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    """exit status; 128 + the signal that ended it"""
    output: bytes
    error: bytes
    timed_out: bool
    cut: bool
    """whether it was killed for writing more than it may"""
    seconds: float


class Running:
    """A command in its sandbox.

    Args:
        init: the first process of the sandbox, by the number that the host gives it.
        isolated: whether it has a pid namespace.
        wrapped: whether the first process is bubblewrap's, and the command the second.
    """

    def __init__(self, process: subprocess.Popen, init: int, *, isolated: bool, wrapped: bool):
        self.process = process
        own = frozenset({1, 2} if wrapped else {1})
        self.processes: Namespace | Tree = Namespace(init, own) if isolated else Tree(process.pid)
        self._isolated = isolated
        self._init, self._closed, self._lock = -1, False, threading.Lock()
        with suppress(ProcessLookupError):  # it has ended already
            self._init = os.pidfd_open(init)  # whoever has the number later is not meant

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        """End it with all that has come from it; an unisolated command misses what has left its tree and group."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._strike()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
            self.process.kill()
            self.process.wait()
            if self._init != -1:
                os.close(self._init)

    def strike(self) -> None:
        """Send the signals that end it, and do not wait for its end."""
        with self._lock:
            if not self._closed:
                self._strike()

    def _strike(self) -> None:
        if not self._isolated:
            self.processes.signal(signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if self._init == -1:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._init, signal.SIGKILL)  # the end of the namespace is that of all in it


class Pipes:
    """The three pipes of a command, each (reading end, writing end)."""

    def __init__(self) -> None:
        self.input, self.output, self.error = os.pipe(), os.pipe(), os.pipe()
        self._open = {*self.input, *self.output, *self.error}

    def drop(self, end: int) -> None:
        if end in self._open:
            self._open.remove(end)
            os.close(end)

    def close(self) -> None:
        for end in list(self._open):
            self.drop(end)


def ready(heard: int, seconds: float) -> int | None:
    """Wait until a sandbox tells that all is in place.

    Args:
        heard: the reading end of what it reports to, of which this process holds no writing end.

    Returns:
        The host's number of its first process; None if it did not start.
    """
    text, until = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(heard, selectors.EVENT_READ)
        while b"ready" not in text:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            part = os.read(heard, 4096)
            if not part:
                return None
            text += part
    found = re.search(rb'"child-pid": (\d+)', text)
    return None if found is None else int(found[1])


def finish(running: Running, pipes: Pipes, seconds: float, input: bytes, most: int) -> Ran:
    """Write to a command and read it until it ends, its time is over, or an output has more than `most` bytes."""
    for end in (pipes.input[0], pipes.output[1], pipes.error[1]):
        pipes.drop(end)
    began = time.monotonic()
    found: dict[int, bytearray] = {pipes.output[0]: bytearray(), pipes.error[0]: bytearray()}
    left, cut = memoryview(input), False
    os.set_blocking(pipes.input[1], False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipes.input[1], selectors.EVENT_WRITE)
        for end in found:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map() and not cut:
            events = selector.select(max(0.0, began + seconds - time.monotonic()))
            if not events:
                break
            for key, _ in events:
                if key.fd == pipes.input[1]:
                    left = _written(key.fd, left)
                    done = not left
                else:
                    part = os.read(key.fd, 1 << 16)
                    found[key.fd] += part
                    cut, done = cut or len(found[key.fd]) > most, not part
                if done:
                    selector.unregister(key.fd)
                    pipes.drop(key.fd)
    timed_out = False
    with suppress(subprocess.TimeoutExpired):
        running.process.wait(0 if cut else max(0.0, began + seconds - time.monotonic()))
    timed_out = not running.ended and not cut
    running.kill()
    code = running.process.returncode
    output, error = (bytes(one[:most]) for one in found.values())
    return Ran(128 - code if code < 0 else code, output, error, timed_out, cut, time.monotonic() - began)


def _written(end: int, left: memoryview) -> memoryview:
    """What is left of an input; nothing where nobody reads any more."""
    try:
        return left[os.write(end, left[: 1 << 16]) :] if left else left
    except BrokenPipeError:
        return left[:0]
