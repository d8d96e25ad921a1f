"""A program in a sandbox that is talked with while it runs: lines of JSON to its standard input and from its output."""

import json
import os
import selectors
import time
from typing import Any

from trimtab.common.errors import UserError
from trimtab.gym.running import Pipes, Running

LINE = 32 << 20
"""bytes of one line"""
KEPT = 4000
"""bytes of what it writes to standard error that are kept"""


class TalkError(UserError):
    """A program that ended, was silent for too long, or wrote what is no JSON."""


class Talk:
    """Both ends of a talk. Whatever is heard is the program's own word.

    Args:
        pipes: whose ends for the program are closed here, as it has them.
        seconds: of the whole talk.
    """

    def __init__(self, running: Running, pipes: Pipes, seconds: float):
        self._running, self._seconds, self._until = running, seconds, time.monotonic() + seconds
        for end in (pipes.input[0], pipes.output[1], pipes.error[1]):
            pipes.drop(end)
        self._input, self._output, self._error = pipes.input[1], pipes.output[0], pipes.error[0]
        self._heard, self._complaint = bytearray(), b""
        os.set_blocking(self._input, False)
        self._selector = selectors.DefaultSelector()
        for end in (self._output, self._error):
            self._selector.register(end, selectors.EVENT_READ)

    def ask(self, value: Any) -> Any:
        """Say something and hear the reply."""
        self.say(value)
        return self.hear()

    def say(self, value: Any) -> None:
        """Write a line.

        Raises:
            TalkError: if the program has ended, or does not read it in time.
        """
        left = memoryview(json.dumps(value).encode() + b"\n")
        self._selector.register(self._input, selectors.EVENT_WRITE)
        try:
            while left:
                for end in self._events():
                    if end == self._input:
                        left = left[os.write(end, left[: 1 << 16]) :]
        except BrokenPipeError:
            raise TalkError(f"it ended early{self._last()}") from None
        finally:
            self._selector.unregister(self._input)

    def hear(self) -> Any:
        """The next line.

        Raises:
            TalkError: if there is none in time, or it is no JSON.
        """
        searched = 0
        while (found := self._heard.find(b"\n", searched)) < 0:
            searched = len(self._heard)
            self._events()
        line = bytes(self._heard[:found])
        del self._heard[: found + 1]
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise TalkError(f"it wrote a line that is no JSON: {line[:80].decode(errors='replace')}") from None

    def close(self) -> None:
        """End the program."""
        self._selector.close()
        self._running.kill()

    def _events(self) -> list[int]:
        """Wait until something can be read or written; what can be read is."""
        ready = self._selector.select(max(0.0, self._until - time.monotonic()))
        if not ready:
            raise TalkError(f"it was not done after {self._seconds:g} seconds{self._last()}")
        found = [key.fd for key, _ in ready]
        if self._error in found:
            part = os.read(self._error, 1 << 16)
            self._complaint = (self._complaint + part)[-KEPT:]
            if not part:
                self._selector.unregister(self._error)
        if self._output in found:
            part = os.read(self._output, 1 << 16)
            self._heard += part
            if not part:
                raise TalkError(f"it ended early{self._last()}")
            if len(self._heard) > LINE:
                raise TalkError(f"it wrote more than {LINE:,} bytes that nobody asked for")
        return found

    def _last(self) -> str:
        """The last line of its complaint, after a colon; what comes with its end is waited for a little."""
        until = time.monotonic() + 0.2
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._error, selectors.EVENT_READ)
            while waiting.select(max(0.0, until - time.monotonic())):
                part = os.read(self._error, 1 << 16)
                if not part or time.monotonic() > until:
                    break
                self._complaint = (self._complaint + part)[-KEPT:]
        lines = self._complaint.decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()[:300]}" if lines else ""
