"""The probabilities of options by a server that echoes a text with the log-probabilities of its tokens.

Completions (not of chats) of vLLM and others do that with `echo` and `logprobs`. A label has the tokens that the prompt
with it has beyond those of the prompt alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from trimtab.common.errors import Unanswered
from trimtab.data.tokens import coder, prompt_text
from trimtab.evals.suite import Messages, SuiteError

ECHOED = "One two three"
"""what a server is to echo, to find out whether it does"""
Token = tuple[str, float | None]
"""its text, and its log-probability in nats; the first of a text has none"""


class NoEcho(Exception):
    """Something came back that is no echo."""


class Echoes:
    """A server as far as it echoes.

    Args:
        send: a request for a completion, with its arguments and so many tries (None: the usual number), read by a
            function of its first choice -> what that read, or why there is nothing.
        url: for messages.
        tokenizer: whose chat template writes prompts; None for plain text.
    """

    def __init__(self, send: Callable[..., tuple[Any, str | None]], url: str, tokenizer: Any = None):
        self.send, self.url, self.tokenizer = send, url, tokenizer
        self.least: int | None = None
        """new tokens of a request, once it is known that there is an echo"""

    def check(self) -> None:
        """Find out whether the server echoes.

        Raises:
            SuiteError: with what it does instead.
        """
        if self.least is not None:
            return
        reason = ""
        for least in (0, 1):  # some servers want at least one new token
            try:
                found = self._echo(ECHOED, least, tries=1)
            except NoEcho as error:
                reason = str(error)
                continue
            except SuiteError as error:  # of the address or the key
                reason = f"it {str(error).removeprefix(f'{self.url} ').partition(';')[0]}"
                continue
            except Unanswered as error:
                reason = str(error)
                break
            if len(found) > 1 and all(value is not None for _, value in found[1:]):
                self.least = least
                return
            reason = "its logprobs leave tokens of the prompt out"
        raise SuiteError(
            f"{self.url} cannot compare options: {reason}. That takes completions with `echo` and `logprobs`, as vLLM "
            "has them; use --mode generate, or load the model here"
        )

    def compare(self, chat: Messages, labels: Sequence[str]) -> dict[str, float]:
        """Label -> its log-probability behind a prompt.

        Raises:
            SuiteError: if a label has no tokens of its own.
            Unanswered: if the server does not answer.
        """
        text, plain = prompt_text(self.tokenizer, chat, "the prompt", plain=self.tokenizer is None)
        text = text if plain else without_begin(self.tokenizer, text)
        space = " " if plain and not text.endswith((" ", "\n")) else ""
        assert self.least is not None
        try:
            prompt, found = self._echo(text, self.least), {}
            for label in labels:
                whole = self._echo(text + space + label, self.least)
                rest = whole[len(prompt) :]
                if [token for token, _ in whole[: len(prompt)]] != [token for token, _ in prompt] or not rest:
                    raise SuiteError(
                        f"{self.url}: its tokenizer joins the end of the prompt ({text[-20:]!r}) and the option "
                        f"{label!r} into one token, so the option has no probability of its own; use --mode generate"
                    )
                if any(value is None for _, value in rest):
                    raise NoEcho(f"tokens of the option {label!r} came back without log-probabilities")
                found[label] = sum(value for _, value in rest if value is not None)
        except NoEcho as error:
            raise Unanswered(f"{self.url}: {error}; the same command goes on") from None
        return found

    def _echo(self, text: str, least: int, tries: int | None = None) -> list[Token]:
        def read(choice: Any) -> list[Token]:
            logprobs = getattr(choice, "logprobs", None)
            tokens: list[str] = list(getattr(logprobs, "tokens", None) or ())
            values: list[float | None] = list(getattr(logprobs, "token_logprobs", None) or ())
            if not isinstance(getattr(choice, "text", None), str):
                raise NoEcho("what came back is no completion")
            if not tokens or len(tokens) != len(values):
                raise NoEcho("its completions hold no logprobs")
            if not choice.text.startswith(text):
                raise NoEcho("it does not echo the prompt")
            full = getattr(choice, "finish_reason", None) == "length"
            return list(zip(tokens, values))[: _number_of(tokens, text, least, full=full)]

        found, error = self.send(read, tries, prompt=text, max_tokens=least, echo=True, logprobs=1, temperature=0.0)
        if error is not None:
            raise NoEcho(error)
        return found


def _number_of(tokens: Sequence[str], text: str, least: int, *, full: bool) -> int:
    """How many tokens are those of an echoed text; behind them stand new ones where some were asked for.

    Args:
        full: that there are as many new ones as were asked for. Then they are only counted where the tokens, of which
            some may be parts of a letter, do not make up the text.
    """
    if not least:
        return len(tokens)
    number = len(tokens)
    while number > 1 and not tokens[number - 1]:  # an end token, shown as nothing
        number -= 1
    while number > 1 and not "".join(tokens[:number]).endswith(text):
        number -= 1
        if number < len(tokens) - least - 1:
            if full and len(tokens) > least:
                return len(tokens) - least
            raise NoEcho("the tokens that it names do not make up the text")
    return number


def without_begin(tokenizer: Any, text: str) -> str:
    """A rendered prompt as a server takes a text, before which it puts the begin token itself."""
    first = coder(tokenizer).first
    return text.removeprefix(tokenizer.decode(first)) if first else text
