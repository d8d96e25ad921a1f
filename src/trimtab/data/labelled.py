"""Rows with a text, or two, and a label: in the forms of GLUE, as token ids and numbers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from trimtab.common.csv_text import as_number
from trimtab.core import Labels
from trimtab.data.counts import Counts, Prepared
from trimtab.data.sources import DataError, Row

Task = Literal["auto", "classification", "regression"]
FORMS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
    ("sentence",),
    ("text",),
)
"""columns of the text or the two texts, by the first form that a row has: MRPC, RTE, STS-B, WNLI; QQP; QNLI; MNLI;
CoLA, SST-2; others"""
MOST_CLASSES_UNSEEN = 10
"""beyond this many times the labels that occur, the largest number is a code and not a class"""


def form_of(rows: Sequence[Row], source: str) -> tuple[str, ...]:
    """The columns of the texts; every row must have them.

    Raises:
        DataError: naming the row.
    """
    form = next((form for form in FORMS if set(form) <= rows[0].keys()), None)
    if form is None:
        known = ", ".join(" + ".join(one) for one in FORMS)
        raise DataError(
            f"{source}: row 1 has the columns {', '.join(map(str, rows[0]))}, and a text is looked for in: {known}; "
            "rename them"
        )
    for number, row in enumerate(rows, start=1):
        for column in form:
            if not isinstance(row.get(column), str):
                found = "nothing" if row.get(column) is None else repr(row[column])
                raise DataError(f"{source}: row {number} has {found} as its {column}; it must be a text")
    return form


def labels_of(rows: Sequence[Row], source: str) -> list[Any]:
    """The label of each row: a text or a number; cells of CSV that are numbers are read as such.

    Raises:
        DataError: naming the row that has none.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        label = row.get("label")
        if source.lower().removesuffix(".gz").endswith((".csv", ".tsv")):
            label = as_number(label)
        if label is None or label == "":
            raise DataError(f"{source}: row {number} has no label; write a number, or the name of a class")
        if not isinstance(label, (str, int, float)):
            raise DataError(f"{source}: row {number} has the label {label!r}; write a number, or the name of a class")
        if isinstance(label, float) and not math.isfinite(label):
            raise DataError(f"{source}: row {number} has the label {label}; a label is a finite number")
        found.append(int(label) if isinstance(label, bool) else label)
    return found


def task_of(labels: Sequence[Any], source: str, task: Task, known: Labels | None) -> bool:
    """Whether it is a regression: by the model that knows its labels, by `task`, or because a label is a float.

    Raises:
        DataError: for labels of a regression that are texts, with the row.
    """
    if known is not None and task != "auto" and known.regression != (task == "regression"):
        raise DataError(f"options.task is {task}, but the model's labels are: {known}; leave it out")
    regression = known.regression if known is not None else task == "regression"
    if known is None and task == "auto":
        texts = [place for place, label in enumerate(labels, start=1) if isinstance(label, str)]
        regression = any(isinstance(label, float) for label in labels) or (bool(texts) and _decimal(labels))
    if regression:
        for number, label in enumerate(labels, start=1):
            if isinstance(label, str):
                quoted = isinstance(as_number(label), (int, float))
                way = (
                    f"write {label} without quotes" if quoted else "write a number, or set options.task: classification"
                )
                raise DataError(
                    f"{source}: row {number} has the label {label!r}, a text, but the labels of a regression are "
                    f"numbers; {way}"
                )
    return regression


def _decimal(labels: Sequence[Any]) -> bool:
    """Whether all labels are numbers in quotes, with a decimal point somewhere."""
    numbers = [as_number(label) for label in labels]
    return all(isinstance(one, (int, float)) for one in numbers) and any(isinstance(one, float) for one in numbers)


def labels_from(labels: Sequence[Any], source: str, regression: bool) -> Labels:
    """The classes that occur: names in alphabetical order, or numbers from 0 to the largest.

    Raises:
        DataError: for labels that are both, or no numbers of classes, and for a single class.
    """
    if regression:
        return Labels()
    texts = {label for label in labels if isinstance(label, str)}
    if texts and len(texts) < len(set(labels)):
        number = next(place for place, label in enumerate(labels, start=1) if not isinstance(label, str))
        raise DataError(
            f"{source}: row {number} has the label {labels[number - 1]}, but others are texts; use one kind"
        )
    if not texts:
        for number, label in enumerate(labels, start=1):
            if label != int(label) or label < 0:
                said = " (GLUE's test rows have -1, which is none)" if label == -1 else ""
                raise DataError(
                    f"{source}: row {number} has the label {label}{said}; classes are numbered from 0; of a "
                    "regression set options.task: regression"
                )
        largest = int(max(labels))
        if largest > MOST_CLASSES_UNSEEN * len(set(labels)):
            raise DataError(
                f"{source}: row {labels.index(max(labels)) + 1} has the label {largest}, but only {len(set(labels))} "
                "different labels occur; number the classes from 0, or write their names"
            )
        names = tuple(f"LABEL_{number}" for number in range(largest + 1))
    else:
        names = tuple(sorted(texts))
    if len(set(labels)) < 2:
        raise DataError(f"{source}: every row has the label {labels[0]!r}; at least two classes are needed")
    return Labels(names)


def numbered(labels: Sequence[Any], source: str, known: Labels) -> list[Any]:
    """Labels as floats of a regression, or as numbers of classes.

    Raises:
        DataError: naming the row with a label that the classes do not hold.
    """
    if known.regression:
        return [float(label) for label in labels]
    by_name = {name: number for number, name in enumerate(known.names)}
    found = []
    for row, label in enumerate(labels, start=1):
        is_number = not isinstance(label, str)
        number = (int(label) if label == int(label) else None) if is_number else by_name.get(label)
        if number is None or not 0 <= number < len(known.names):
            raise DataError(
                f"{source}: row {row} has the label {label!r}, which is none of the model's: {known}"
                f"{f' (0 to {len(known.names) - 1})' if is_number else ''}; rename it, or use another model"
            )
        found.append(number)
    return found


def missing_classes(labels: Sequence[int], known: Labels, source: str) -> str | None:
    """A note on the classes of which no training row is an example."""
    absent = [name for number, name in enumerate(known.names) if number not in set(labels)]
    if not absent:
        return None
    return f"{source}: no row has the label {', '.join(absent)}; the model cannot learn to choose it"


def tokenised(
    rows: Sequence[Row],
    labels: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    max_length: int,
) -> Prepared:
    """Rows as token ids with `labels`, in the order of the source; longer ones are cut, and counted."""
    form, counts = form_of(rows, source), Counts(rows=len(rows), kept=len(rows))
    made = []
    for start in range(0, len(rows), 1000):
        some = rows[start : start + 1000]
        texts: Any = [[row[column] for row in some] for column in form]
        whole = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
        cut = tokenizer(*texts, truncation=True, max_length=max_length)
        for place, ids in enumerate(cut["input_ids"]):
            number = start + place
            if len(whole[place]) > len(ids):
                counts.truncated += 1
                counts.first.setdefault("truncated", number + 1)
            if not ids:
                raise DataError(f"{source}: row {number + 1} is an empty text, of which nothing can be read; remove it")
            types = {"token_type_ids": cut["token_type_ids"][place]} if "token_type_ids" in cut else {}
            made.append({"input_ids": ids, **types, "labels": labels[number], "row_id": number})
            counts.tokens += len(ids)
            counts.longest = max(counts.longest, len(ids))
    return Prepared(made, counts, source, max_length, len(rows))


def counted(labels: Sequence[Any], known: Labels) -> str:
    """How often each class occurs, or the span of the numbers."""
    if known.regression:
        return f"{min(labels):g} to {max(labels):g}"
    times = Counter(labels)
    return ", ".join(f"{name} {times[number]}" for number, name in enumerate(known.names))


@dataclass(frozen=True)
class LabelledCollator:
    """Pads on the right."""

    pad_id: int
    regression: bool = False
    sink: int | None = None
    """a token that begins every text of a decoder, on which attention rests whatever follows: maps leave it out"""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `attributed` (the tokens of maps) [R, S], `token_type_ids` where rows have
        them, `labels` and `row_id` [R]."""
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[i, :length] = torch.tensor(row["input_ids"])
            batch["attention_mask"][i, :length] = 1
            if "token_type_ids" in row:
                batch["token_type_ids"][i, :length] = torch.tensor(row["token_type_ids"])
        batch["attributed"] = batch["attention_mask"].clone()
        if self.sink is not None:
            batch["attributed"][:, 0] &= ids[:, 0] != self.sink
        kind = torch.float32 if self.regression else torch.long
        batch["labels"] = torch.tensor([row["labels"] for row in rows], dtype=kind)
        batch["row_id"] = torch.tensor([row["row_id"] for row in rows])
        return batch
