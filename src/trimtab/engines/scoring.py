"""What a served model says about given rows: token ids on the wire, log-probabilities back."""

import base64
import io
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from trimtab.common.errors import FailedOutside, UserError
from trimtab.engines.address import Address
from trimtab.engines.http import API_KEY, RequestFailed, api_key, request_json
from trimtab.engines.vllm import Served, served

T = TypeVar("T")
R = TypeVar("R")
AT_A_TIME = 16
"""requests"""
TIMEOUT = 120.0
"""seconds that a request may take"""
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0)
"""seconds before the next tries of a request: a server that is started again needs minutes"""
SLOW_TRIES = 3
"""of a request that is not answered in time: a server that hangs seldom comes back"""
LEAST = -9999.0
"""what vLLM says in place of minus infinity"""
GENERATE, COMPLETIONS = "/inference/v1/generate", "/v1/completions"
PLAIN = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""a request's own sampling, which a model's `generation_config` would change"""


class ServerRefused(UserError):
    """A server that refuses what it is asked, or is another one than was meant."""


class ServerLost(FailedOutside):
    """A server that does not answer, after all tries."""


@dataclass(frozen=True)
class ScoredRow:
    """The most likely tokens at some places of a row, and the token that stands there."""

    ids: list[list[int]]
    """[n][K], in descending order of probability"""
    logprobs: list[list[float]]
    """[n][K] nats"""
    labels: list[float]
    """[n] nats, of the tokens that stand there"""


class ScoringServer:
    """A vLLM server that is asked about rows of token ids, many requests at a time.

    A request that fails without being refused is tried again with growing pauses. When a server that was gone is back,
    `verify` is called before its answers are used.

    Args:
        patient: False for one try alone.
        pauses, timeout: of requests, seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        patient: bool = True,
        pauses: Sequence[float] = PAUSES,
        timeout: float = TIMEOUT,
        at_a_time: int = AT_A_TIME,
    ):
        self.url, self.model = address.url, address.model or ""
        self.patient, self.pauses, self.timeout, self.at_a_time = patient, tuple(pauses), timeout, at_a_time
        self.verify: Callable[[], None] | None = None
        self.tokens_in_out = False
        """whether it has `GENERATE`, which makes no text of tokens"""
        self.scores_given = False
        """whether it scores given tokens at each place (`prompt_logprob_token_ids`)"""
        self.requests = 0
        self._key = api_key()
        self._suspect, self._stop = False, threading.Event()
        self._lock = threading.RLock()  # a request of `verify` may fail too

    def about(self) -> Served:
        """What it says of itself.

        Raises:
            ServerLost, ServerRefused: if it does not.
        """
        return self._tried("/v1/models", lambda: served(self.url, key=self._key, timeout=min(self.timeout, 30.0)))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request.

        Raises:
            ServerLost: after all tries.
            ServerRefused: if it is refused.
        """
        return self._tried(path, lambda: request_json(f"{self.url}{path}", body, key=self._key, timeout=self.timeout))

    def _tried(self, path: str, send: Callable[[], T]) -> T:
        slow = 0
        for pause in (*(self.pauses if self.patient else ()), None):
            try:
                found = send()
            except RequestFailed as error:
                if not error.passing:
                    raise self._refused(path, error) from None
                slow += error.slow
                self._suspect = True
                if pause is None or slow >= SLOW_TRIES or self._stop.wait(pause):
                    raise ServerLost(
                        f"{self.url}{path} does not answer ({error}); start it again, or look at the address, and give "
                        "the same command (trimtab train with --resume goes on from its last checkpoint)"
                    ) from None
                continue
            self.requests += 1
            self._check_back()
            return found
        raise AssertionError("unreachable")

    def _check_back(self) -> None:
        """Hold a server that was gone against what it was."""
        if not self._suspect:
            return
        with self._lock:
            if self._suspect:
                self._suspect = False
                if self.verify is not None:
                    self.verify()

    def _refused(self, path: str, error: RequestFailed) -> ServerRefused:
        if error.status in (401, 403):
            return ServerRefused(f"{self.url} refuses the key ({error}); set {API_KEY} to that of the server")
        return ServerRefused(f"{self.url}{path} refused the request ({error})")

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`function` of all items, several at a time, in their order; the first failure ends all."""
        self._stop.clear()
        pool = ThreadPoolExecutor(max_workers=self.at_a_time)
        try:
            futures = [pool.submit(function, item) for item in items]
            found = [future.result() for future in futures]
        except BaseException:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()
        return found

    def most_likely(self, row: Sequence[int], k: int, places: Sequence[int]) -> ScoredRow:
        """The K most likely tokens at places of a row.

        Args:
            k: at least 0; 0 for the tokens of the row alone.
            places: from 1 on: what is said is about the token there, given those before it.
        """
        ids = [int(one) for one in row]
        if self.tokens_in_out:
            how = {**PLAIN, "prompt_logprobs": k, "detokenize": False}
            found = self.post(GENERATE, {"model": self.model, "token_ids": ids, "sampling_params": how})
            said = found.get("prompt_logprobs") if isinstance(found, dict) else None
        else:
            body = {"model": self.model, "prompt": ids, **PLAIN, "prompt_logprobs": k, "return_token_ids": True}
            choice = self._choices(self.post(COMPLETIONS, body), 1)[0]
            if choice.get("prompt_token_ids", ids) not in (None, ids):
                raise ServerRefused(f"{self.url} read other token ids than it was sent")
            said = choice.get("prompt_logprobs")
        if not isinstance(said, list) or len(said) != len(ids):
            raise ServerRefused(f"{self.url} gave no prompt_logprobs of a row; is it vLLM?")
        return self._read(said, ids, k, places)

    def _read(self, said: list[Any], row: list[int], k: int, places: Sequence[int]) -> ScoredRow:
        """prompt_logprobs, one entry for each token, of which the first is null."""
        scored = ScoredRow([], [], [])
        for place in places:
            entry = said[place]
            if not isinstance(entry, dict) or str(row[place]) not in entry or len(entry) < k:
                raise ServerRefused(f"{self.url} gave no {k} log-probabilities of token {place} of a row; is it vLLM?")
            found = {int(token): number(one["logprob"]) for token, one in entry.items()}
            likeliest = sorted(found.items(), key=lambda one: -one[1])[:k]
            scored.ids.append([token for token, _ in likeliest])
            scored.logprobs.append([logprob for _, logprob in likeliest])
            scored.labels.append(found[row[place]])
        return scored

    def of_tokens(self, row: Sequence[int], places: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """Log-probabilities (nats) of one token at each of some places of a row.

        Args:
            places: in ascending order, see `most_likely`.
        """
        ids = [int(one) for one in row]
        if self.scores_given:
            return self._scored_given(ids, places, tokens)
        return self._as_next(ids, places, tokens)

    def _scored_given(self, row: list[int], places: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """In one request, which names the tokens of each place."""
        first, last = places[0], places[-1]
        asked: list[list[int]] = [[] for _ in range(first, last + 1)]
        column = []
        for place, token in zip(places, tokens, strict=True):
            column.append(len(asked[place - first]))
            asked[place - first].append(int(token))
        wide = max(map(len, asked))
        padded = [[*one, *[-1] * (wide - len(one))] for one in asked]
        how = {**PLAIN, "detokenize": False, "prompt_logprob_token_ids": padded, "prompt_logprob_start": first - 1}
        body = {"model": self.model, "token_ids": row[: last + 1], "sampling_params": how}
        found = self.post(GENERATE, body)
        said = found.get("prompt_token_id_logprobs") if isinstance(found, dict) else None
        if not isinstance(said, str):
            raise ServerRefused(f"{self.url} gave no prompt_token_id_logprobs")
        table = np.load(io.BytesIO(base64.b64decode(said)), allow_pickle=False)
        if table.shape != (len(asked), wide):
            raise ServerRefused(f"{self.url} gave prompt_token_id_logprobs {table.shape}, not {len(asked), wide}")
        return [number(float(table[place - first, at])) for place, at in zip(places, column, strict=True)]

    def _as_next(self, row: list[int], places: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """As the next token of each beginning of the row; the server remembers what it read of the others."""
        wanted = sorted({int(token) for token in tokens})
        body = {
            "model": self.model, "prompt": [row[:place] for place in places], **PLAIN, "logprobs": 1,
            "logprob_token_ids": wanted, "return_tokens_as_token_ids": True,
        }  # fmt: skip
        choices = self._choices(self.post(COMPLETIONS, body), len(places))
        found = []
        for choice, token in zip(choices, tokens, strict=True):
            top = (choice.get("logprobs") or {}).get("top_logprobs") or [{}]
            if f"token_id:{token}" not in top[0]:
                raise ServerRefused(f"{self.url} does not score given tokens (logprob_token_ids); is it vLLM 0.32?")
            found.append(number(top[0][f"token_id:{token}"]))
        return found

    def _choices(self, found: Any, many: int) -> list[dict[str, Any]]:
        """The choices of an answer by their index."""
        choices = found.get("choices") if isinstance(found, dict) else None
        if not isinstance(choices, list) or [one.get("index") for one in choices] != list(range(many)):
            raise ServerRefused(f"{self.url} gave no completion of each prompt; is it vLLM?")
        return choices


def number(said: Any) -> float:
    """A log-probability, as servers write it: minus infinity is a very small number, null or "-inf".

    Raises:
        ServerRefused: for what is none.
    """
    value = LEAST if said is None else float(said)
    if math.isnan(value) or value > 1e-3:
        raise ServerRefused(
            f"the server gave {value:g} where a log-probability belongs; start it with --logprobs-mode raw_logprobs"
        )
    return min(max(value, LEAST), 0.0)
