"""Edits of facts: what a model is to say from now on, and what else is asked to see whether it does.

Read from rows of our own and from the files of ZsRE, CounterFact, QAEdit and MQuAKE (`trimtab.data.edit_files`).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from trimtab.common.count import count
from trimtab.common.errors import closest
from trimtab.data import edit_files
from trimtab.data.edit_files import OWN, Format
from trimtab.data.sources import DataError, Row, line_of, load_rows

ARTEFACT = re.compile(r"(\s+\*)+\s*$")
"""behind answers of QAEdit"""
NAMED = 5
"""rows that a note names"""


class Probe(NamedTuple):
    """Something to ask."""

    prompt: str
    answer: str | None = None
    """None: whatever was answered before the edit"""
    aliases: tuple[str, ...] = ()
    """other ways to say the answer"""


@dataclass(frozen=True)
class Edit:
    """One fact that is to change."""

    prompt: str
    """a question, or the beginning of a sentence that the answer ends"""
    target_new: str
    """what is to be answered from now on"""
    subject: str = ""
    """whom or what the fact is about; it stands in the prompt"""
    ground_truth: str | None = None
    """what was true, or was said, before"""
    rephrases: tuple[str, ...] = ()
    """the prompt in other words"""
    locality: tuple[Probe, ...] = ()
    """what must not change"""
    hops: tuple[Probe, ...] = ()
    """questions whose answers follow from the new fact"""
    negations: tuple[Probe, ...] = ()
    """whether the old fact still holds: questions to be answered with yes or no; "No" where no answer is given"""
    reversal: Probe | None = None
    """the fact asked from its other end"""
    longform: str | None = None
    """a prompt for a text in which the new fact should appear"""
    aliases: tuple[str, ...] = ()
    """other ways to say `target_new`"""
    id: str = ""
    """of its own; the number of the row if not given"""

    @property
    def cloze(self) -> bool:
        """Whether the prompt is the beginning of a sentence."""
        return is_cloze(self.prompt)


@dataclass(frozen=True)
class EditSet(Sequence[Edit]):
    """Edits of a file, and what is to be said of it."""

    edits: tuple[Edit, ...]
    format: str
    notes: tuple[str, ...] = ()
    """for users: what was left out, merged or cleaned"""
    left_out: int = 0
    """rows that are no edits"""

    def __len__(self) -> int:
        return len(self.edits)

    def __getitem__(self, place: Any) -> Any:
        return self.edits[place]

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)


def is_cloze(prompt: str) -> bool:
    """Whether a prompt is the beginning of a sentence, and neither a question nor a whole sentence."""
    return not prompt.rstrip().endswith(("?", ".", "!", ":", "？", "。", "؟"))


def plain(text: str) -> str:
    """A text as prompts and answers are compared: case, white space, and signs at its ends do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .?!:;\"'")


def load_edits(source: str, *, conflicts: Literal["refuse", "last"] = "refuse") -> EditSet:
    """The edits of a source of rows.

    A bad row of a user's own file is refused; of a benchmark's file it is left out, and a note says which.

    Args:
        source: as of `trimtab.data.sources.load_rows`.
        conflicts: refuse two edits of one fact with different targets, or keep the last.

    Raises:
        DataError: naming the row, or the two rows that contradict each other; where no edit is left.
    """
    rows = load_rows(source)
    kind = edit_files.format_of(rows[0], source)
    notes = _Notes(source)
    found: list[tuple[int, Edit]] = []
    for number, row in enumerate(rows, start=1):
        try:
            found += [(number, one) for one in _edits(row, number, kind, source, notes)]
        except _BadRow as error:
            if kind.own:
                raise DataError(f"{source}: row {number}{line_of(source, number)}: {error}") from None
            notes.add(f"left out: {error.kind}", number)
            notes.left_out.add(number)
    notes.unread(rows, kind)
    merged = _merged(found, kind, source, conflicts, notes)
    if not merged:
        raise DataError(f"{source} holds no edit: {'; '.join(notes.lines())}")
    return EditSet(tuple(_named(merged)), kind.name, tuple(notes.lines()), len(notes.left_out))


class _BadRow(Exception):
    """A row that is no edit; `kind` is what rows of a benchmark are counted by."""

    def __init__(self, kind: str, more: str):
        super().__init__(f"{kind}; {more}")
        self.kind = kind


class _Notes:
    def __init__(self, source: str):
        self.source, self.rows, self.left_out = source, dict[str, list[int]](), set[int]()
        self.others: list[str] = []

    def add(self, what: str, number: int) -> None:
        self.rows.setdefault(what, []).append(number)

    def unread(self, rows: Iterable[Row], kind: Format) -> None:
        """Columns that nothing reads."""
        known = {*kind.needs, *kind.known}
        more = dict.fromkeys(str(key) for row in rows for key in row if key not in known)
        if more:
            named = ", ".join(f"{one} (for {close}?)" if (close := closest(one, OWN)) else one for one in more)
            self.others.append(f"{self.source}: columns that are not read: {named}")

    def lines(self) -> list[str]:
        found = []
        for what, numbers in self.rows.items():
            named = ", ".join(map(str, numbers[:NAMED])) + (", ..." if len(numbers) > NAMED else "")
            found.append(f"{self.source}: {count(len(numbers), 'row')} {what} (row {named})")
        return found + self.others


# ---------------------------------------------------------------- rows


def _edits(row: Row, number: int, kind: Format, source: str, notes: _Notes) -> list[Edit]:
    where = f"{source}: row {number}"
    missing = [key for key in kind.needs if key not in row]
    if missing:
        raise DataError(
            f"{where} has no column {missing[0]!r}, but row 1 makes {source} a file of {kind.name}: "
            f"{', '.join(kind.needs)}"
        )
    try:
        found = kind.read(row)
        made = [_edit(one, number) for one in found]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        named = f" (key {error})" if isinstance(error, KeyError) else ""
        raise DataError(
            f"{where}{line_of(source, number)} is not of the form of {kind.name}{named}; texts are texts, rephrases a "
            "list of them, locality and hops lists of objects with prompt and answer"
        ) from None
    return [_checked(one, old, kind, number, notes) for one, old in made]


def _edit(row: Row, number: int) -> tuple[Edit, list[str]]:
    """An edit that is not checked, and all that its row gives as the old fact."""
    old = edit_files.texts(row.get("ground_truth"))
    reversal, longform = edit_files.probes(row.get("reversal")), edit_files.first(row.get("longform"))
    identity = row.get("id")
    made = Edit(
        prompt=_text(row.get("prompt") or ""),
        target_new=_text(row.get("target_new") or ""),
        subject=_text(row.get("subject") or ""),
        ground_truth=old[0] if old else None,
        rephrases=tuple(edit_files.texts(row.get("rephrases"))),
        locality=_probes(row.get("locality")),
        hops=_probes(row.get("hops")),
        negations=tuple(one if one.answer else one._replace(answer="No") for one in _probes(row.get("negations"))),
        reversal=_probes(reversal)[0] if reversal else None,
        longform=longform,
        aliases=tuple(edit_files.texts(row.get("aliases"))),
        id=f"{number}" if identity is None else f"{identity}",
    )
    return made, old


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip()


def _probes(value: Any) -> tuple[Probe, ...]:
    made = []
    for one in edit_files.probes(value):
        answer = None if one.get("answer") in (None, "") else _text(one["answer"])
        made.append(Probe(_text(one["prompt"]), answer, tuple(one.get("aliases") or ())))
    return tuple(made)


def _checked(edit: Edit, old: Sequence[str], kind: Format, number: int, notes: _Notes) -> Edit:
    """The edit, its target without artefacts.

    Raises:
        _BadRow: if it says nothing new.
    """
    if not kind.own and ARTEFACT.search(edit.target_new):
        notes.add(f"lost a sign behind {kind.target} that belongs to no answer, such as {edit.target_new!r}", number)
        edit = replace(edit, target_new=ARTEFACT.sub("", edit.target_new))
    if not edit.prompt:
        raise _BadRow("prompt is empty", "say what is asked, or take the row out")
    if not plain(edit.target_new):
        more = "the official script skips such rows too" if kind.name == "ZsRE" else "take the row out"
        raise _BadRow(f"{kind.target} is empty", f"say what the model is to answer from now on, or {more}")
    same = next((one for one in old if plain(one) == plain(edit.target_new)), None)
    if same is not None:
        raise _BadRow(
            f"{kind.target} is the old fact", f"ground_truth is {same!r} too: give another target, or take the row out"
        )
    if edit.subject and plain(edit.subject) not in plain(edit.prompt):
        if kind.own:
            raise _BadRow(
                f"the subject {edit.subject!r} is not in the prompt {edit.prompt!r}",
                "write both alike, or leave the subject out",
            )
        notes.add("kept though the subject is not in the prompt", number)
    return edit


# ---------------------------------------------------------------- several


def _merged(
    found: Sequence[tuple[int, Edit]], kind: Format, source: str, conflicts: str, notes: _Notes
) -> list[tuple[int, Edit]]:
    """Each fact once: rows that repeat an edit add what they ask.

    Raises:
        DataError: naming two edits that contradict each other.
    """
    kept: dict[int, tuple[int, Edit]] = {}
    place_of: dict[str, int] = {}  # what is asked -> place of the edit that says what is answered
    for place, (number, edit) in enumerate(found):
        for other in dict.fromkeys(place_of[one] for one in _asked(edit, kind) if one in place_of):
            if other not in kept:
                continue
            before, rival = kept[other]
            if plain(rival.target_new) != plain(edit.target_new):
                _contradict(source, (before, rival), (number, edit), conflicts, notes)
                del kept[other]
            elif plain(rival.prompt) == plain(edit.prompt):
                notes.add("merged with an earlier edit of the same fact", number)
                edit = _both(rival, edit)
                number = before
                del kept[other]
        kept[place] = (number, edit)
        place_of |= dict.fromkeys(_asked(edit, kind), place)
    return list(kept.values())


def _asked(edit: Edit, kind: Format) -> list[str]:
    """What asks for the fact; rephrases of some benchmarks ask for another one."""
    return [plain(edit.prompt), *(map(plain, edit.rephrases) if kind.own else ())]


def _contradict(source: str, first: tuple[int, Edit], second: tuple[int, Edit], conflicts: str, notes: _Notes) -> None:
    if conflicts == "last":
        notes.add("left out: a later row edits the same fact", first[0])
        notes.left_out.add(first[0])
        return
    (before, one), (number, other) = first, second
    raise DataError(
        f"{source}: rows {before} and {number} contradict each other: {one.prompt!r} is to be answered with "
        f"{one.target_new!r} and {other.prompt!r} with {other.target_new!r}; take one out, or keep the last of such "
        "rows with conflicts=last"
    )


def _both(one: Edit, other: Edit) -> Edit:
    """The first edit with what the other asks besides."""
    lists = ("rephrases", "locality", "hops", "negations", "aliases")
    joined: dict[str, Any] = {
        name: tuple(dict.fromkeys([*getattr(one, name), *getattr(other, name)])) for name in lists
    }
    return replace(one, **joined, reversal=one.reversal or other.reversal, longform=one.longform or other.longform)


def _named(found: Iterable[tuple[int, Edit]]) -> Iterator[Edit]:
    """The edits with ids of their own; one that is taken gets its row behind it."""
    seen: set[str] = set()
    for number, edit in found:
        name = edit.id if edit.id not in seen else f"{edit.id}-row{number}"
        while name in seen:
            name += "+"
        seen.add(name)
        yield replace(edit, id=name)
