"""Answers scored token by token with a trained reward model: encoded, in batches of like length."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trimtab.common import fingerprint
from trimtab.common.errors import UserError
from trimtab.core import IGNORE, TokenBatch
from trimtab.data.collate import Collator
from trimtab.data.rows import answer_offsets, prepare
from trimtab.data.sources import DataError, Row
from trimtab.evals.scored import Answer, Scored, Span, digits, read, step_tokens
from trimtab.models import limits, loading
from trimtab.models.ends import end_tokens
from trimtab.models.limits import check_ids
from trimtab.signals.reward_model import TokenRewardModel, load_reward_model

LONGEST = 4096
"""tokens of prompt and answer, unless the model reads fewer"""


class ScoreError(UserError):
    """Rows that cannot be scored."""


@dataclass
class Encoded:
    """An answer as a model takes it."""

    answer: Answer
    row: dict[str, Any]
    """`input_ids`, `labels` and `row_id`"""
    tokens: list[str]
    offsets: list[Span]
    truncated: bool


@dataclass
class ScoreCounts:
    """What became of the answers."""

    answers: int = 0
    truncated: int = 0
    no_end: int = 0
    """whole, but their last token is no end token"""
    left_out: dict[str, int] = field(default_factory=dict)
    """reason -> pairs, or answers"""

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


def score(
    model: TokenRewardModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    source: str = "rows",
    max_length: int = LONGEST,
    batch_size: int = 16,
) -> Iterator[Scored]:
    """Score the answers of rows, the longest first, on the device that the model is on.

    Args:
        model: see `load_reward_model`.
        rows: pairs, answers or steps, see `trimtab.evals.scored.read`.
        max_length: tokens of prompt and answer; what is longer loses the end of its answer, and an answer whose prompt
            alone is longer is left out. So are pairs of equal answers and those with an empty side.

    Raises:
        DataError: for a row that cannot be read.
        ScoreError: if a row holds a token that the model does not know, or a score is not finite.
    """
    encoded, _ = encode(read(rows, source), tokenizer, max_length, source)
    for batch in batches(model, encoded, batch_size, source):
        yield from batch


def encode(
    answers: Sequence[Answer], tokenizer: PreTrainedTokenizerBase, max_length: int, source: str = "rows"
) -> tuple[list[Encoded], ScoreCounts]:
    """Token ids of answers with the text of each answer token; of pairs both or none.

    Raises:
        DataError: naming the row that cannot be read.
    """
    coded: dict[str, Encoded] = {}
    for side in dict.fromkeys(one.side for one in answers):
        own = [one for one in answers if one.side == side]  # one of each row, so that messages name the right one
        given = [one.given for one in own]
        for row in prepare(given, tokenizer, max_length=10**9, source=source, end_ids=end_tokens(tokenizer)).rows:
            one = own[row["row_id"]]
            coded[one.id] = _encoded(one, row, tokenizer, max_length, f"{source}: row {one.row + 1}")
    counts, found = ScoreCounts(), []
    sides: dict[int, list[Answer]] = {}
    for one in answers:
        sides.setdefault(one.row, []).append(one)
    for of_row in sides.values():
        own = [coded[one.id] for one in of_row if one.id in coded]
        if len(own) < len(of_row) and len(of_row) == 1:
            raise DataError(f"{source}: row {of_row[0].row + 1} has no answer token to score; take such rows out")
        if len(own) < len(of_row):
            counts.leave_out("pairs with an empty side")
        elif not all(one.tokens for one in own):
            counts.leave_out("rows whose prompt alone is too long")
        elif len(own) == 2 and own[0].row["input_ids"] == own[1].row["input_ids"]:
            counts.leave_out("pairs with two answers that are the same")
        else:
            found += own
    ends = end_tokens(tokenizer)
    counts.answers = len(found)
    counts.truncated = sum(one.truncated for one in found)
    counts.no_end = sum(not one.truncated and one.row["input_ids"][-1] not in ends for one in found)
    return found, counts


def _encoded(
    answer: Answer, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int, where: str
) -> Encoded:
    ids = [label for label in row["labels"] if label != IGNORE]
    offsets = answer_offsets(answer.given, tokenizer, where, end_tokens(tokenizer))
    offsets, skipped = offsets[len(offsets) - len(ids) :], offsets[: len(offsets) - len(ids)]  # nothing predicts id 0
    at = max((end for _, end in skipped), default=0)
    tokens = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        tokens.append(answer.text[at:end] if start < end and end > at else str(tokenizer.decode([token])))
        at = max(at, end)
    cut = max(0, len(row["input_ids"]) - max_length)
    kept = {**row, "input_ids": row["input_ids"][:max_length], "labels": row["labels"][:max_length]}
    left = max(0, len(ids) - cut)
    if answer.ends and not cut:
        step_tokens(answer, offsets, where)  # before anything is scored
    return Encoded(answer, kept, tokens[:left], offsets[:left], cut > 0)


def batches(
    model: TokenRewardModel,
    encoded: Sequence[Encoded],
    batch_size: int,
    source: str = "rows",
    done: AbstractSet[str] = frozenset(),
) -> Iterator[list[Scored]]:
    """Scores of the batches of `shards`.

    Raises:
        ScoreError: see `score`.
    """
    check_known_ids(model, encoded, source)
    return map(partial(score_batch, model, source), shards(encoded, batch_size, done))


def scorer(name: str, expected: str, source: str, **how: Any) -> Callable[[Sequence[Encoded]], list[Scored]]:
    """`score_batch` of a reward model that is loaded now, where a worker runs.

    Args:
        name: its folder or Hub id.
        expected: its fingerprint.
        how: as of `load_reward_model`.

    Raises:
        ScoreError: if another model lies there.
    """
    model = load_reward_model(name, **how)
    fingerprint.check_model(model.model, expected, name, ScoreError)
    for one in model.models:
        one.to(loading.device())  # type: ignore[arg-type]
    return partial(score_batch, model, source)


def shards(
    encoded: Sequence[Encoded], batch_size: int, done: AbstractSet[str] = frozenset()
) -> Iterator[list[Encoded]]:
    """Batches of answers of like length, longest first. They depend on all answers, whatever is done.

    Args:
        done: ids of answers that are passed over.
    """
    order = sorted(encoded, key=lambda one: -len(one.row["input_ids"]))
    for start in range(0, len(order), batch_size):
        own = [one for one in order[start : start + batch_size] if one.answer.id not in done]
        if own:
            yield own


def check_known_ids(model: TokenRewardModel, encoded: Sequence[Encoded], source: str) -> None:
    """Raise a ScoreError for an answer with a token that the model does not know."""
    vocab = vocabulary(model)
    for one in encoded:
        highest = max(one.row["input_ids"])
        if highest >= vocab:
            raise ScoreError(
                f"{source}: row {one.answer.row + 1} holds the token id {highest}, which the reward model's vocabulary "
                f"({vocab}) does not; its folder holds the tokenizer of another model"
            )


def vocabulary(model: TokenRewardModel) -> int:
    """Ids that all its models know."""
    return min(one.config.get_text_config().vocab_size for one in model.models)


@torch.no_grad()
def score_batch(model: TokenRewardModel, source: str, own: Sequence[Encoded]) -> list[Scored]:
    """The scores of a batch, on the device that the model is on.

    Raises:
        ScoreError: if a score is not finite.
    """
    device = next(model.model.parameters()).device
    collator = Collator(0, vocabulary(model))  # what is behind an answer changes nothing before it
    inputs = {name: value.to(device) for name, value in collator([one.row for one in own]).items()}
    scores = model(None, inputs)["token_scores"]
    batch = TokenBatch.from_labels(inputs["labels"])
    values = model.values(batch, scores)
    lengths = batch.lengths.tolist()
    found = []
    for one, of_scores, of_values in zip(own, scores.split(lengths), values.split(lengths), strict=True):
        if not (of_scores.isfinite().all() and of_values.isfinite().all()):
            raise ScoreError(
                f"{source}: row {one.answer.row + 1} has a score that is not finite; try --dtype float32, or mend the "
                "model"
            )
        answer = one.answer
        found.append(
            Scored(
                *(answer.row, answer.side, answer.text, one.tokens, one.offsets),
                *(digits(of_scores.tolist()), digits(of_values.tolist()), one.truncated),
            )
        )
    return found


def check_read(
    encoded: Sequence[Encoded], tokenizer: Any, model: TokenRewardModel, name: str, source: str
) -> list[str]:
    """Compare what is scored with what the models can read; returns notes for the user."""
    found = [limits.of_model(one) for one in model.models]
    vocab = min(one.vocab for one in found)
    for one in encoded:
        check_ids(one.row["input_ids"], vocab, tokenizer, name, f"{source}: row {one.answer.row + 1}")
    longest = max((len(one.row["input_ids"]) for one in encoded), default=0)
    return [note for one in found[:1] for note in limits.beyond(longest, one, name)]


def length_limit(max_length: int | None, model: TokenRewardModel) -> int:
    """Tokens of the longest rows: rotary positions beyond those of the training are read only if asked for."""
    found = [limits.of_model(one) for one in model.models]
    most = min((one.places for one in found if one.places), default=None)
    if max_length is None:
        trained = min((one.trained for one in found if one.trained), default=None)
        return min(length for length in (LONGEST, most, trained) if length)
    if most is not None and max_length > most:
        raise ScoreError(f"--max-length {max_length}: the model reads {most} tokens at most; choose fewer")
    return max_length
