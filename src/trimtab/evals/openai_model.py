"""A server that speaks OpenAI's chat completions, as who answers the questions of a suite."""

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trimtab.common import fingerprint
from trimtab.common.count import count
from trimtab.common.errors import Unanswered, UserError
from trimtab.data.tokens import is_text
from trimtab.engines.http import API_KEY
from trimtab.evals.echoes import Echoes
from trimtab.evals.models import CutReply, Reply
from trimtab.evals.pauses import LONGEST_PAUSE, asked_pause
from trimtab.evals.spending import RequestBudget, Usage, prompt_tokens
from trimtab.evals.suite import Messages, SuiteError

T = TypeVar("T")
OF_THE_ITEM = (400, 413, 422)
"""status codes that refuse the item (a filter, a text that is too long), not the client"""
REFUSED = "refused"
"""how the error of such an item begins"""


class OpenAIModel:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, or a service.

    A request that fails, or whose answer is no answer, is tried again with growing pauses, or after the pause that the
    server asks for (Retry-After); then it is an error of the item, which is asked again when the evaluation is resumed,
    and never a wrong answer. So is a request that the server refuses for what it asks; any other refusal (the key, the
    address, the model) ends the evaluation.
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
        key_env: the environment variable with the key, which stands nowhere else; messages leave it out.
        served_as: the name of the model that answers must carry, or a dated version of it; None: any.
        served_by: how users give that name, for messages.
        budget: asked before each request.
        sleep: how pauses are made; by default they end when `stopped` is set, after which nothing is sent.
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
        key_env: str = API_KEY,
        served_as: str | None = None,
        served_by: str = "--served-as ",
        budget: RequestBudget | None = None,
        sleep: Callable[[float], Any] | None = None,
    ):
        try:
            from openai import OpenAI
        except ImportError:
            raise SuiteError("a server is asked through the package openai: pip install openai") from None
        if not url.startswith(("http://", "https://")):
            address = url.rpartition("://")[2]
            raise SuiteError(f"{url} is no address of a server; write http://{address} or https://{address}")
        self.url, self.name, self.temperature, self.seed, self.batch = url, model, temperature, seed, batch
        self.tries, self.pause = tries, pause
        self.key_env, self.budget = key_env, budget or RequestBudget()
        self.served_as, self.served_by = served_as, served_by
        self.stopped = threading.Event()
        self.sleep: Any = sleep or self.rest
        self.answered = 0
        """requests so far that got an answer of any kind"""
        self._key = os.environ.get(key_env, "").strip()
        self._client = OpenAI(base_url=url, api_key=self._key or "none", timeout=timeout, max_retries=0)
        self.echoes = Echoes(self._complete, url, tokenizer)

    def rest(self, seconds: float) -> None:
        """Pause, as long as `stopped` is not set."""
        self.stopped.wait(seconds)

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
        with ThreadPoolExecutor(max_workers=min(self.batch, len(chats))) as pool:
            return list(pool.map(lambda chat, seed: self.sample(chat, max_new_tokens, seed)[0], chats, seeds))

    def whole(self, chats: Sequence[Messages], max_new_tokens: int, seeds: Sequence[int]) -> list[Reply]:
        """Replies as of `answer`; a text that was cut off is empty."""
        return [Reply("") if reply.cut else reply for reply in self.answer(chats, max_new_tokens, seeds)]

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

    def sample(self, chat: Messages, max_new_tokens: int, seed: int) -> tuple[Reply, Usage]:
        """A reply, and what all tries of it cost.

        Raises:
            BudgetReached: if the budget does not allow it.
            SuiteError, Unanswered: if the server refuses the request, or is not there.
        """

        def read(choice: Any) -> Reply:
            if choice.finish_reason == "content_filter":
                return Reply("", f"{REFUSED}: the server's content filter ended the answer")
            if not isinstance(choice.message.content, str):
                raise _NoAnswer("the server's answer holds no message")
            return (CutReply if choice.finish_reason == "length" else Reply)(choice.message.content)

        usage = Usage()
        how = {"max_tokens": max_new_tokens, "temperature": self.temperature, "seed": seed}
        found, error = self._ask(read, chat, usage, **how)
        return (Reply("", error) if found is None else found), usage

    def turn(self, chat: Messages | Mapping[str, Any], max_new_tokens: int, seed: int) -> tuple[Any, Usage]:
        """The message that answers a chat, which may be text and calls of tools, and what all tries of it cost.

        Raises:
            BudgetReached: if the budget does not allow it.
            SuiteError: if the server refuses the request.
            Unanswered: if it does not answer.
        """
        usage = Usage()
        how = {"max_tokens": max_new_tokens, "temperature": self.temperature, "seed": seed % 2**31}
        found, error = self._ask(lambda choice: choice.message, chat, usage, **how)  # type: ignore[arg-type]
        if error is None:
            return found, usage
        raise (SuiteError if error.startswith(REFUSED) else Unanswered)(f"{self.url}: {error}")

    def _ask(
        self, read: Callable[[Any], T], chat: Messages, usage: Usage | None = None, **how: Any
    ) -> tuple[T | None, str | None]:
        """What `read` makes of the first choice of an answer to a chat, or why there is none."""

        def read_message(choice: Any) -> T:
            if choice.message is None:
                raise _NoAnswer("the server's answer holds no message")
            return read(choice)

        def send() -> Any:
            with self.budget.request(prompt_tokens(chat), how["max_tokens"]) as used:
                try:
                    found = self._client.chat.completions.create(model=self.name, **how, **request_of(chat))
                    self._count(found, used)
                finally:
                    if usage is not None:
                        usage.add(used)
            return found

        return self._tried(read_message, send)

    def _count(self, found: Any, used: Usage) -> None:
        counted = getattr(found, "usage", None)
        numbers = [getattr(counted, name, None) for name in ("prompt_tokens", "completion_tokens")]
        if all(isinstance(number, int) for number in numbers):
            used.prompt, used.completion = numbers  # type: ignore[assignment]
        else:
            self.budget.uncounted()

    def _check_name(self, found: Any) -> None:
        """Raise a SuiteError if another model has answered than the one that was asked."""
        name = getattr(found, "model", None)
        if self.served_as is None or not isinstance(name, str) or is_version(name, self.served_as):
            return
        raise SuiteError(
            f"{self.url} answered as {name!r}, but {self.served_as!r} was asked; ask for that model by its name, or, "
            f"where it is the same one, add {self.served_by}{name}"
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

        growing = wait_random_exponential(multiplier=self.pause, max=60)

        def may_pass(error: BaseException) -> bool:
            if isinstance(error, UserError):
                return False
            if isinstance(error, APIStatusError):
                return error.status_code in (408, 409, 429) or error.status_code >= 500
            return isinstance(error, (OpenAIError, _NoAnswer, ValueError))

        answered, most = self.answered, tries or self.tries

        def enough(state: Any) -> bool:
            failed = state.outcome.exception()
            if self.stopped.is_set() or (asked_pause(failed) or 0.0) > LONGEST_PAUSE:
                return True
            unreachable = not self.answered and _unreachable(failed)
            return state.attempt_number >= (min(most, FEW) if unreachable else most)

        def pause(state: Any) -> float:
            asked = asked_pause(state.outcome.exception())
            return growing(state) if asked is None else asked

        @retry(
            retry=retry_if_exception(may_pass),
            stop=enough,
            wait=pause,
            sleep=self.sleep,
        )
        def ask() -> T:
            found = send()
            self.answered += 1
            self._check_name(found)
            first = found.choices[0] if getattr(found, "choices", None) else None
            if first is None:
                raise _NoAnswer("the server's answer holds no message")
            return read(first)

        try:
            return ask(), None
        except RetryError as error:
            last, number = error.last_attempt.exception(), error.last_attempt.attempt_number
            if _unreachable(last) and self.answered == answered and not self.stopped.is_set():
                raise Unanswered(self._hidden(_gone(self.url, last))) from None
            number_of = count(number, "try", "tries")
            asked = asked_pause(last) or 0.0
            long = f" (it asks to wait {asked:,.0f} seconds)" if asked > LONGEST_PAUSE else ""
            return None, f"{type(last).__name__.strip('_')} in {number_of}: {self._hidden(_line(last))}{long}"
        except APIStatusError as error:
            if error.status_code in OF_THE_ITEM:
                return None, f"{REFUSED}: {self._hidden(_line(error))}"
            raise SuiteError(
                f"{self.url} refused the request ({self._hidden(_line(error))}); look at the address, the model's name "
                f"and {self.key_env}"
            ) from None

    def _hidden(self, text: str) -> str:
        """A message without the key, which some servers and libraries repeat."""
        return text.replace(self._key, "***") if self._key else text


def request_of(chat: Any) -> dict[str, Any]:
    """Messages, or a task with tools and variables of the template, as a server takes them."""
    if is_text(chat):
        raise SuiteError(
            "this prompt is text to go on with, but a server is asked by chats; choose another prompt or mode"
        )
    if not isinstance(chat, Mapping):
        return {"messages": chat}
    more = {"extra_body": {"chat_template_kwargs": kwargs}} if (kwargs := chat.get("chat_template_kwargs")) else {}
    return {"messages": chat["prompt"], **({"tools": chat["tools"]} if chat.get("tools") else {}), **more}


def is_version(name: str, asked: str) -> bool:
    """Whether a model that answers is the one asked for, or a dated version of it: gpt-4o-2024-08-06, gpt-4-0613."""
    return name == asked or bool(re.fullmatch(re.escape(asked) + r"[-@](\d{4}|\d{6}|\d{8}|\d{4}-\d\d-\d\d)", name))


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
