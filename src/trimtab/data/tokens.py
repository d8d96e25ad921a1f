"""Text becomes token ids: the same ones whether a model is trained on it, asked with it or held against it.

A text is tokenised as a whole, and what a model is asked with is the beginning of it. Where a tokenizer would join the
end of a prompt with the beginning of the answer into one token, the prompt keeps the tokens that it has when the model
is asked, and the answer those in which a model writes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import BatchEncoding

from trimtab.data.chat import Chat
from trimtab.data.messages import TEXT, kwargs_of, messages_of, text_of, tools_of
from trimtab.data.sources import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""What a user says, or messages with a role and a content, or a task: these as `prompt`, with `tools` and
`chat_template_kwargs`."""
_MARKERS = ("\n", "a", "1", ".", "我", "\x00")
"""Texts before an answer of which at least one does not grow together with it."""
_KNOWN = 4096
"""tokenised seams that are remembered"""


@dataclass(frozen=True)
class Coded:
    """A text as token ids."""

    ids: list[int]
    answer: list[bool]
    """of each token, whether it stands in an answer"""
    spans: list[tuple[int, int]] | None
    """of each token, the characters of the text that it stands for; none if the tokenizer cannot tell"""
    exact: bool
    """whether the ids are those of the whole text"""


TRIED = 2
"""texts of a call that are tokenised alone too"""


@dataclass(frozen=True)
class _Encoded:
    """What a tokenizer says of a text."""

    input_ids: list[int]
    offset_mapping: list[tuple[int, int]]


@dataclass
class Coder:
    """What of a tokenizer has to be looked up once."""

    tokenizer: Any  # a PreTrainedTokenizerBase
    first: list[int] = field(init=False)
    """ids that the tokenizer puts before a plain text"""
    added: frozenset[int] = field(init=False)
    """ids of texts that are cut out before all else, so that what stands on either side is cut apart"""
    _seams: dict[str, list[int]] = field(default_factory=dict)
    _expected: dict[str, _Encoded] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole: list[int] = list(self.tokenizer("a").input_ids)
        bare = self.ids("a")
        at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self.first = whole[:at]
        known = set(self.tokenizer.added_tokens_decoder) if self.tokenizer.is_fast else set()
        self.added = frozenset(known - {self.tokenizer.unk_token_id})  # that one stands for anything, inside words too

    @contextmanager
    def expecting(self, texts: Iterable[str]) -> Iterator[None]:
        """Within, these texts are tokenised already: all in one call, which a fast tokenizer does many times faster.

        Only where one call gives what single ones give, which is tried with the first of them.
        """
        wanted = list(dict.fromkeys(texts))
        self._expected = self._together(wanted) if len(wanted) > 1 and self.tokenizer.is_fast else {}
        try:
            yield
        finally:
            self._expected = {}

    def _together(self, texts: Sequence[str]) -> dict[str, _Encoded]:
        try:
            found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        except (UnicodeError, TypeError):  # of a text that no tokenizer takes; it is named when it is met
            return {}
        made = [_Encoded(ids, spans) for ids, spans in zip(found["input_ids"], found["offset_mapping"])]
        for text, one in list(zip(texts, made))[:TRIED]:
            alone = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            if list(alone.input_ids) != one.input_ids or list(alone.offset_mapping) != one.offset_mapping:
                return {}
        return dict(zip(texts, made))

    def ids(self, text: str) -> list[int]:
        """Of a text alone, without what the tokenizer puts around texts.

        Raises:
            DataError: if the text holds half of a character, which no tokenizer takes.
        """
        return list(self._encode(text).input_ids)

    def prompt(self, text: str, plain: bool) -> list[int]:
        """What a model is asked with: a `plain` text begins as the tokenizer begins texts, once, and does not end."""
        return self._begun(self.ids(text), plain)

    def pieces(self, pieces: Sequence[tuple[str, bool]], plain: bool) -> Coded:
        """Consecutive pieces of one text.

        Args:
            pieces: texts, and whether each is an answer.
            plain: no chat template wrote them, so the tokenizer begins the text.
        """
        text = "".join(piece for piece, _ in pieces)
        encoded = self._encode(text, spans=self.tokenizer.is_fast)
        ids: list[int] = list(encoded.input_ids)
        spans = [tuple(span) for span in encoded.offset_mapping] if self.tokenizer.is_fast else None
        cuts: list[int] = []
        at = 0
        for (piece, _), (_, answers) in itertools.pairwise(pieces):
            at += len(piece)
            cut = self._before_answer(text, at, ids, spans) if answers else self._after_answer(text, at, ids, spans)
            if cut is None:
                return self._apart(pieces, plain)
            cuts.append(cut)
        owner = [is_answer for (_, is_answer), n in zip(pieces, _lengths(cuts, len(ids))) for _ in range(n)]
        return self._whole(ids, owner, spans, plain, exact=True)

    # ------------------------------------------------------------ where a text is cut

    def _before_answer(self, text: str, at: int, ids: list[int], spans: list[tuple[int, int]] | None) -> int | None:
        """How many of the ids the prompt has that ends at character `at`; none if it has other ones when it is asked.

        Only what follows the last added token before it has to be looked at: texts are cut apart there.
        """
        j, start = 0, 0
        if spans is not None:
            j = next((i for i in reversed(range(len(ids))) if spans[i][1] <= at and ids[i] in self.added), 0)
            start = spans[j][0] if ids and ids[j] in self.added else 0
            j = j if start else 0
        own = self._seam(text[start:at])
        return j + len(own) if ids[j : j + len(own)] == own else None

    def _after_answer(self, text: str, at: int, ids: list[int], spans: list[tuple[int, int]] | None) -> int:
        """How many of the ids begin before character `at`."""
        if spans is not None:
            return next((i for i, (begin, end) in enumerate(spans) if begin >= at and end > begin), len(ids))
        own = self._seam(text[:at])
        return next((i for i, (a, b) in enumerate(zip(own, ids)) if a != b), min(len(own), len(ids)))

    def _seam(self, text: str) -> list[int]:
        if text not in self._seams:
            if len(self._seams) >= _KNOWN:
                self._seams.clear()
            self._seams[text] = self.ids(text)
        return self._seams[text]

    def _apart(self, pieces: Sequence[tuple[str, bool]], plain: bool) -> Coded:
        """Each piece as it goes on behind the ones before."""
        ids: list[int] = []
        owner: list[bool] = []
        spans: list[tuple[int, int]] | None = [] if self.tokenizer.is_fast else None
        at = 0
        for piece, is_answer in pieces:
            own, where = self.continuation(piece) if at else self._alone(piece)
            ids += own
            owner += [is_answer] * len(own)
            if spans is not None and where is not None:
                spans += [(begin + at, end + at) for begin, end in where]
            at += len(piece)
        return self._whole(ids, owner, spans, plain, exact=False)

    def continuation(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """Ids of a text that stands behind another one, and the characters of each; it does not begin as texts do."""
        for marker in _MARKERS:
            own, whole = self._seam(marker), self._encode(marker + text, spans=self.tokenizer.is_fast)
            ids, n = list(whole.input_ids), len(own)
            if ids[:n] == own and (not text or len(ids) > n):
                spans = whole.offset_mapping[n:] if self.tokenizer.is_fast else None
                skip = len(marker)
                return ids[n:], spans and [(max(a - skip, 0), max(b - skip, 0)) for a, b in spans]
        return self._alone(text)

    def _alone(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        encoded = self._encode(text, spans=self.tokenizer.is_fast)
        return list(encoded.input_ids), list(encoded.offset_mapping) if self.tokenizer.is_fast else None

    def _whole(
        self, ids: list[int], owner: list[bool], spans: list[tuple[int, int]] | None, plain: bool, exact: bool
    ) -> Coded:
        begun = self._begun(ids, plain)
        more = len(begun) - len(ids)
        return Coded(begun, [False] * more + owner, None if spans is None else [(0, 0)] * more + spans, exact)

    def _begun(self, ids: list[int], plain: bool) -> list[int]:
        return ids if not plain or ids[: len(self.first)] == self.first else [*self.first, *ids]

    def _encode(self, text: str, spans: bool = False) -> Any:
        if (known := self._expected.get(text)) is not None:
            return known
        try:
            return self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=spans, verbose=False)
        except (UnicodeError, TypeError) as error:
            lone = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
            if lone is None:
                raise
            raise DataError(f"the text holds half of a character ({lone!r} alone), which cannot be read") from error


def _lengths(cuts: Sequence[int], total: int) -> list[int]:
    edges = [0, *cuts, total]
    return [end - begin for begin, end in itertools.pairwise(edges)]


def coder(tokenizer: PreTrainedTokenizerBase) -> Coder:
    """The one of this tokenizer, made anew where tokens were added to it."""
    found, size = getattr(tokenizer, "_trimtab_coder", (None, 0))
    if found is None or size != len(tokenizer):
        found = Coder(tokenizer)
        tokenizer._trimtab_coder = (found, len(tokenizer))  # type: ignore[attr-defined]
    return found


# ---------------------------------------------------------------- asking


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    where: str,
    *,
    plain: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[str, bool]:
    """What the model reads before it answers, and whether that is plain text, which the tokenizer has to begin.

    A prompt is a chat, or what a user says; if `plain`, where the tokenizer has no chat template, and as one message of
    the role `TEXT`, it is text to go on with (messages of a chat then stand below each other).

    Raises:
        DataError: if the template does not take it.
    """
    tools = None
    if isinstance(prompt, Mapping):
        tools, kwargs = tools_of(prompt, where), {**(kwargs or {}), **kwargs_of(prompt, where)}
        prompt = prompt["prompt"]
    assert not isinstance(prompt, Mapping)
    if plain or tokenizer.chat_template is None or is_text(prompt):
        return prompt if isinstance(prompt, str) else "\n\n".join(text_of(m.get("content")) for m in prompt), True
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    given = Chat(tokenizer, messages_of(chat, "the prompt", where), where, tools, kwargs or {})
    return given.fitted(prompt=True).render(prompt=True), False


def is_text(prompt: Prompt) -> bool:
    """Whether a prompt is one message of the role `TEXT`."""
    return isinstance(prompt, list) and len(prompt) == 1 and prompt[0].get("role") == TEXT


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, where: str, **how: Any) -> list[int]:
    """The ids of `prompt_text`, whose arguments these are."""
    return coder(tokenizer).prompt(*prompt_text(tokenizer, prompt, where, **how))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    plain: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> BatchEncoding:
    """Input ids and attention mask [B, T], padded on the left, as `model.generate` wants them; see `prompt_text`."""
    rows = [
        prompt_ids(tokenizer, one, f"prompt {i}", plain=plain, kwargs=kwargs) for i, one in enumerate(prompts, start=1)
    ]
    return padded(rows, int(tokenizer.pad_token_id or 0))  # type: ignore[arg-type]


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> BatchEncoding:
    """Input ids and attention mask [B, T] of rows of ids, padded on the left."""
    width = max(map(len, rows))
    ids: Tensor = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
    return BatchEncoding({"input_ids": ids, "attention_mask": mask})


def answer_tails(tokenizer: PreTrainedTokenizerBase, text: str, answers: Iterable[str], plain: bool) -> list[list[int]]:
    """The ids that each answer adds behind a prompt; those of a text as a whole where the prompt keeps its own."""
    found = coder(tokenizer)
    coded = [found.pieces([(text, False), (answer, True)], plain) for answer in answers]
    return [[i for i, own in zip(one.ids, one.answer) if own] for one in coded]
