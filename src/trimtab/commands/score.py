"""Answers scored token by token with a trained reward model: a folder with every score, numbers and a page."""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from trimtab import __version__
from trimtab.common import fingerprint
from trimtab.common.disk import check_writable
from trimtab.common.environment import environment
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.files import json_line
from trimtab.common.locks import writing
from trimtab.common.progress import watched
from trimtab.common.terminal import cells, say, table_of
from trimtab.core import IGNORE, TokenBatch
from trimtab.data.chat import adopt_date, date_facts
from trimtab.data.collate import Collator
from trimtab.data.processbench import processbench
from trimtab.data.rows import answer_offsets, prepare
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.evals.runner import Answers
from trimtab.evals.scored import Asked, Scored, Span, digits, form_of, read, step_tokens
from trimtab.evals.worth import dumped, worth
from trimtab.models import limits, loading
from trimtab.models.ends import end_tokens
from trimtab.models.limits import check_ids
from trimtab.report import scores as page
from trimtab.report.html import put
from trimtab.signals.reward_model import TokenRewardModel, load_reward_model

LINES, MEASURES, SIGNATURE, PAGE = "scores.jsonl", "measures.json", "signature.txt", "report.html"
LONGEST = 4096
"""tokens of prompt and answer, unless the model reads fewer"""
LOOSE = {"trimtab", "versions", "hardware", "python"}
"""lines of a signature that may differ when scoring goes on"""


class ScoreError(UserError):
    """Rows that cannot be scored, or a folder that holds something else."""


# ---------------------------------------------------------------- scoring


@dataclass
class Encoded:
    """An answer as a model takes it."""

    asked: Asked
    row: dict[str, Any]
    """`input_ids`, `labels` and `row_id`"""
    tokens: list[str]
    offsets: list[Span]
    truncated: bool


@dataclass
class Counts:
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
        tokenizer: the model's.
        rows: pairs, answers or steps, see `trimtab.evals.scored.read`.
        source: for messages.
        max_length: tokens of prompt and answer; what is longer loses the end of its answer, and an answer whose prompt
            alone is longer is left out. So are pairs of equal answers and those with an empty side.
        batch_size: answers at a time.

    Raises:
        DataError: for a row that cannot be read.
        ScoreError: if a row holds a token that the model does not know, or a score is not finite.
    """
    encoded, _ = encode(read(rows, source), tokenizer, max_length, source)
    for batch in batches(model, encoded, batch_size, source):
        yield from batch


def encode(
    asked: Sequence[Asked], tokenizer: PreTrainedTokenizerBase, max_length: int, source: str = "rows"
) -> tuple[list[Encoded], Counts]:
    """Token ids of answers with the text of each answer token; of pairs both or none.

    Raises:
        DataError: naming the row that cannot be read.
    """
    coded: dict[str, Encoded] = {}
    for side in dict.fromkeys(one.side for one in asked):
        own = [one for one in asked if one.side == side]  # one of each row, so that messages name the right one
        given = [one.given for one in own]
        for row in prepare(given, tokenizer, max_length=10**9, source=source, end_ids=end_tokens(tokenizer)).rows:
            one = own[row["row_id"]]
            coded[one.id] = _encoded(one, row, tokenizer, max_length, f"{source}: row {one.row + 1}")
    counts, found = Counts(), []
    sides: dict[int, list[Asked]] = {}
    for one in asked:
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
    asked: Asked, row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int, where: str
) -> Encoded:
    ids = [label for label in row["labels"] if label != IGNORE]
    offsets = answer_offsets(asked.given, tokenizer, where, end_tokens(tokenizer))
    offsets, skipped = offsets[len(offsets) - len(ids) :], offsets[: len(offsets) - len(ids)]  # nothing predicts id 0
    at = max((end for _, end in skipped), default=0)
    tokens = []
    for token, (start, end) in zip(ids, offsets, strict=True):
        tokens.append(asked.text[at:end] if start < end and end > at else str(tokenizer.decode([token])))
        at = max(at, end)
    cut = max(0, len(row["input_ids"]) - max_length)
    kept = {**row, "input_ids": row["input_ids"][:max_length], "labels": row["labels"][:max_length]}
    left = max(0, len(ids) - cut)
    if asked.ends and not cut:
        step_tokens(asked, offsets, where)  # before anything is scored
    return Encoded(asked, kept, tokens[:left], offsets[:left], cut > 0)


def batches(
    model: TokenRewardModel,
    encoded: Sequence[Encoded],
    batch_size: int,
    source: str = "rows",
    done: AbstractSet[str] = frozenset(),
) -> Iterator[list[Scored]]:
    """Scores of answers of like length, longest first. Batches depend on all answers, whatever is done.

    Args:
        done: ids of answers that are passed over.

    Raises:
        ScoreError: see `score`.
    """
    vocab = min(one.config.get_text_config().vocab_size for one in model.models)
    for one in encoded:
        highest = max(one.row["input_ids"])
        if highest >= vocab:
            raise ScoreError(
                f"{source}: row {one.asked.row + 1} holds the token id {highest}, which the reward model's vocabulary "
                f"({vocab}) does not; its folder holds the tokenizer of another model"
            )
    device = next(model.model.parameters()).device
    collator = Collator(0, vocab)  # what is behind an answer changes nothing before it
    order = sorted(encoded, key=lambda one: -len(one.row["input_ids"]))
    for start in range(0, len(order), batch_size):
        own = [one for one in order[start : start + batch_size] if one.asked.id not in done]
        if own:
            inputs = {name: value.to(device) for name, value in collator([one.row for one in own]).items()}
            yield _scored(model, own, inputs, source)


@torch.no_grad()
def _scored(model: TokenRewardModel, own: Sequence[Encoded], inputs: Mapping[str, Any], source: str) -> list[Scored]:
    scores = model(None, inputs)["token_scores"]
    batch = TokenBatch.from_labels(inputs["labels"])
    values = model.values(batch, scores)
    lengths = batch.lengths.tolist()
    found = []
    for one, of_scores, of_values in zip(own, scores.split(lengths), values.split(lengths), strict=True):
        if not (of_scores.isfinite().all() and of_values.isfinite().all()):
            raise ScoreError(
                f"{source}: row {one.asked.row + 1} has a score that is not finite; try --dtype float32, or mend the "
                "model"
            )
        asked = one.asked
        found.append(
            Scored(
                *(asked.row, asked.side, asked.text, one.tokens, one.offsets),
                *(digits(of_scores.tolist()), digits(of_values.tolist()), one.truncated),
            )
        )
    return found


# ---------------------------------------------------------------- the command


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    model: str
    out: Path
    source: str | None = None
    processbench: Path | None = None
    reference: str | None = None
    limit: int | None = None
    max_length: int | None = None
    batch_size: int = 16
    dtype: str = "auto"
    force: bool = False
    device_map: str | None = None

    def __post_init__(self) -> None:
        if (self.source is None) == (self.processbench is None):
            raise ScoreError("name rows to score, or the folder of ProcessBench's files: SOURCE or --processbench")


def score_into(settings: Settings, console: Console | None = None) -> Path:
    """Score rows into a folder: scores.jsonl, measures.json, signature.txt and report.html.

    A folder that holds the same scores, stopped half-way, is gone on with; finished, it is only measured again.

    Returns:
        The page.

    Raises:
        ValueError: a subclass that names what is wrong.
        Interrupted: after Ctrl-C.
    """
    console = console or Console()
    out, source = settings.out, settings.source or str(settings.processbench)
    rows = _rows(settings)
    form = form_of(rows[0])
    asked = read(rows, source, numbered=settings.processbench is not None)
    check_writable(out, ScoreError, "choose another --out")
    model = load_reward_model(
        settings.model, dtype=settings.dtype, reference=settings.reference, device_map=settings.device_map
    )
    tokenizer = loading.load_tokenizer(settings.model)
    adopt_date(tokenizer, out / SIGNATURE)
    limit = _limit(settings, model)
    encoded, counts = encode(asked, tokenizer, limit, source)
    notes = _check_read(encoded, tokenizer, model, settings.model, source)
    if not encoded:
        said = "; ".join(f"{number} {reason}" for reason, number in counts.left_out.items())
        raise ScoreError(f"{source}: nothing is left to score: {said} (limit: {limit} tokens)")
    for one in model.models:
        one.to(loading.device())  # type: ignore[arg-type]
    reading = model.spec
    signature = {
        "trimtab": __version__,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "max_length": str(limit),
        "model": f"{settings.model} {fingerprint.of_model(model.model)}",
        "reading": f"{reading.source}, {reading.gathered}{' of sigma' * reading.squash}, beta {reading.beta:g}",
        "reference": fingerprint.of_model(model.reference.model) if model.reference else "none",
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "rows": f"{len(rows)} of {source} {fingerprint.of_each(rows)}",
        **environment(),
    }
    out.mkdir(parents=True, exist_ok=True)
    with writing(out, "another call", "wait for it, or choose another --out", ScoreError):
        _same(settings, signature)
        put("".join(f"{key}: {value}\n" for key, value in signature.items()), out / SIGNATURE)
        found = _all_scores(model, encoded, settings, source, console)
        result = worth(found, reading.source, outcomes=reading.outcomes)
        facts = {
            "model": settings.model, "source": source, "form": form, "method": reading.method,
            "reading": {"source": reading.source, "gathered": reading.gathered, "beta": reading.beta},
            "outcomes": reading.outcomes, "counts": vars(counts),
            "cautions": _cautions(counts, limit, [*notes, *result.notes]), **dumped(result), "signature": signature,
        }  # fmt: skip
        put(json_line(facts, indent=1), out / MEASURES)
        page.write(facts, found, out / PAGE)
    _show(facts, console)
    return out / PAGE


def _rows(settings: Settings) -> list[Row]:
    """The rows; of ProcessBench's files `limit` of each."""
    if settings.processbench is None:
        assert settings.source is not None
        return load_rows(settings.source)[: settings.limit]
    by_split: dict[str, list[Row]] = {}
    for row in processbench(settings.processbench):
        by_split.setdefault(row["split"], []).append(row)
    return [row for own in by_split.values() for row in own[: settings.limit]]


def _check_read(
    encoded: Sequence[Encoded], tokenizer: Any, model: TokenRewardModel, name: str, source: str
) -> list[str]:
    """Hold what is scored against what the models can read."""
    found = [limits.of_model(one) for one in model.models]
    vocab = min(one.vocab for one in found)
    for one in encoded:
        check_ids(one.row["input_ids"], vocab, tokenizer, name, f"{source}: row {one.asked.row + 1}")
    longest = max((len(one.row["input_ids"]) for one in encoded), default=0)
    return [note for one in found[:1] for note in limits.beyond(longest, one, name)]


def _limit(settings: Settings, model: TokenRewardModel) -> int:
    """Tokens of the longest rows: rotary positions beyond those of the training are read where that is asked for."""
    found = [limits.of_model(one) for one in model.models]
    most = min((one.places for one in found if one.places), default=None)
    if settings.max_length is None:
        trained = min((one.trained for one in found if one.trained), default=None)
        return min(length for length in (LONGEST, most, trained) if length)
    if most is not None and settings.max_length > most:
        raise ScoreError(f"--max-length {settings.max_length}: the model reads {most} tokens at most; choose fewer")
    return settings.max_length


def _same(settings: Settings, signature: Mapping[str, str]) -> None:
    """A folder holds the scores of one model and one set of rows.

    Raises:
        ScoreError: naming the first line of the signature that differs.
    """
    out = settings.out
    if settings.force:
        for name in (LINES, MEASURES, SIGNATURE, PAGE):
            (out / name).unlink(missing_ok=True)
    way_out = "choose another --out, or add --force to replace it"
    path = out / SIGNATURE
    if not path.is_file():
        if (out / LINES).is_file():
            raise ScoreError(f"{out} holds scores and no {SIGNATURE}; {way_out}")
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    before = dict(line.split(": ", 1) for line in lines if ": " in line)
    for key, now in signature.items():
        if key not in LOOSE and before.get(key) != now:
            raise ScoreError(f"{out} holds other scores: its {key} is {before.get(key)}, and now {now}; {way_out}")


def _all_scores(
    model: TokenRewardModel, encoded: Sequence[Encoded], settings: Settings, source: str, console: Console
) -> list[tuple[Asked, Scored]]:
    """Scores of all answers, in their order; those that are not in the folder yet are computed and kept."""
    answers = Answers(settings.out / LINES)
    try:
        scored = {key: Scored.from_record(line) for key, line in answers.read().items()}
    except (KeyError, TypeError, ValueError):
        raise ScoreError(f"{answers.path} holds a line that is no score; add --force to score anew") from None
    if scored:
        say(console, f"{len(scored)} of {len(encoded)} answers were scored before")
    waiting = sum(len(one.tokens) for one in encoded if one.asked.id not in scored)
    made = batches(model, encoded, settings.batch_size, source, scored.keys())

    def num_tokens(batch: list[Scored]) -> int:
        return sum(len(one.tokens) for one in batch)

    try:
        for batch in watched(made, "score", waiting, "tokens", num_tokens, console):
            answers.append([one.record() for one in batch])
            scored |= {one.id: one for one in batch}
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; {len(scored)} answers are in {answers.path}: the same command goes on") from None
    return [(one.asked, scored[one.asked.id]) for one in encoded]


def _cautions(counts: Counts, limit: int, notes: Sequence[str]) -> list[str]:
    found = [f"Left out: {number} {reason}." for reason, number in counts.left_out.items()]
    if counts.truncated:
        share = counts.truncated / counts.answers
        found.append(
            f"{counts.truncated} of {counts.answers} answers ({share:.0%}) are cut before their end token, at {limit} "
            "tokens: their last values are those of a prefix."
        )
    if counts.no_end:
        share = counts.no_end / counts.answers
        found.append(f"{counts.no_end} of {counts.answers} answers ({share:.0%}) do not end with the end token.")
    return [*found, *notes]


def _show(facts: Mapping[str, Any], console: Console) -> None:
    """Numbers over all answers for a terminal."""
    for table in page.tables(facts, groups=False):
        shown = table_of(*table.columns, title=table.title, title_justify="left", box=None)
        for row in table.rows:
            shown.add_row(*cells(" ".join(filter(None, cell)) if isinstance(cell, tuple) else cell for cell in row))
        console.print(shown)
    for line in facts["cautions"]:
        say(console, line)
    signature = "; ".join(f"{key} {value}" for key, value in facts["signature"].items())
    say(console, f"signature: {signature}")
