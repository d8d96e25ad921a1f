"""Two tokenizers on one answer: which tokens of one stand for the same bytes as which of the other.

A *segment* is a stretch of the answer at both of whose ends both tokenizations have a boundary; the segments of an
answer are its common refinement, as fine as both allow. The probability of a segment within a model is the product of
the conditional probabilities of its tokens there.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

OUTSIDE = -1
"""The segment of a token that belongs to none."""
_BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}


@dataclass(frozen=True)
class Pieces:
    """The tokens of an answer, in bytes of the text that both sides hold, from its beginning."""

    spans: list[tuple[int, int]]
    """of each token; several may share those of a character that they are parts of; the end token is [L, L + 1)"""
    begins: list[int | None]
    """where the token itself begins, if its bytes are those of the text there"""


@dataclass(frozen=True)
class Alignment:
    """Segments, numbered from 0 in the order of the answer."""

    student: list[int]
    """of each student token its segment, or `OUTSIDE`"""
    teacher: list[int]
    compared: list[bool]
    """of each segment, whether its first tokens begin at the same byte, so that the vocabularies can be compared"""


def align(student: Pieces, teacher: Pieces) -> Alignment:
    """The segments that two tokenizations of one text have in common.

    Tokens before the first boundary of both, or behind the last, are `OUTSIDE`.
    """
    ours, theirs = _boundaries(student.spans), _boundaries(teacher.spans)
    cuts: list[tuple[int, int]] = []  # numbers of tokens before a common boundary
    i = j = 0
    while i < len(ours) and j < len(theirs):
        (low, high, before), (their_low, their_high, their_before) = ours[i], theirs[j]
        if low <= their_high and their_low <= high:
            cuts.append((before, their_before))
            i, j = i + 1, j + 1
        elif high < their_low:
            i += 1
        else:
            j += 1
    in_student, in_teacher = [OUTSIDE] * len(student.spans), [OUTSIDE] * len(teacher.spans)
    compared = []
    for segment, ((a, b), (c, d)) in enumerate(itertools.pairwise(cuts)):
        in_student[a:c] = [segment] * (c - a)
        in_teacher[b:d] = [segment] * (d - b)
        begin = student.begins[a]
        compared.append(begin is not None and begin == teacher.begins[b])
    return Alignment(in_student, in_teacher, compared)


def _boundaries(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(lowest byte, highest byte, tokens before) of each place between tokens that parts the text.

    Where a tokenizer drops white space, any byte of it is the boundary. A token of no width belongs to the next one,
    and tokens that share a character belong together.
    """
    if not spans:
        return []
    begins = [begin for begin, _ in spans]
    for i in reversed(range(len(begins) - 1)):  # the least beginning from here on
        begins[i] = min(begins[i], begins[i + 1])
    found, done = [(begins[0], begins[0], 0)], begins[0]
    for number, (begin, end) in enumerate(spans, start=1):
        done = max(done, end)
        following = begins[number] if number < len(spans) else done
        if done <= following and begin < end:
            found.append((done, following, number))
    return found


def pieces(
    text: bytes, spans: Sequence[tuple[int, int]], tokens: Sequence[bytes | None], ends: Sequence[bool]
) -> tuple[Pieces, slice]:
    """The tokens that stand for `text`, and which of all of them these are.

    Args:
        text: what both sides hold of the answer.
        spans: of each token of the answer, bytes from the beginning of `text`; those that lie outside of it, such as
            white space that a template writes around an answer, are left out.
        tokens: the bytes of each; None of a token that is no text.
        ends: of each, whether it is the token that ends the answer.
    """
    length = len(text)
    inside = [
        i
        for i, ((begin, end), is_end) in enumerate(zip(spans, ends))
        if is_end or ((end > 0 or begin == 0) and (begin < length or end == length))
    ]
    first, last = (inside[0], inside[-1] + 1) if inside else (0, 0)
    found, begins = [], []
    for (begin, end), token, is_end in zip(spans[first:last], tokens[first:last], ends[first:last]):
        if is_end:
            found.append((length, length + 1))
            begins.append(max(begin, length))
            continue
        before = found[-1][1] if found else 0
        found.append((min(max(begin, 0), length), min(max(end, 0), length)))
        begins.append(_begin(text, token, begin, before))
    return Pieces(found, begins), slice(first, last)


def _begin(text: bytes, token: bytes | None, begin: int, before: int) -> int | None:
    """Where a token begins, if its bytes stand there; the space before it may be missing from its span."""
    if not token or begin < 0:
        return None
    if text.startswith(token, begin):
        return begin
    return begin - 1 if begin - 1 >= before and text.startswith(token, begin - 1) else None


# ---------------------------------------------------------------- tokens as bytes


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The bytes of text that each id stands for, where it does not begin a text; None of special tokens."""
    how = _writing(tokenizer)
    special = set(tokenizer.all_special_ids)
    added: dict[int, Any] = dict(tokenizer.added_tokens_decoder)
    special |= {i for i, token in added.items() if token.special}
    found: list[bytes | None] = [None] * (max(tokenizer.get_vocab().values(), default=-1) + 1)
    for token, i in tokenizer.get_vocab().items():
        if i not in special:
            found[i] = token.encode() if i in added else how(token)
    return found


def _writing(tokenizer: PreTrainedTokenizerBase) -> Any:
    """token -> its bytes, by what the tokenizer's decoder does."""
    kinds = _decoders(json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder"))  # type: ignore[attr-defined]
    if "ByteLevel" in kinds:
        return _byte_level
    if "WordPiece" in kinds:
        return _word_piece
    return functools.partial(_spaced, spaces=bool(kinds & {"Metaspace", "Replace"}), fallback="ByteFallback" in kinds)


def _decoders(decoder: Any) -> set[str]:
    if not decoder:
        return set()
    parts = decoder.get("decoders", [])
    return {decoder["type"]}.union(*map(_decoders, parts))


def _byte_level(token: str) -> bytes | None:
    known = [_BYTE_OF.get(character) for character in token]
    return None if None in known else bytes(byte for byte in known if byte is not None)


def _word_piece(token: str) -> bytes:
    return token[2:].encode() if token.startswith("##") else b" " + token.encode()


def _spaced(token: str, spaces: bool, fallback: bool) -> bytes:
    if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return (token.replace("▁", " ") if spaces else token).encode()


def common_tokens(
    student: Sequence[bytes | None], teacher: Sequence[bytes | None], student_vocab: int, teacher_vocab: int
) -> tuple[list[int], list[int]]:
    """Ids of the tokens that both vocabularies hold, by their bytes, in the student's order; the lowest id of a side
    where several are the same bytes."""
    theirs: dict[bytes, int] = {}
    for i, token in enumerate(teacher[:teacher_vocab]):
        if token:
            theirs.setdefault(token, i)
    ours: dict[bytes, int] = {}
    for i, token in enumerate(student[:student_vocab]):
        if token and token in theirs:
            ours.setdefault(token, i)
    return list(ours.values()), [theirs[token] for token in ours]
