"""A server that speaks OpenAI's chat completions, as who answers the questions of a suite."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trimtab.common import fingerprint
from trimtab.common.errors import Unanswered
from trimtab.evals.echoes import Echoes
from trimtab.evals.models import Reply
from trimtab.evals.suite import Messages, SuiteError

T = TypeVar("T")
ENDPOINT_KEY = "TRIMTAB_API_KEY"
"""environment variable that holds a server's key"""
OF_THE_ITEM = (400, 413, 422)
"""status codes that refuse the item (a filter, a text that is too long), not the client"""
REFUSED = "refused"
"""how the error of such an item begins"""


class OpenAIModel:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, or a service.

    A request that fails, or whose answer is no answer, is tried again with growing pauses; then it is an error of the
    item, which is asked again when the evaluation is resumed, and never a wrong answer. So is a request that the server
    refuses for what it asks; any other refusal (the key, the address, the model) ends the evaluation.
    A server that cannot be reached at all ends it too: after `FEW` tries at the start, and later where no request was
    answered while one was tried to the end.

    Args:
        url: up to and with /v1.
        model: as the server calls it.
        temperature: 0 for greedy.
        batch: requests at a time.
        tries: of one request.
        pause: seconds before the second try; doubles with each.
        timeout: of one try, seconds.
        tokenizer: of the model, whose chat template writes the prompts that options are compared behind; plain text
            without one. Chats are sent as chats.

    The key is read from the environment variable TRIMTAB_API_KEY and stands nowhere else.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        batch: int = 16,
        tries: int = 5,
        pause: float = 1.0,
        timeout: float = 120.0,
        tokenizer: Any = None,
    ):
        try:
            from openai import OpenAI
        except ImportError:
            raise SuiteError("a server is asked through the package openai: pip install 'trimtab[eval]'") from None
        if not url.startswith(("http://", "https://")):
            address = url.rpartition("://")[2]
            raise SuiteError(f"{url} is no address of a server; write http://{address} or https://{address}")
        self.url, self.name, self.temperature, self.seed, self.batch = url, model, temperature, seed, batch
        self.tries, self.pause = tries, pause
        self.answered = 0
        """requests so far that got an answer of any kind"""
        self._client = OpenAI(
            base_url=url, api_key=os.environ.get(ENDPOINT_KEY, "none"), timeout=timeout, max_retries=0
        )
        self.echoes = Echoes(self._complete, url, tokenizer)

    def facts(self) -> dict[str, str]:
        return {
            "model": f"{self.name} at {self.url}",
            "decoding": f"temperature={self.temperature:g}",
            "seed": str(self.seed),
            **({} if self.echoes.least is None else {"template": self._template()}),
        }

    def _template(self) -> str:
        template = getattr(self.echoes.tokenizer, "chat_template", None)
        return fingerprint.of_text(str(template)) if template else "none, prompts are plain text"

    def answer(self, chats: Sequence[Messages], max_new_tokens: int, seeds: Sequence[int] | None = None) -> list[Reply]:
        """Each drawn by the server's seed, or by one of its own below 2**31."""
        seeds = [self.seed] * len(chats) if seeds is None else seeds
        return [reply for reply, _ in self._all(chats, max_new_tokens, seeds)]

    def whole(self, chats: Sequence[Messages], max_new_tokens: int, seeds: Sequence[int]) -> list[Reply]:
        """Replies as of `answer`; a text that was cut off is empty."""
        return [Reply("") if cut else reply for reply, cut in self._all(chats, max_new_tokens, seeds)]

    def _all(self, chats: Sequence[Messages], max_new_tokens: int, seeds: Sequence[int]) -> list[tuple[Reply, bool]]:
        with ThreadPoolExecutor(max_workers=min(self.batch, len(chats))) as pool:
            return list(pool.map(lambda chat, seed: self._one(chat, max_new_tokens, seed), chats, seeds))

    def compare(self, chats: Sequence[Messages], labels: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        self.echoes.check()
        with ThreadPoolExecutor(max_workers=min(self.batch, len(chats))) as pool:
            return list(pool.map(self.echoes.compare, chats, labels))

    def first_tokens(self, chat: Messages, number: int) -> list[tuple[str, float]] | None:
        """The likeliest first tokens of an answer with their log-probabilities in nats, None from a server that does
        not tell them.

        Raises:
            SuiteError: if the server refuses the request.
            Unanswered: if it does not answer.
        """

        def read(choice: Any) -> list[tuple[str, float]] | None:
            places = getattr(choice.logprobs, "content", None)
            return [(one.token, one.logprob) for one in places[0].top_logprobs or ()] or None if places else None

        found, error = self._ask(read, chat, max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=number)
        if error is None:
            return found
        if error.startswith(REFUSED):
            raise SuiteError(f"{self.url} does not tell the probabilities of tokens ({error})")
        raise Unanswered(f"{self.url}: {error}; the same command goes on")

    def _one(self, chat: Messages, max_new_tokens: int, seed: int) -> tuple[Reply, bool]:
        """A reply, and whether it was cut off."""

        def read(choice: Any) -> tuple[Reply, bool]:
            if not isinstance(choice.message.content, str):
                raise _NoAnswer("the server's answer holds no message")
            return Reply(choice.message.content), choice.finish_reason == "length"

        found, error = self._ask(read, chat, max_tokens=max_new_tokens, temperature=self.temperature, seed=seed)
        return (Reply("", error), False) if found is None else found

    def _ask(self, read: Callable[[Any], T], chat: Messages, **how: Any) -> tuple[T | None, str | None]:
        """What `read` makes of the first choice of an answer to a chat, or why there is none."""

        def read_message(choice: Any) -> T:
            if choice.message is None:
                raise _NoAnswer("the server's answer holds no message")
            return read(choice)

        return self._tried(
            read_message, lambda: self._client.chat.completions.create(model=self.name, **how, **request_of(chat))
        )

    def _complete(self, read: Callable[[Any], T], tries: int | None, **how: Any) -> tuple[T | None, str | None]:
        """As `_ask`, of the completion of a text."""
        return self._tried(read, lambda: self._client.completions.create(model=self.name, seed=self.seed, **how), tries)

    def _tried(
        self, read: Callable[[Any], T], send: Callable[[], Any], tries: int | None = None
    ) -> tuple[T | None, str | None]:
        """What `read` makes of the first choice of what comes back, or why there is none."""
        from openai import APIStatusError, OpenAIError
        from tenacity import RetryError, retry, retry_if_exception, wait_random_exponential

        def may_pass(error: BaseException) -> bool:
            if isinstance(error, APIStatusError):
                return error.status_code in (408, 409, 429) or error.status_code >= 500
            return isinstance(error, (OpenAIError, _NoAnswer, ValueError))

        answered, most = self.answered, tries or self.tries

        def enough(state: Any) -> bool:
            unreachable = not self.answered and _unreachable(state.outcome.exception())
            return state.attempt_number >= (min(most, FEW) if unreachable else most)

        @retry(
            retry=retry_if_exception(may_pass),
            stop=enough,
            wait=wait_random_exponential(multiplier=self.pause, max=60),
        )
        def ask() -> T:
            found = send()
            self.answered += 1
            first = found.choices[0] if getattr(found, "choices", None) else None
            if first is None:
                raise _NoAnswer("the server's answer holds no message")
            return read(first)

        try:
            return ask(), None
        except RetryError as error:
            last = error.last_attempt.exception()
            if _unreachable(last) and self.answered == answered:
                raise Unanswered(_gone(self.url, last)) from None
            return None, f"{type(last).__name__.strip('_')} in {most} tries: {_line(last)}"
        except APIStatusError as error:
            if error.status_code in OF_THE_ITEM:
                return None, f"{REFUSED}: {_line(error)}"
            raise SuiteError(
                f"{self.url} refused the request ({_line(error)}); look at the address, the model's name and "
                f"{ENDPOINT_KEY}"
            ) from None


def request_of(chat: Any) -> dict[str, Any]:
    """Messages, or a task with tools and variables of the template, as a server takes them."""
    if not isinstance(chat, Mapping):
        return {"messages": chat}
    more = {"extra_body": {"chat_template_kwargs": kwargs}} if (kwargs := chat.get("chat_template_kwargs")) else {}
    return {"messages": chat["prompt"], **({"tools": chat["tools"]} if chat.get("tools") else {}), **more}


FEW = 3
"""tries of a server that has never answered"""


def _unreachable(error: BaseException | None) -> bool:
    """Nobody took the request: the address is wrong, or the server is down."""
    from openai import APIConnectionError, APITimeoutError

    if isinstance(error, APITimeoutError):  # a server that is there may only be slow
        return type(error.__cause__).__name__ == "ConnectTimeout"
    return isinstance(error, APIConnectionError)


def _line(error: BaseException | None, length: int = 300) -> str:
    return " ".join(str(error).split())[:length]


def _gone(url: str, error: BaseException | None) -> str:
    cause = getattr(error, "__cause__", None) or error
    return (
        f"{url} cannot be reached ({_line(cause, 200)}); start the server or look at the address, and "
        "give the same command again"
    )


class _NoAnswer(Exception):
    """Something came back that is no chat completion."""
