"""What requests to a server cost, as the server counts it, and a budget that no request may exceed."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from trimtab.common.errors import UserError
from trimtab.data.messages import text_of

BYTES_A_TOKEN, TOKENS_A_MESSAGE = 3, 8
"""for estimates: few enough bytes that most texts have fewer tokens, and what a template adds to a message"""


@dataclass
class Usage:
    """Requests that were sent, and tokens as the server counted them."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.requests + other.requests, self.prompt + other.prompt, self.completion + other.completion)

    def add(self, other: "Usage") -> None:
        self.requests, self.prompt, self.completion = (
            self.requests + other.requests, self.prompt + other.prompt, self.completion + other.completion
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> "Usage":
        """Sum of the `usage` of stored rows."""
        total = cls()
        for row in rows:
            total += cls(**row.get("usage", {}))
        return total

    def row(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in the user's currency."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        return (self.prompt * usage.prompt + self.completion * usage.completion) / 1e6


class BudgetReached(Exception):
    """The next request might exceed the budget; nothing was sent."""


class TokensNotCounted(UserError):
    """A budget in tokens or money with a server that does not count tokens."""


class RequestBudget:
    """Keeps the requests of several threads within limits.

    A request is reserved at its most: the estimate of its prompt and the longest answer. One that does not fit waits
    for those in flight, which mostly cost less. Estimates grow with the largest error so far, so the limits in tokens
    and money are only exceeded by prompts that are estimated too short before the first answers come.

    Args:
        requests, tokens, cost: the limits; None for no limit. `cost` needs `prices`.
        spent: by earlier runs of the same work, which count.
    """

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        *,
        prices: Prices | None = None,
        spent: Usage | None = None,
    ):
        self.requests, self.tokens, self.cost, self.prices = requests, tokens, cost, prices
        self.spent = spent or Usage()
        self.reserved = Usage()
        self._scale, self._uncounted = 1.0, False
        self._changed = threading.Condition()

    @contextmanager
    def request(self, prompt: int, completion: int) -> Iterator[Usage]:
        """A request of about `prompt` tokens that may get `completion` tokens; the caller adds what was counted to the
        usage that it yields, or leaves it at 0 tokens.

        Raises:
            BudgetReached: if it does not fit, with the limit.
            TokensNotCounted: if the server does not count, and a limit depends on that.
        """
        used = Usage(requests=1)
        with self._changed:
            while True:
                most = Usage(1, round(prompt * self._scale), completion)
                if self._uncounted and (self.tokens is not None or self.cost is not None):
                    raise TokensNotCounted(
                        "the server's answers hold no usage, so tokens and cost cannot be kept to a budget; "
                        "use --budget-requests"
                    )
                found = self._exceeded(self.spent + self.reserved + most)
                if not found:
                    break
                if not self.reserved.requests:
                    raise BudgetReached(found)
                self._changed.wait()
            self.reserved += most
        try:
            yield used
        finally:
            with self._changed:
                self.reserved += Usage(-1, -most.prompt, -most.completion)
                self.spent += used
                self._scale = max(self._scale, used.prompt / max(prompt, 1))
                self._changed.notify_all()

    def uncounted(self) -> None:
        """An answer came without usage."""
        self._uncounted = True

    def _exceeded(self, total: Usage) -> str:
        """The limit that a total exceeds, with what is spent, in words."""
        if self.requests is not None and total.requests > self.requests:
            return f"--budget-requests {self.requests:,}: {self.spent.requests:,} are sent"
        if self.tokens is not None and total.tokens > self.tokens:
            return f"--budget-tokens {self.tokens:,}: {self.spent.tokens:,} are used and the next request may not fit"
        if self.cost is not None and self.prices is not None and self.prices.of(total) > self.cost:
            spent = self.prices.of(self.spent)
            return f"--budget-cost {self.cost:g}: {spent:.4g} is spent and the next request may not fit"
        return ""


def prompt_tokens(chat: Any) -> int:
    """About how many tokens a chat has, or a task with tools."""
    task = chat if isinstance(chat, Mapping) else {"prompt": chat}
    messages: Sequence[Mapping[str, Any]] = task["prompt"]
    size = sum(len(text_of(turn.get("content") or "").encode(errors="replace")) for turn in messages)
    size += len(str(task.get("tools") or "").encode(errors="replace"))
    return -(-size // BYTES_A_TOKEN) + TOKENS_A_MESSAGE * len(messages)


def described(usage: Usage, prices: Prices | None) -> str:
    """Usage in words."""
    money = f", {prices.of(usage):.4g} at the given prices" if prices is not None else ""
    return (
        f"{usage.requests:,} requests, {usage.prompt:,} prompt tokens and {usage.completion:,} completion tokens{money}"
    )
