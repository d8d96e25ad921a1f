"""Multiple choice from rows of your own, in their original words or in those that Clean-Eval gave them."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from trimtab.data.sources import Row, load_rows
from trimtab.evals.suite import Item, Messages, Options, Suite, SuiteError, Verdict, chosen, lines, user
from trimtab.rewards.options import OptionsError, correct, lettered
from trimtab.rewards.parsing import letter_of


class MultipleChoiceSettings(Options):
    """Where the questions are."""

    file: str | None = None
    """Rows: a .jsonl, .json, .csv or .parquet file or a dataset on the hub, with question, options and answer."""
    which: Literal["original", "clean"] = "original"
    """Words of the questions: as they were, or as `trimtab clean` wrote them."""
    question: str = "question"
    """The column, or the name among `fields`, of what is asked; other fields are shown before it."""
    options: str = "options"
    """The column of the options: a list, or letter: text."""
    answer: str = "answer"
    """The column of the correct option: its index from 0, its letter or its text; several in a list."""
    groups: tuple[str, ...] = ()
    """Columns to break scores down by."""
    rows: int | None = Field(None, ge=1)
    """Only use this many of the first rows."""


def items(settings: MultipleChoiceSettings) -> list[Item]:
    """The rows as items. A row without an `id` is called by its number.

    Raises:
        DataError: where the file cannot be read.
        SuiteError: naming the row that is no question.
    """
    found = []
    if not settings.file:
        raise SuiteError("there are no questions: name a file of them with multiple_choice.file=FILE")
    for number, row in enumerate(load_rows(settings.file)[: settings.rows]):
        where = f"{settings.file}: row {number + 1}"
        for column in (settings.options, settings.answer, *settings.groups):
            if row.get(column) is None:
                raise SuiteError(f"{where} has no column {column!r}; its columns: {', '.join(row)}")
        try:
            options = lettered(_listed(row[settings.options]))
            answer = row[settings.answer]
            target = correct(options, answer if answer in options.values() else _listed(answer))
        except OptionsError as error:
            raise SuiteError(f"{where}: {error}") from None
        identity = str(row["id"]) if row.get("id") is not None else str(number)
        groups = {column: str(row[column]) for column in settings.groups}
        found.append(Item(identity, _text(row, settings, where), options, target, groups))
    return found


def _listed(options: Any) -> Any:
    """A CSV file holds lists as JSON."""
    if not isinstance(options, str) or options.strip()[:1] not in ("[", "{"):
        return options
    try:
        return json.loads(options)
    except ValueError:
        return options


def _text(row: Row, settings: MultipleChoiceSettings, where: str) -> str:
    """What is asked; of rows with several fields all, the question last."""
    fields = row["fields"] if isinstance(row.get("fields"), dict) else {settings.question: row.get(settings.question)}
    fields = {name: text for name, text in fields.items() if isinstance(text, str)}
    if not fields.get(settings.question, "").strip():
        raise SuiteError(f"{where} has no text {settings.question!r}; name the column with question=...")
    if settings.which == "clean":
        if not isinstance(row.get("clean"), dict):
            raise SuiteError(f"{where} has no clean text; make it with trimtab clean {settings.file} --out FILE.jsonl")
        fields = {**fields, **row["clean"]}
    before = [text for name, text in fields.items() if name != settings.question]
    return "\n\n".join([*before, fields[settings.question]])


# ---------------------------------------------------------------- prompts


def letter(item: Item, answers: Sequence[str]) -> Messages:
    return user(f"{item.text}\n\n{lines(item.options)}\n\nReply with the letter of the right option and nothing else.")


def reasoned(item: Item, answers: Sequence[str]) -> Messages:
    last = "Think first. Then write a last line of the form: Answer: LETTER"
    return user(f"{item.text}\n\n{lines(item.options)}\n\n{last}")


# ---------------------------------------------------------------- parsers


def official(answer: str, options: Mapping[str, str]) -> str | None:
    """The last letter of an option that stands alone, in capitals as shown; "A" counts even as a word."""
    found = re.findall(rf"(?<!\w)({'|'.join(re.escape(one) for one in options)})(?!\w)", answer)
    return found[-1] if found else None


PARSERS = {"robust": letter_of, "official": official}


def score(item: Item, answer: str) -> dict[str, Verdict]:
    return {name: chosen(item, parser(answer, item.options)) for name, parser in PARSERS.items()}


SUITE = Suite(
    paper="arXiv:2311.09154 for the clean words",
    version="2",
    options=MultipleChoiceSettings,
    items=items,
    prompts={"letter": (letter,), "reasoned": (reasoned,)},
    score=score,
)
