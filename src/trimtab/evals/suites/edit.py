"""Edits of facts: whether the model says them, and only them, when it speaks.

Each edit is asked as it was made, in other words, in two hops, denied, from its other end and in a paragraph about its
subject, and its neighbours are asked with it; all by generation, which ends where the model or the length ends it and
never at a full stop or a line break. Modes: `chat` (the model's template), `reasoning` (the same, step by step),
`question` (the bare text to continue) and `instruction` (a text that asks for a short answer, to continue).

`before` is the folder of the same evaluation of the model before the edit. With it, what was known before is not
counted as an edit, locality is also the identity of answers, and the drift is measured.

Verdicts: `contains` (the answer stands in the reply, both normalised), `match` (it is the reply), and with `judge` what
a model says of them. Score over prefixes of the right answer: one column, called legacy.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from trimtab.data.edit_rows import STEPWISE, to_complete
from trimtab.data.edits import Edit, EditSet, Probe, is_cloze, load_edits
from trimtab.data.generators.fact_tables import COUNTRIES
from trimtab.evals.judges import conclusion, contains, is_yes_or_no, matches, normalised, yes_or_no
from trimtab.evals.suite import Item, Messages, Options, Suite, SuiteError, Verdict, text, user
from trimtab.evals.suites._edit_before import Before, load_before
from trimtab.evals.suites._edit_finish import finish
from trimtab.evals.suites._edit_measures import measures

Mode = Literal["chat", "reasoning", "question", "instruction"]
REASONING_TOKENS, LONGFORM_TOKENS = 512, 192


class EditSettings(Options):
    file: str = "trimtab:facts/heldout?rows=10&about=known"
    """The edits: rows as of a recipe, in our own columns or as ZsRE, CounterFact, QAEdit or MQuAKE come."""
    modes: tuple[Mode, ...] = Field(("chat",), min_length=1)
    """How the model is asked: chat, reasoning, question, instruction; several give a column of numbers each."""
    before: str = ""
    """Folder of the evaluation of the original model, with the same edits and modes."""
    number: int | None = Field(None, ge=1)
    """Edits at most, the first ones."""
    conflicts: Literal["refuse", "last"] = "refuse"
    """Refuse two edits of one fact with different targets, or keep the last."""
    general: int = Field(20, ge=0)
    """Known facts that no edit is about, asked besides: the capitals of so many countries."""
    judge: str = ""
    """A model that judges the answers: a builtin model, a folder, a hub id, or the URL of a server."""
    judge_model: str = ""
    """Name of the judge on the server."""
    judge_served_as: str = ""
    """Name under which the judge's server answers, if that is not `judge_model` or a dated version of it."""
    judge_key_env: str = "TRIMTAB_API_KEY"
    """Environment variable with the key of the judge's server."""
    legacy: bool = True
    """Also the toolkits' score: the share of the target's tokens that are the likeliest behind each of its prefixes, in
    each mode but reasoning."""
    drift: int = Field(40, ge=0)
    """Everyday answers on which the distributions before and after are compared; needs `before`."""


# ---------------------------------------------------------------- items


def items(settings: EditSettings) -> list[Item]:
    """All probes of all edits in all modes.

    Raises:
        DataError: naming the row of the edits.
        SuiteError: naming the answer that `before` lacks, or a judge that is not there.
    """
    check_judge(settings.judge, settings.judge_model, settings.judge_served_as)
    edits = load(settings)
    before = load_before(settings.before) if settings.before else None
    found = []
    for mode in dict.fromkeys(settings.modes):
        for edit in edits:
            found += _of_edit(edit, mode, before)
        found += [
            _item(f"general-{n}", mode, "general", one, before) for n, one in enumerate(_general(settings, edits))
        ]
    return found


def check_judge(judge: str, model: str, served_as: str = "") -> None:
    """Look for a judge before the first answer is generated.

    Raises:
        SuiteError: if it is not there, or a server's model has no name.
    """
    if judge.startswith(("http://", "https://")):
        if not model:
            raise SuiteError(f"edit.judge is the server {judge}; name its model: edit.judge_model=NAME")
    elif model or served_as:
        key = "judge_model" if model else "judge_served_as"
        raise SuiteError(f"edit.{key} names the model of a server, but edit.judge is {judge or 'not given'}")
    elif judge:
        from trimtab.models.builtin import BUILTIN, ModelNotFound  # heavy, and most evaluations have no judge
        from trimtab.models.places import place_of

        try:
            if judge not in BUILTIN:
                place_of(judge)
        except ModelNotFound as error:
            raise SuiteError(f"edit.judge: {error}") from None


def load(settings: EditSettings) -> EditSet:
    """The edits that are evaluated."""
    found = load_edits(settings.file, conflicts=settings.conflicts)
    return EditSet(found.edits[: settings.number], found.format, found.notes, found.left_out)


def _of_edit(edit: Edit, mode: str, before: Before | None) -> list[Item]:
    asked = list(_probes(edit))
    shared: dict[str, Any] = {"edit": edit.id, "new": [edit.target_new, *edit.aliases], "old": edit.ground_truth}
    if before is not None:
        first = before.reply(_name(edit.id, mode, "reliability", 0), edit.prompt)
        shared["known"] = first is not None and contains(_read(first, mode), shared["new"])
    numbers: dict[str, int] = {}
    found = []
    for kind, probe in asked:
        number = numbers[kind] = numbers.get(kind, -1) + 1
        more = {"fact": edit.prompt} if kind == "longform" else {}
        found.append(_item(edit.id, mode, kind, probe, before, number, **shared, **more))
    return found


def _probes(edit: Edit) -> Iterator[tuple[str, Probe]]:
    yield "reliability", Probe(edit.prompt, edit.target_new, edit.aliases)
    for one in edit.rephrases:
        yield "generalisation", Probe(one, edit.target_new, edit.aliases)
    for kind, probes in (("locality", edit.locality), ("portability", edit.hops), ("negation", edit.negations)):
        for probe in probes:
            yield kind, probe
    if edit.reversal is not None:
        yield "reversal", edit.reversal
    if edit.longform is not None:
        yield "longform", Probe(edit.longform, edit.target_new, edit.aliases)


def _name(owner: str, mode: str, kind: str, number: int) -> str:
    return f"{owner}.{kind}.{number}.{mode}"


def _item(owner: str, mode: str, kind: str, probe: Probe, before: Before | None, number: int = 0, **data: Any) -> Item:
    name = _name(owner, mode, kind, number)
    answers = () if probe.answer is None else (probe.answer, *probe.aliases)
    if before is not None:
        data["before"] = before.reply(name, probe.prompt)
    tokens = LONGFORM_TOKENS if kind == "longform" else None
    return Item(
        id=name,
        text=probe.prompt,
        target=answers,
        groups={"probe": kind, "mode": mode},
        max_new_tokens=REASONING_TOKENS if mode == "reasoning" else tokens,
        data=data,
    )


def _general(settings: EditSettings, edits: Sequence[Edit]) -> list[Probe]:
    """Capitals of countries that no edit names."""
    named = normalised(" ".join(f"{e.prompt} {e.subject} {e.target_new} {e.ground_truth or ''}" for e in edits))
    free = [one for one in COUNTRIES if normalised(one.name) not in named and normalised(one.capital) not in named]
    return [Probe(f"What is the capital of {one.name}?", one.capital) for one in free[: settings.general]]


# ---------------------------------------------------------------- asking


def ask(item: Item, before: Sequence[str]) -> Messages:
    """The probe in the item's mode."""
    mode, kind, asked = item.groups["mode"], item.groups["probe"], item.text
    cloze = is_cloze(asked) and kind != "longform"
    if mode == "question" or (mode == "instruction" and kind == "longform"):
        return text(asked)
    if mode == "instruction":
        if cloze:
            return text(f"Complete the sentence with a few words.\nSentence: {asked}")
        return text(f"Answer the question with a few words.\nQuestion: {asked}\nAnswer:")
    question = to_complete(asked) if cloze else asked
    return user(f"{question}\n\n{STEPWISE}" if mode == "reasoning" and kind != "longform" else question)


# ---------------------------------------------------------------- verdicts


def _read(reply: str, mode: str) -> str:
    """What counts of a reply: all of it, but where a model reasons its conclusion, if it marks one."""
    return conclusion(reply) if mode == "reasoning" else reply.strip()


def score(item: Item, reply: str) -> Mapping[str, Verdict]:
    """Verdicts by containment and by match; without an answer to find, the reply itself."""
    said = _read(reply, item.groups["mode"])
    if not said:
        return {"contains": Verdict(None, None), "match": Verdict(None, None)}
    if not item.target:
        return {"contains": Verdict(None, None), "match": Verdict(None, None)}
    if is_yes_or_no(item.target):
        word = yes_or_no(said)
        first = Verdict(None, None) if word is None else Verdict(word, float(word == normalised(item.target[0])))
        return {"contains": first, "match": Verdict(said, float(matches(said, item.target)))}
    return {
        "contains": Verdict(said, float(contains(said, item.target))),
        "match": Verdict(said, float(matches(said, item.target))),
    }


SUITE = Suite(
    paper="arXiv:2512.04753",
    version="1",
    options=EditSettings,
    items=items,
    prompts={"edit": (ask,)},
    score=score,
    max_new_tokens=64,
    measures=measures,
    accuracy=False,
    finish=finish,
)
