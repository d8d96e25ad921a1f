"""Probabilities of options by a server of chat completions that tells the likeliest first tokens of its answer."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from trimtab.evals.models import Reply
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.suite import Messages, SuiteError

MOST = 20
"""likeliest tokens that OpenAI's interface tells at most"""


class FirstTokens:
    """A server whose options are compared by the first token of its answer; what it writes is as of `OpenAIModel`.

    A label's probability is that of the tokens which are the label, with or without a space in front; a label that is
    not among the `MOST` likeliest tokens has none. So labels must be short: digits and letters.
    """

    def __init__(self, server: OpenAIModel):
        self.server, self.batch, self.name = server, server.batch, server.name

    def facts(self) -> dict[str, str]:
        return {**self.server.facts(), "options": f"by the {MOST} likeliest first tokens"}

    def answer(self, chats: Sequence[Messages], max_new_tokens: int) -> list[Reply]:
        return self.server.answer(chats, max_new_tokens)

    def compare(self, chats: Sequence[Messages], labels: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Label -> log-probability in nats, -inf where it is not among the likeliest tokens.

        Raises:
            SuiteError: if the server does not tell the probabilities, or refuses the request.
        """
        with ThreadPoolExecutor(max_workers=min(self.batch, len(chats))) as pool:
            return list(pool.map(self._one, chats, labels))

    def _one(self, chat: Messages, labels: Sequence[str]) -> dict[str, float]:
        found = self.server.first_tokens(chat, MOST)
        if found is None:
            raise SuiteError(f"{self.server.url} does not tell the probabilities of tokens")
        return by_label(found, labels)


def by_label(tokens: Sequence[tuple[str, float]], labels: Sequence[str]) -> dict[str, float]:
    """Label -> log of the summed probabilities of its tokens (text, log-probability in nats), -inf without any."""
    shares = dict.fromkeys(labels, 0.0)
    for token, logprob in tokens:
        if token.strip() in shares:
            shares[token.strip()] += math.exp(logprob)
    return {label: math.log(share) if share else -math.inf for label, share in shares.items()}


def comparing(server: OpenAIModel, chat: Messages, labels: Sequence[str]) -> tuple[FirstTokens | None, str]:
    """The server compared by first tokens, after a try with an item's chat and labels; or None and why it cannot."""
    one = FirstTokens(server)
    try:
        found = one.compare([chat], [labels])[0]
    except SuiteError:
        return None, "the server tells no probabilities of tokens"
    if max(found.values()) > -math.inf:
        return one, ""
    return None, "no option is among the server's likeliest first tokens"
