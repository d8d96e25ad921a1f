"""Score answers token by token with a reward model, and measure accuracy where rows are labelled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console

from trimtab import __version__
from trimtab.commands.asking import AskedSettings, RaySettings
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import cells, quiet, say, table_of
from trimtab.common.workdir import SIGNATURE, Workdir

if TYPE_CHECKING:
    from trimtab.data.sources import Row
    from trimtab.evals.scored import Answer, Scored
    from trimtab.evals.scoring import Encoded, ScoreCounts
    from trimtab.signals.reward_model import TokenRewardModel

LINES, MEASURES, PAGE = "scores.jsonl", "measures.json", "report.html"


class ScoreSettings(AskedSettings, RaySettings):
    """What to score, and with which model."""

    positional = ("source",)
    words: ClassVar[str] = "[SOURCE] [KEY=VALUE]..."
    source: str | None = None
    """Rows with pairs, labelled answers or steps, as for training."""
    model: Annotated[str, Shown("RM")]
    """A trained reward model: a folder or a Hub id."""
    out: Annotated[Path, Shown("FOLDER")]
    """Folder for scores, metrics and an HTML page."""
    processbench: Annotated[Path | None, Shown("FOLDER")] = None
    """Folder of ProcessBench's files, instead of SOURCE."""
    reference: Annotated[str | None, Shown("PLACE")] = None
    """Reference model of log-ratio scores, if it has moved."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N rows (of each file)."""
    max_length: Annotated[int | None, Shown("N"), Field(ge=2)] = None
    """Maximum tokens of prompt and answer; 4096 by default."""
    batch_size: Annotated[int, Shown("N"), Field(ge=1)] = 16
    """Batch size."""
    force: bool = False
    """Overwrite existing scores."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.source is None) == (self.processbench is None):
            raise SettingsError("name rows to score, or the folder of ProcessBench's files: SOURCE or --processbench")
        return self


SETTINGS = ScoreSettings


def main(settings: ScoreSettings) -> None:
    """Score, and print the path of the page."""
    from trimtab.runs.early import check_asked

    named = [("--model", settings.model), ("--reference", settings.reference), ("--adapter", settings.adapter)]
    check_asked(named, [settings.source])
    quiet()
    typer.echo(f"report: {score_into(settings)}")


def score_into(settings: ScoreSettings, console: Console | None = None) -> Path:
    """Score rows into a folder: scores.jsonl, measures.json, signature.txt and report.html.

    The same scoring, interrupted, is resumed; finished, only its metrics are computed again.

    Returns:
        The page.

    Raises:
        UserError: naming what is wrong.
        Interrupted: after Ctrl-C.
    """
    from trimtab.common.files import json_line
    from trimtab.data.chat_date import adopt_date
    from trimtab.evals.scored import Scored, form_of, read
    from trimtab.evals.scoring import (
        ScoreError,
        check_known_ids,
        check_read,
        encode,
        length_limit,
        score_batch,
        scorer,
    )
    from trimtab.evals.worth import dumped, worth
    from trimtab.models import loading
    from trimtab.report import scores as page
    from trimtab.signals.reward_model import load_reward_model

    console = console or Console()
    out, source, name = settings.out, settings.source or str(settings.processbench), settings.asked
    rows = _rows(settings)
    form = form_of(rows[0])
    asked = read(rows, source, numbered=settings.processbench is not None)
    work = Workdir(out, "score", (LINES, MEASURES, PAGE), force=settings.force)
    work.check()
    how: dict[str, Any] = {"dtype": settings.dtype, "device_map": settings.device_map}
    model = load_reward_model(name, reference=settings.reference, **how)
    tokenizer = loading.load_tokenizer(name)
    adopt_date(tokenizer, out / SIGNATURE)
    limit = length_limit(settings.max_length, model)
    encoded, counts = encode(asked, tokenizer, limit, source)
    notes = check_read(encoded, tokenizer, model, name, source)
    if not encoded:
        reasons = "; ".join(f"{number} {reason}" for reason, number in counts.left_out.items())
        raise ScoreError(f"{source}: nothing is left to score: {reasons} (limit: {limit} tokens)")
    check_known_ids(model, encoded, source)
    reading = model.spec
    signature = _signature(settings, model, tokenizer, rows, source, limit)
    with settings.cluster() as ray, work.open():
        work.sign(signature)
        for one in model.models:
            one.to("meta" if ray else loading.device())  # type: ignore[arg-type]
        score: Callable[..., Iterator[list[Scored]]] = partial(map, partial(score_batch, model, source))
        if ray is not None:
            printed = signature["model"].rpartition(" ")[2]
            score = partial(ray.map, partial(scorer, name, printed, source, reference=settings.reference, **how))
        found = _all_scores(score, encoded, work, settings.batch_size, console)
        result = worth(found, reading.source, outcomes=reading.outcomes)
        facts = {
            "model": name, "source": source, "form": form, "method": reading.method,
            "reading": {"source": reading.source, "gathered": reading.gathered, "beta": reading.beta},
            "outcomes": reading.outcomes, "counts": vars(counts),
            "cautions": _cautions(counts, limit, [*notes, *result.notes]), **dumped(result), "signature": signature,
        }  # fmt: skip
        work.write(MEASURES, json_line(facts, indent=1))
        page.write(facts, found, out / PAGE)
    _show(facts, console)
    return out / PAGE


def _signature(
    settings: ScoreSettings,
    model: "TokenRewardModel",
    tokenizer: Any,
    rows: "Sequence[Row]",
    source: str,
    limit: int,
) -> dict[str, str]:
    """Everything that the scores depend on."""
    from trimtab.common import fingerprint
    from trimtab.common.environment import environment
    from trimtab.data.chat_date import date_facts

    reading = model.spec
    return {
        "trimtab": __version__,
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "max_length": str(limit),
        "model": f"{settings.asked} {fingerprint.of_model(model.model)}",
        "reading": f"{reading.source}, {reading.gathered}{' of sigma' * reading.squash}, beta {reading.beta:g}",
        "reference": fingerprint.of_model(model.reference.model) if model.reference else "none",
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "rows": f"{len(rows)} of {source} {fingerprint.of_each(rows)}",
        **environment(),
    }


def _rows(settings: ScoreSettings) -> "list[Row]":
    """The rows; of ProcessBench's files `limit` of each."""
    from trimtab.data.processbench import processbench
    from trimtab.data.sources import load_rows

    if settings.processbench is None:
        assert settings.source is not None
        return load_rows(settings.source)[: settings.limit]
    by_split: dict[str, list[Any]] = {}
    for row in processbench(settings.processbench):
        by_split.setdefault(row["split"], []).append(row)
    return [row for own in by_split.values() for row in own[: settings.limit]]


def _all_scores(
    score: "Callable[[Sequence[list[Encoded]]], Iterator[list[Scored]]]",
    encoded: "Sequence[Encoded]",
    work: Workdir,
    batch_size: int,
    console: Console,
) -> "list[tuple[Answer, Scored]]":
    """Scores of all answers, in order; those not yet in the folder are computed, batch by batch, and appended."""
    from trimtab.common.progress import watched
    from trimtab.evals.scored import Scored
    from trimtab.evals.scoring import ScoreError, shards

    answers = work.records(LINES, "id", what="answers")
    try:
        scored = {line["id"]: Scored.from_record(line) for line in answers.rows}
    except (KeyError, TypeError, ValueError):
        raise ScoreError(f"{answers.path} holds a line that is not a score; add --force to score again") from None
    if scored:
        say(console, f"{len(scored)} of {len(encoded)} answers are already scored")
    waiting = sum(len(one.tokens) for one in encoded if one.answer.id not in scored)
    made = score(list(shards(encoded, batch_size, scored.keys())))

    def num_tokens(batch: "list[Scored]") -> int:
        return sum(len(one.tokens) for one in batch)

    for batch in watched(made, "score", waiting, "tokens", num_tokens, console):
        answers.append([one.record() for one in batch])
        scored |= {one.id: one for one in batch}
    return [(one.answer, scored[one.answer.id]) for one in encoded]


def _cautions(counts: "ScoreCounts", limit: int, notes: Sequence[str]) -> list[str]:
    found = [f"Left out: {number} {reason}." for reason, number in counts.left_out.items()]
    if counts.truncated:
        share = counts.truncated / counts.answers
        found.append(
            f"{counts.truncated} of {counts.answers} answers ({share:.0%}) are cut before their end token, at {limit} "
            "tokens: their last values are for a prefix."
        )
    if counts.no_end:
        share = counts.no_end / counts.answers
        found.append(f"{counts.no_end} of {counts.answers} answers ({share:.0%}) do not end with the end token.")
    return [*found, *notes]


def _show(facts: Mapping[str, Any], console: Console) -> None:
    """Numbers over all answers for a terminal."""
    from trimtab.report import scores as page

    for table in page.tables(facts, groups=False):
        shown = table_of(*table.columns, title=table.title, title_justify="left", box=None)
        for row in table.rows:
            shown.add_row(*cells(" ".join(filter(None, cell)) if isinstance(cell, tuple) else cell for cell in row))
        console.print(shown)
    for line in facts["cautions"]:
        say(console, line)
    signature = "; ".join(f"{key} {value}" for key, value in facts["signature"].items())
    say(console, f"signature: {signature}")
