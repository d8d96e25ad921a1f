"""Grade answers in processes that can be killed: evaluating what a model wrote may take forever.

A worker is a fresh interpreter with one thread, a memory limit and its own process group. It takes one question at a
time and ends when its pipe is closed, or, if it is busy then, by an alarm that does not depend on it.
"""

import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, Literal

from trimtab.common.errors import UserError

Outcome = Literal["correct", "incorrect", "unparsed", "timed out", "crashed"]

LONGEST = 10_000
"""a text is truncated to its last characters, so that a question fits into a pipe and sending never blocks"""
STARTING = 120.0
"""seconds within which a worker must have imported what it needs"""
GRACE = 1.0
"""seconds after its limit at which a worker that was not killed ends itself"""


class PoolError(RuntimeError):
    """Workers that failed to start."""


MATHEMATICS = "trimtab.rewards.mathematics"


class MathPool:
    """Grades answers by a module's `verdict(text, truth)`, in processes that start with the first question.

    Each answer has `seconds`, which do not count a worker's start (a second or two). A worker that takes longer, dies
    or outgrows its memory is replaced, and its answer is incorrect: "timed out" or "crashed". One thread grades at
    a time; others wait for it.

    Args:
        seconds: for one answer.
        workers: processes; default: the number of processors, at most 4.
        memory: limit of a worker, in bytes of address space (Linux). An answer that needs more is unparsed, or crashes.
        grader: the module; its `warm_up()` is called before the first question.
    """

    def __init__(
        self, seconds: float = 5.0, workers: int | None = None, memory: int = 2**31, grader: str = MATHEMATICS
    ):
        if seconds <= 0 or (workers is not None and workers < 1):
            raise UserError(f"a pool needs time and workers, got {seconds} seconds and {workers} workers")
        self.seconds, self.memory, self.module = seconds, memory, grader
        self.most = workers or min(4, os.cpu_count() or 1)
        self.counts: Counter[str] = Counter()
        """outcome -> answers, of all calls so far"""
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._owner = os.getpid()
        self._finalizer = weakref.finalize(self, _end, self._workers, self._owner)

    def grade(self, texts: Sequence[str], truths: Sequence[str]) -> list[Outcome]:
        """Outcomes of the texts, in order.

        Raises:
            ValueError: if the numbers of truths and texts differ, or a truth is longer than `LONGEST`.
            PoolError: if no worker starts.
        """
        if len(texts) != len(truths):
            raise UserError(f"{len(texts)} texts and {len(truths)} correct answers")
        if any(len(truth) > LONGEST for truth in truths):
            raise UserError(f"a correct answer has more than {LONGEST:,} characters; name the column of final answers")
        with self._lock:
            try:
                found = self._grade([(text[-LONGEST:], truth) for text, truth in zip(texts, truths)])
            finally:  # an interrupt leaves no worker behind whose reply would be taken for that to another question
                self._drop([worker for worker in self._workers if worker.question is not None])
        self.counts.update(found)
        return found

    def close(self) -> None:
        """End all workers; the next question starts new ones."""
        with self._lock:
            self._drop(list(self._workers))

    def __enter__(self) -> "MathPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grade(self, questions: Sequence[tuple[str, str]]) -> list[Outcome]:
        if os.getpid() != self._owner:  # a fork: the workers are the other process's
            self._workers, self._owner = [], os.getpid()
            self._finalizer = weakref.finalize(self, _end, self._workers, self._owner)
        found: dict[int, Outcome] = {}
        waiting = deque(range(len(questions)))
        while len(found) < len(questions):
            self._drop([worker for worker in self._workers if worker.question is None and worker.ended()])
            busy = [worker for worker in self._workers if worker.question is not None]
            while len(self._workers) < min(self.most, len(waiting) + len(busy)):
                self._workers.append(_Worker(self.seconds, self.memory, self.module))
            for worker in self._workers:
                if worker.ready and worker.question is None and waiting:
                    worker.ask(waiting[0], questions[waiting[0]])
                    waiting.popleft()
            for worker, outcome in self._hear():
                if worker.question is not None:
                    found[worker.question] = outcome
                    worker.question = None
        return [found[place] for place in range(len(questions))]

    def _hear(self) -> list[tuple["_Worker", Outcome]]:
        """Wait for a reply, an exit or a timeout; dead workers are dropped."""
        heard: list[tuple[_Worker, Outcome]] = []
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.replies, selectors.EVENT_READ, worker)
            limits = [w.deadline for w in self._workers if not w.ready or w.question is not None]
            for key, _ in selector.select(max(0.0, min(limits) - time.monotonic())):
                heard += [(key.data, outcome) for outcome in key.data.hear()]
        late = [w for w in self._workers if w.question is not None and w.deadline <= time.monotonic()]
        late = [worker for worker in late if worker not in [one for one, _ in heard]]
        if any(not worker.ready and worker.deadline <= time.monotonic() for worker in self._workers):
            raise PoolError(f"a worker that grades answers did not start within {STARTING:g} seconds")
        heard.extend((worker, "timed out") for worker in late)
        self._drop([worker for worker, outcome in heard if outcome in ("timed out", "crashed")])
        return heard

    def _drop(self, workers: Sequence["_Worker"]) -> None:
        for worker in workers:
            self._workers.remove(worker)
        _end(workers, self._owner)


def _end(workers: Sequence["_Worker"], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.kill()


class _Worker:
    """A process and its current question."""

    def __init__(self, seconds: float, memory: int, grader: str):
        self.seconds = seconds
        self.ready, self.question = False, None
        self.deadline = time.monotonic() + STARTING
        self._heard = b""
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        path = os.pathsep.join(folder for folder in sys.path if folder)
        code = f"from trimtab.rewards.pool import work; work({seconds!r}, {memory!r}, {grader!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        assert self._process.stdout is not None
        self.replies = self._process.stdout

    def ask(self, number: int, question: tuple[str, str]) -> None:
        self.question: int | None = number
        self.deadline = time.monotonic() + self.seconds
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died just now; its closed pipe is heard next
            self._process.stdin.write(json.dumps(question, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    def hear(self) -> list[Outcome]:
        """The reply, if it is complete; "crashed" at the end of the pipe.

        Raises:
            PoolError: if the process ended before it was ready.
        """
        assert self._process.stderr is not None
        part = os.read(self.replies.fileno(), 4096)
        if not part and not self.ready:
            last = self._process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise PoolError(f"a worker that grades answers did not start: {''.join(last) or 'it was killed'}")
        if not part:
            return ["crashed"]
        self._heard += part
        *lines, self._heard = self._heard.split(b"\n")
        outcomes: list[Any] = [line.decode() for line in lines]
        if outcomes and not self.ready:
            self.ready = True
            outcomes = outcomes[1:]
        return outcomes

    def ended(self) -> bool:
        """Whether it was killed by something else while idle; one that never became ready is reported by `hear`."""
        return self.ready and self._process.poll() is not None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()


# ---------------------------------------------------------------- inside a worker


def work(seconds: float, memory: int, grader: str) -> None:
    """Answer questions from standard input until it is closed."""
    import logging

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even within a computation that never looks up
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    module = importlib.import_module(grader)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    module.warm_up()
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        text, truth = json.loads(line.decode("utf-8", "surrogatepass"))
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        try:
            outcome = module.verdict(text, truth)
        except MemoryError:
            os._exit(1)
        except Exception:  # of sympy or a puzzle's own scorer, on a text that it cannot handle
            outcome = "unparsed"
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(outcome.encode() + b"\n")
