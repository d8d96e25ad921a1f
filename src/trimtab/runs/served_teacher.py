"""A teacher given as `vllm://HOST:PORT`: probed at the start, held against the recipe, and opened as a signal."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.common.count import count
from trimtab.data.counts import Prepared
from trimtab.data.rows import sequences
from trimtab.engines.address import Address, address_of
from trimtab.engines.scoring import GENERATE, ScoringServer, ServerRefused
from trimtab.runs.models_key import TEACHER, Models
from trimtab.signals.row_store import RowStore
from trimtab.signals.served import ServedTeacher

MOST_LIKELY = 64
"""tokens by default"""
TEXTS = (
    "The bridge was built in 1873, and 45% of it has been mended since (for $3.50 a nail).",
    "def area(r: float) -> float:\n    return 3.14159 * r ** 2\n",
    "Ça va très bien, merci ; 東京は雨 🙂 Привет!",
)
"""that both tokenizers must split alike; the first is what the fingerprint is of"""
PLACES = 32
"""most tokens of the probe whose log-probabilities are told"""
SAME = 0.15
"""nats by which a log-probability may differ on average between two calls; batches change the rounding of bfloat16"""
VALUES = re.compile(r"; values (\S+)$")


@dataclass(frozen=True)
class ServedFacts:
    """What a served teacher is."""

    server: ScoringServer
    k: int
    vocab: int
    """ids that both it and the policy have"""
    longest: int | None
    """most tokens of a row"""
    asks: bool
    """whether it scores given tokens"""
    named: str
    """its model and version, as it says"""
    values: tuple[float, ...]
    """log-probabilities (nats) of the tokens of the probe"""
    notes: tuple[str, ...] = field(default=())
    kind = "topk"

    @property
    def said(self) -> str:
        """For signatures."""
        return f"{self.named}; values {','.join(f'{value:.3f}' for value in self.values)}"

    def said_as(self, before: str | None) -> str:
        """For signatures: as it was said before, where it is the same server up to rounding."""
        return before if before is not None and same_server(before, self.said) else self.said


def same_server(one: str, other: str) -> bool:
    """Whether two lines of signatures are of one server: the same but for the rounding of log-probabilities."""
    found = [VALUES.search(line) for line in (one, other)]
    if one == other:
        return True
    if any(match is None for match in found) or VALUES.sub("", one) != VALUES.sub("", other):
        return False
    first, second = ([float(value) for value in match[1].split(",")] for match in found if match)
    return len(first) == len(second) and apart(first, second) <= SAME


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean distance of log-probabilities, nats."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / max(1, len(one))


def served_address(models: Models) -> Address | None:
    """Of a teacher that is served; None for any other."""
    return address_of(models.teacher) if isinstance(models.teacher, str) else None


def probe(
    models: Models, tokenizer: Any, vocab: int, *, k: int | None = None, server: ScoringServer | None = None
) -> ServedFacts | None:
    """Ask a served teacher what it is, and check that it can be learned from; None for any other teacher.

    Args:
        tokenizer, vocab: of the policy.
        k: that of the recipe by default.
        server: as it is asked; of the address by default.

    Raises:
        ServerLost: if it does not answer.
        ServerRefused: naming what does not fit.
    """
    address = served_address(models)
    if address is None:
        return None
    return _Probe(server or ScoringServer(address), tokenizer, k or models.teacher_k or MOST_LIKELY).facts(vocab)


class _Probe:
    """The questions that a server is asked, in their order."""

    def __init__(self, server: ScoringServer, tokenizer: Any, k: int):
        self.server, self.tokenizer, self.k = server, tokenizer, k
        self.notes: list[str] = []
        self.where = f"models.{TEACHER}: {server.url}"

    def facts(self, vocab: int) -> ServedFacts:
        server, patient = self.server, self.server.patient
        server.patient = False  # one that is not there is said at once
        try:
            named, root, longest, version = self._model()
        finally:
            server.patient = patient
        self._tokenizer()
        both = self._vocabulary(vocab)
        if self.k > both:
            raise ServerRefused(f"models.teacher_k is {self.k}, but the vocabulary has {both:,} tokens")
        self._routes()
        row = self._row(longest)
        values = self._values(row)
        self._two_ways(row, values)
        asks = self._asks(row, values)
        fingerprint = self._fingerprint(row)
        said = f"{named} ({root}), vLLM {version or 'unknown'}, {fingerprint}, k {self.k}"
        facts = ServedFacts(server, self.k, both, longest, asks, said, values, tuple(self.notes))
        server.verify = self._again(row, facts)
        return facts

    def _again(self, row: list[int], facts: ServedFacts) -> Callable[[], None]:
        """What a server that was gone must still say."""

        def verify() -> None:
            now = self.server.about()
            here = now.roots[now.models.index(self.server.model)] if self.server.model in now.models else "none"
            if f"({here}), vLLM {now.version or 'unknown'}," not in facts.named:
                raise ServerRefused(f"{self.where} was started again as another: {here}, vLLM {now.version}")
            if (far := apart(self._values(row), facts.values)) > SAME:
                raise ServerRefused(
                    f"{self.where} was started again with another model: its log-probabilities are {far:.2f} nats "
                    "from those at the start; serve the model that was there, and add --resume"
                )

        return verify

    def _model(self) -> tuple[str, str, int | None, str]:
        said = self.server.about()
        if not self.server.model:
            if len(said.models) != 1:
                listed = ", ".join(said.models) or "none"
                raise ServerRefused(f"{self.where} serves several models ({listed}); write vllm://HOST:PORT/MODEL")
            self.server.model = said.models[0]
        if self.server.model not in said.models:
            raise ServerRefused(
                f"{self.where} serves no model {self.server.model!r}, but {', '.join(said.models) or 'none'}; "
                "name that behind the address, or serve another"
            )
        number = said.models.index(self.server.model)
        return self.server.model, said.roots[number], said.longest[number], said.version

    def _tokenizer(self) -> None:
        for text in TEXTS:
            ours = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            try:
                body = {"model": self.server.model, "prompt": text, "add_special_tokens": False}
                found = self.server.post("/tokenize", body)
            except ServerRefused:
                self.notes.append(
                    f"{self.where} does not tell how it splits text (/tokenize), so its ids were only compared by value"
                )
                return
            theirs = found.get("tokens") if isinstance(found, dict) else None
            if theirs != ours:
                raise ServerRefused(
                    f"{self.where} splits text otherwise than the policy ({_few(theirs)} there, {_few(ours)} here, of "
                    f"{text[:20]!r}), and a teacher is read by token ids; serve one with the policy's tokenizer"
                )

    def _knows(self, token: int) -> bool:
        """Whether it takes a token id."""
        try:
            self.server.most_likely([token, token], 0, [1])
        except ServerRefused as error:
            if "out of vocabulary" in str(error):
                return False
            raise
        return True

    def _vocabulary(self, vocab: int) -> int:
        """The ids that it has of the policy's."""
        if self._knows(vocab - 1):
            return vocab
        low, high = 0, vocab - 1  # the first id that it lacks is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._knows(middle) else (low, middle)
        return high

    def _routes(self) -> None:
        """Which of two ways there is to ask, and whether given tokens are scored at all places at once."""
        how = {"max_tokens": 1, "temperature": 1.0, "detokenize": False, "prompt_logprob_token_ids": [[0]]}
        body = {"model": self.server.model, "token_ids": [1, 1], "sampling_params": how}
        try:
            found = self.server.post(GENERATE, body)
        except ServerRefused as error:
            self.server.tokens_in_out = "HTTP 404" not in str(error) and "HTTP 405" not in str(error)
            return
        self.server.tokens_in_out = True
        self.server.scores_given = isinstance(found, dict) and bool(found.get("prompt_token_id_logprobs"))

    def _row(self, longest: int | None) -> list[int]:
        ids = self.tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"][: PLACES + 1]
        return [int(one) for one in ids][: max(2, longest - 1) if longest else None]

    def _values(self, row: list[int]) -> tuple[float, ...]:
        """Log-probabilities of the tokens of the probe, from a reply that has K tokens at each place."""
        try:
            scored = self.server.most_likely(row, self.k, range(1, len(row)))
        except ServerRefused as error:
            if "greater than max" in str(error):
                raise ServerRefused(
                    f"{self.where} gives fewer log-probabilities than models.teacher_k: {self.k} ({error}); start it "
                    f"with --max-logprobs {self.k}, or lower models.teacher_k"
                ) from None
            raise
        for logprobs in scored.logprobs:
            if (mass := sum(map(math.exp, logprobs))) > 1 + 1e-2:
                raise ServerRefused(
                    f"{self.where}: its {self.k} most likely tokens have {mass:.2f} of the probability together, so "
                    "these are no log-probabilities; start it with --logprobs-mode raw_logprobs"
                )
        return tuple(round(value, 3) for value in scored.labels)

    def _two_ways(self, row: list[int], values: Sequence[float]) -> None:
        """The same number from the row cut short: that of its last token."""
        cuts = sorted({len(row) // 2, len(row) - 1} - {0})
        found = [self.server.most_likely(row[: cut + 1], 0, [cut]).labels[0] for cut in cuts]
        if (far := apart(found, [values[cut - 1] for cut in cuts])) > SAME:
            raise ServerRefused(
                f"{self.where} says {far:.2f} nats apart of a token behind the same text in a longer and a shorter row;"
                " it does not read rows from left to right, or changes them"
            )

    def _asks(self, row: list[int], values: Sequence[float]) -> bool:
        """Whether it scores given tokens, and alike."""
        place = len(row) // 2
        try:
            found = self.server.of_tokens(row, [place], [row[place]])
        except ServerRefused:
            return False
        if abs(found[0] - values[place - 1]) > 2 * SAME:
            raise ServerRefused(
                f"{self.where} scores a given token with {found[0]:.2f} nats and the same one in a row with "
                f"{values[place - 1]:.2f}; start it with --logprobs-mode raw_logprobs"
            )
        return True

    def _fingerprint(self, row: list[int]) -> str:
        """What vLLM makes of its version and settings, the dtype among them."""
        body = {"model": self.server.model, "prompt": row[:2], "max_tokens": 1}
        found = self.server.post("/v1/completions", body)
        return str((found if isinstance(found, dict) else {}).get("system_fingerprint") or "no fingerprint")


def _few(ids: Any) -> str:
    return str(list(ids)[:6]) if isinstance(ids, list) else "nothing"


def open_served(facts: ServedFacts, store: RowStore | None) -> ServedTeacher:
    """The server as a signal."""
    return ServedTeacher(facts.server, facts.k, facts.vocab, asks=facts.asks, store=store)


def check_lengths(facts: ServedFacts, prepared: Prepared) -> None:
    """Check that the server can read every row.

    Raises:
        ServerRefused: naming the first that is too long.
    """
    if facts.longest is None:
        return
    for row in prepared.rows:
        length = max(len(ids) for ids, *_ in sequences(row))
        if length >= facts.longest:  # and one token that it makes
            raise ServerRefused(
                f"{prepared.source}: row {prepared.number(row)} takes {count(length, 'token')}, and the teacher at "
                f"{facts.server.url} reads at most {facts.longest - 1:,}; start it with --max-model-len {length + 1}, "
                "or lower training.max_length"
            )


def note_of(facts: ServedFacts) -> list[str]:
    """What the user should know."""
    how = "all at once" if facts.server.scores_given else "one by one, where they are not among these"
    given = f"; other tokens that the method reads are asked for {how}" if facts.asks else ""
    return [*facts.notes, f"the teacher at {facts.server.url} is known by its {facts.k} most likely tokens{given}"]
