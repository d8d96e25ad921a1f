"""The last lines of a terminal, with the time of each."""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

KEPT = 10_000
"""lines"""
LONGEST = 4_000
"""characters of a line; what is longer becomes several"""
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


class OutputLine(NamedTuple):
    time: float
    """seconds since 1970, of its last character"""
    text: str


class Ring:
    """The last 10,000 lines of a stream of bytes, whatever it holds: a line that does not end becomes several, bytes
    that are no text become U+FFFD, and a carriage return begins the line anew, as on a screen.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, kept: int = KEPT, longest: int = LONGEST, clock: Callable[[], float] = time.time):
        self.kept, self.longest, self.clock = kept, longest, clock
        self.total = 0
        """lines that have ended, dropped ones too"""
        self.mark = 0
        """of what comes next, for `after`"""
        self._lines: deque[OutputLine] = deque(maxlen=kept)
        self._open = b""
        self._last = 0.0
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        now = self.clock()
        whole = self._open + data
        number = whole.count(b"\n")
        *ended, rest = whole.rsplit(b"\n", min(number, self.kept + 1))
        skipped = max(0, number - self.kept)
        if skipped:
            ended = ended[1:]  # what is before them
        most = 4 * self.longest  # bytes of the longest line
        while len(rest) > most:
            cut = next((at for at in range(most, most - 4, -1) if rest[at] & 0xC0 != 0x80), most)  # between characters
            ended.append(rest[:cut])
            rest = rest[cut:]
        with self._lock:
            self.total += number
            self.mark += skipped
            for line in ended:
                parts = [OutputLine(now, part) for part in _parts(_shown(line), self.longest)]
                self.mark += len(parts)
                self._lines.extend(parts)
            self._open, self._last = rest, now

    def clear(self) -> None:
        with self._lock:
            self._lines.clear()
            self._open = b""

    def lines(self) -> list[OutputLine]:
        """All that are kept, and the one that has not ended."""
        with self._lock:
            return self._kept()

    def slice(self, start: int, end: int | None = None) -> list[OutputLine]:
        """Lines counted from the end: from the `start`-th last on, without the last `end`."""
        lines = self.lines()
        return lines[max(0, len(lines) - start) : max(0, len(lines) - (end or 0))]

    def after(self, mark: int) -> list[OutputLine]:
        """Lines that have come since this was the `mark`."""
        with self._lock:
            return self._kept()[max(0, mark - self._first) :]

    def missed(self, mark: int) -> int:
        """How many of those are not kept any more."""
        with self._lock:
            return max(0, self._first - mark)

    def since(self, time: float) -> list[OutputLine]:
        """Lines of this time and later."""
        return [line for line in self.lines() if line.time >= time]

    @property
    def _first(self) -> int:
        """The mark of the first line that is kept."""
        return self.mark - len(self._lines)

    def _kept(self) -> list[OutputLine]:
        begun = [OutputLine(self._last, text) for text in _parts(_shown(self._open), self.longest) if text]
        return [*self._lines, *begun]


def text_of(lines: Iterable[OutputLine]) -> str:
    return "\n".join(line.text for line in lines)


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").rstrip("\r").rpartition("\r")[2]
    return _CONTROL.sub("\ufffd", text)


def _parts(text: str, longest: int) -> Iterable[str]:
    if len(text) <= longest:
        return (text,)
    return (text[at : at + longest] for at in range(0, len(text), longest))
