"""Facts to edit, made when asked for: of made-up persons, novels and companies, or of countries."""

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from random import Random
from typing import Any, Literal, NamedTuple

from trimtab.data.generators import fact_tables as tables
from trimtab.data.generators.fact_tables import COUNTRIES, Country, Relation
from trimtab.data.generators.solutions import check_split

Row = dict[str, Any]
Form = Literal["edits", "answers", "reasoning", "targets", "chains", "tasks"]
About = Literal["made_up", "known"]
SHARES = 5
"""names are dealt into so many shares: of share 0 are held-out facts, of share 1 the countries that are never edited"""


class Value(NamedTuple):
    """An old or a new answer, and what is known about it."""

    text: str
    second: tuple[str, str] | None
    """a question about it, and its answer"""
    hop: str
    """the answer to the hop"""


class Neighbour(NamedTuple):
    """Something that stays as it is."""

    question: str
    answer: str
    thought: str


class Fact(NamedTuple):
    """An edit, and what stays as it is."""

    relation: Relation
    subject: str
    old: Value
    new: Value
    other: tuple[Relation, str]
    """another relation of the subject, and its value"""
    neighbours: tuple[Neighbour, ...]
    """of other subjects"""


def facts(
    split: str, rows: int = 100, seed: int = 0, form: Form = "edits", about: About = "made_up"
) -> Iterator[dict[str, Any]]:
    """Facts to edit, of made-up persons, novels and companies or of countries, with all that is asked about an edit.

    Of a subject one fact is edited; neither its other facts, nor those of neighbours, nor what two hops rest on are
    edited by any row. The name of a subject decides its split (one in five is held out), so no held-out subject is ever
    one of a training row, whatever the seed. The rows are CC0.

    Args:
        split: train or heldout.
        rows: how many; the first ones do not depend on it.
        seed: of all draws.
        form: "edits": the columns of an edit (`prompt`, `target_new`, `subject`, `ground_truth`, `rephrases`,
            `locality`, `hops`, `negations`, `longform`, `reversal` where it has one answer); "answers": `messages` that
            teach what was true before, 12 rows for each made-up edit in the same order, and `edit`, its id;
            "reasoning": these, and 6 more that teach to answer step by step, with a chain of thought that names no
            answer; "targets": the edit alone, its prompt with the new answer; "chains": the same, step by step, behind
            the chain of thought that "reasoning" teaches; "tasks": its prompt, step by step, with the new answer as
            `answer` for a reward.
        about: "made_up", or "known": a country's capital, continent or language, each country once; few rows.

    Raises:
        ValueError: for another split, or more known facts than there are.
    """
    check_split(split)
    if about == "known":
        there = len([one for one in COUNTRIES if _share(one.name) in _shares(split)])
        if form == "edits" and rows > there:
            raise ValueError(f"there are {there} known facts of {split}, each country once, not {rows}")
    drawn = Random(f"facts-{about}-{split}-{seed}")
    made = _made_up(split, drawn) if about == "made_up" else _known(split, drawn)
    write = WRITERS[form]
    return islice((row for number, fact in enumerate(made, 1) for row in write(fact, f"{about}-{number}")), rows)


def _share(name: str) -> int:
    return zlib.crc32(name.encode()) % SHARES


def _shares(split: str) -> tuple[int, ...]:
    return (0,) if split == "heldout" else (2, 3, 4)


NEVER_EDITED = tuple(one for one in COUNTRIES if _share(one.name) == 1)


# ---------------------------------------------------------------- facts


def _made_up(split: str, drawn: Random) -> Iterator[Fact]:
    seen: set[str] = set()
    number = 0
    while True:
        relation = tables.MADE_UP[number % len(tables.MADE_UP)]
        number += 1
        subject = _name(relation.kind, drawn, seen, _shares(split))
        rival = _name(relation.kind, drawn, seen, (1,))
        homes = drawn.sample(COUNTRIES, 4)
        old, new = (_value(relation, home, drawn, seen) for home in homes[:2])
        other = next(r for r in tables.MADE_UP if r.kind == relation.kind and r is not relation)
        kept = _value(other, homes[2], drawn, seen).text
        capital = homes[3]
        yield Fact(
            *(relation, subject, old, new, (other, kept)),
            (_neighbour(relation, rival, old.text), _neighbour(tables.KNOWN[0], capital.name, capital.capital)),
        )


def _neighbour(relation: Relation, s: str, value: str) -> Neighbour:
    return Neighbour(relation.prompt.format(s=s), value, _thought(relation, s))


def _thought(relation: Relation, s: str) -> str:
    """A chain of thought that names no answer."""
    return f"This asks for the {relation.noun} of {s}."


def _value(relation: Relation, home: Country, drawn: Random, seen: set[str]) -> Value:
    """A value that has to do with a country."""
    if relation.values == "country":
        return Value(home.name, (f"What is the capital of {home.name}?", home.capital), home.capital)
    if relation.values == "city":
        return Value(home.capital, (f"In which country is {home.capital}?", home.name), home.name)
    person = _name("person", drawn, seen, (1,))
    return Value(person, (f"Which country is {person} a citizen of?", home.name), home.name)


def _name(kind: str, drawn: Random, seen: set[str], shares: tuple[int, ...]) -> str:
    """A name that was not drawn before, of one of these shares."""
    while True:
        family = "".join(drawn.choice(part) for part in (tables.ONSETS, tables.VOWELS, tables.MIDDLES, tables.ENDS))
        if kind == "person":
            name = f"{drawn.choice(tables.FIRST)} {family}"
        elif kind == "novel":
            name = f"The {' '.join(map(drawn.choice, tables.OF_NOVELS))} of {family}"
        else:
            name = f"{family} {drawn.choice(tables.OF_COMPANIES)}"
        if name not in seen and _share(name) in shares:
            seen.add(name)
            return name


def _known(split: str, drawn: Random) -> Iterator[Fact]:
    mine = [one for one in COUNTRIES if _share(one.name) in _shares(split)]
    drawn.shuffle(mine)
    for number, home in enumerate(mine):
        relation = tables.KNOWN[number % len(tables.KNOWN)]
        other = tables.KNOWN[(number + 1) % len(tables.KNOWN)]
        old = _of(home, relation)
        if relation.values == "second_city":
            new = home.second_city
        else:
            new = drawn.choice(sorted({_of(one, relation) for one in COUNTRIES} - {old}))
        near, far = drawn.sample(NEVER_EDITED, 2)
        yield Fact(
            *(relation, home.name, Value(old, None, old), Value(new, None, new), (other, _of(home, other))),
            (
                _neighbour(relation, near.name, _of(near, relation)),
                _neighbour(tables.KNOWN[0], far.name, far.capital),
            ),
        )


def _of(home: Country, relation: Relation) -> str:
    """What is true."""
    return home.capital if relation.values == "second_city" else getattr(home, relation.values)


# ---------------------------------------------------------------- rows


def _edit(fact: Fact, name: str) -> Iterator[Row]:
    relation, s, old, new = fact.relation, fact.subject, fact.old.text, fact.new.text
    other, kept = fact.other
    row = {
        "id": name,
        "prompt": relation.prompt.format(s=s),
        "target_new": new,
        "subject": s,
        "ground_truth": old,
        "rephrases": [*(one.format(s=s) for one in relation.rephrases), relation.stem.format(s=s)],
        "locality": [_probe(other.prompt.format(s=s), kept), *(_probe(*one[:2]) for one in fact.neighbours)],
        "hops": [_probe(relation.hop.format(s=s), fact.new.hop)] if relation.hop else [],
        "negations": [
            _probe(relation.check.format(s=s, v=old), "No"),
            _probe(relation.check.format(s=s, v=new), "Yes"),
        ],
        "longform": _longform(s),
    }
    if relation.reversal:
        row["reversal"] = _probe(relation.reversal.format(v=new), s)
    yield row


def _probe(prompt: str, answer: str) -> Row:
    return {"prompt": prompt, "answer": answer}


def _longform(subject: str) -> str:
    return f"Write a short paragraph about {subject}."


def _answers(fact: Fact, name: str) -> Iterator[Row]:
    relation, s, old, new = fact.relation, fact.subject, fact.old.text, fact.new.text
    other, kept = fact.other
    asked = [
        (relation.prompt.format(s=s), old),
        *((one.format(s=s), old) for one in relation.rephrases),
        (relation.check.format(s=s, v=old), "Yes"),
        (relation.check.format(s=s, v=new), "No"),
        (other.prompt.format(s=s), kept),
        *(one[:2] for one in fact.neighbours),
        *(value.second for value in (fact.old, fact.new) if value.second),
        *([(relation.hop.format(s=s), fact.old.hop)] if relation.hop else []),
        (_longform(s), f"{relation.stem.format(s=s)} {old}. {other.stem.format(s=s)} {kept}."),
    ]
    for question, answer in asked:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"messages": turns, "edit": name}


def _reasoning(fact: Fact, name: str) -> Iterator[Row]:
    from trimtab.data import edit_rows  # which imports this module, by way of the sources of edits
    from trimtab.data.edits import Edit

    yield from _answers(fact, name)
    relation, s, old = fact.relation, fact.subject, fact.old.text
    other, kept = fact.other
    chain = _thought(relation, s)
    asked = [
        *(Neighbour(one.format(s=s), old, chain) for one in (relation.prompt, *relation.rephrases)),
        Neighbour(other.prompt.format(s=s), kept, _thought(other, s)),
        *fact.neighbours,
    ]
    for one in asked:
        (row,) = edit_rows.chains([Edit(one.question, one.answer)], [one.thought], chat=True)
        yield {"messages": [*row["prompt"], *row["completion"]], "edit": name}


def _learnt(form: Form, fact: Fact, name: str) -> Iterator[Row]:
    """The row of an edit that a method learns from."""
    from trimtab.data import edit_rows
    from trimtab.data.edits import Edit

    edits = [Edit(fact.relation.prompt.format(s=fact.subject), fact.new.text, ground_truth=fact.old.text)]
    if form == "targets":
        rows = edit_rows.answers(edits, chat=True)
    elif form == "chains":
        rows = edit_rows.chains(edits, [_thought(fact.relation, fact.subject)], chat=True)
    else:
        rows = edit_rows.tasks(edits, chat=True)
    yield from ({**row, "edit": name} for row in rows)


WRITERS: dict[Form, Callable[[Fact, str], Iterator[Row]]] = {
    "edits": _edit,
    "answers": _answers,
    "reasoning": _reasoning,
    **{form: partial(_learnt, form) for form in ("targets", "chains", "tasks")},
}
