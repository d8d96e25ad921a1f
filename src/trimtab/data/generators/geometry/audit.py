"""The authors' files: read from the user's folder, and their labels held against the oracle.

The files carry no licence and do not come with trimtab. Their sentences are not parsed: who wants to audit them types a
scene for each, in the notation of `Claim`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.data.generators.geometry.constructions import ALL
from trimtab.data.generators.geometry.oracle import Evidence, Query, judge
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS
from trimtab.data.generators.geometry.scenes import Scene, Undecided
from trimtab.data.sources import DataError, load_rows

HOW = (
    "clone the authors' repository of GeomRel (arXiv:2501.13773) at a commit that still has its data folder, "
    "and give the folder that holds data/basic and data/advanced"
)
OPTION = re.compile(r"([A-E])\.\s*(.+?)(?=\s+[A-E]\.\s|\s*\.?$)")
STEMS = ("question", "problem", "prompt")


def load(folder: str | Path) -> list[dict[str, Any]]:
    """Rows of all .jsonl files in the folder and below it, in the order of their paths.

    Returns:
        rows with question, text (without options), options, answer, relation, level and source (the file's stem).

    Raises:
        DataError: naming the file, the row and the key, and how to get the files.
    """
    folder = Path(folder).expanduser()
    files = sorted(path for path in folder.rglob("*.jsonl") if path.is_file()) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no .jsonl file of GeomRel; {HOW}")
    return [
        _official(row, f"{path}: row {n}", path.stem) for path in files for n, row in enumerate(load_rows(str(path)), 1)
    ]


def _official(row: Mapping[str, Any], where: str, stem: str) -> dict[str, Any]:
    key = next((key for key in STEMS if isinstance(row.get(key), str)), None)
    if key is None:
        raise DataError(f"{where} has no text under question, problem or prompt, but the keys {', '.join(row)}; {HOW}")
    text, _, choices = row[key].partition("Answer choices:")
    options = {letter: option.strip() for letter, option in OPTION.findall(" ".join(choices.split()))}
    if not options:
        raise DataError(f'{where}: {key} has no options after "Answer choices:"; {HOW}')
    answer = row.get("answer", row.get("gold"))
    if not isinstance(answer, str) or answer.strip()[:1] not in options:
        raise DataError(f"{where}: answer is {answer!r}, which is none of the options {', '.join(options)}; {HOW}")
    source = str(row.get("source", stem))
    return {
        "question": row[key],
        "text": text.strip(),
        "options": options,
        "answer": answer.strip()[0],
        "relation": str(row.get("relation", "unknown")),
        "level": "basic" if source.endswith("base") else "advanced",
        "source": source,
    }


# ---------------------------------------------------------------- labels against the oracle


class Claim(NamedTuple):
    """A label of a scene typed by hand. Points are letters; steps are (construction, letters in the order of roles)."""

    steps: tuple[tuple[str, str], ...]
    kind: str
    """of `questions.QUESTIONS`"""
    arguments: tuple[str, ...]
    relation: str
    """the code that is claimed"""
    offered: tuple[str, ...] = ()
    """names of angle relations; all of the kind if empty"""


class Wrong(NamedTuple):
    """A label that does not stand."""

    claim: Claim
    found: str | None
    """the code that the oracle gives; None if none can be given"""
    why: str
    evidence: Evidence | None = None


def audit(claims: Iterable[Claim]) -> list[Wrong]:
    """The claims whose label is another than the oracle's, or which no label fits.

    Raises:
        DataError: if a claim names an unknown construction or question, has a wrong number of letters, or takes a point
            that is not there yet.
    """
    wrong = []
    for number, claim in enumerate(claims, 1):
        scene, query = typed(claim, f"claim {number}")
        try:
            judged = judge(scene, query)
        except Undecided as error:
            wrong.append(Wrong(claim, None, str(error)))
            continue
        code = QUESTIONS[claim.kind].codes[judged.answer]
        if code != claim.relation:
            why = f"{judged.evidence.kind} over {judged.evidence.number} realisations"
            wrong.append(Wrong(claim, code, why, judged.evidence))
    return wrong


def audit_files(folder: str | Path, scenes: str | Path) -> list[Wrong]:
    """Labels of the authors' files against the oracle, for those rows that a file of scenes covers.

    Args:
        folder: as for `load`.
        scenes: a .jsonl file of the user, its rows {"source", "number" (of the row in that file, from 1), "steps",
            "kind", "arguments", "offered" (may be missing)}; see `Claim`.

    Raises:
        DataError: as `load` and `audit`, or if a scene names a row that is not there.
    """
    by_place: dict[tuple[str, int], dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for row in load(folder):
        counts[row["source"]] = counts.get(row["source"], 0) + 1
        by_place[row["source"], counts[row["source"]]] = row
    claims = []
    for n, scene in enumerate(load_rows(str(scenes)), 1):
        missing = [key for key in ("source", "number", "steps", "kind", "arguments") if key not in scene]
        if missing:
            raise DataError(f"{scenes}: row {n} has no {missing[0]}; expected source, number, steps, kind, arguments")
        place = (scene["source"], scene["number"])
        if place not in by_place:
            raise DataError(f"{scenes}: row {n}: {folder} has no row {place[1]} of {place[0]}")
        steps = tuple((name, letters) for name, letters in scene["steps"])
        offered = tuple(scene.get("offered", ()))
        claims.append(Claim(steps, scene["kind"], tuple(scene["arguments"]), by_place[place]["relation"], offered))
    return audit(claims)


def typed(claim: Claim, where: str) -> tuple[Scene, Query]:
    """The scene and the query of a claim, with points by number.

    Raises:
        DataError: as `audit`, beginning with `where`.
    """
    numbers: dict[str, int] = {}
    steps = []
    for name, letters in claim.steps:
        if name not in ALL:
            raise DataError(f"{where}: there is no construction {name!r}; there are: {', '.join(ALL)}")
        c = ALL[name]
        if len(letters) != len(c.letters):
            raise DataError(f"{where}: {name} has the roles {c.roles}, but the letters {letters!r}")
        for place, letter in enumerate(letters):
            taken = place < len(c.taken)
            if (letter in numbers) != taken and (steps or not taken):
                fault = "is not there yet" if taken else "is there already"
                raise DataError(f"{where}: {name} {'takes' if taken else 'gives'} {letter}, which {fault}")
            numbers.setdefault(letter, len(numbers))
        steps.append((name, tuple(numbers[letter] for letter in letters)))
    if claim.kind not in QUESTIONS:
        raise DataError(f"{where}: there is no question {claim.kind!r}; there are: {', '.join(QUESTIONS)}")
    unknown = sorted({letter for argument in claim.arguments for letter in argument if letter not in numbers})
    if unknown:
        raise DataError(f"{where} asks about {', '.join(unknown)}, but its scene has the points {''.join(numbers)}")
    offered = claim.offered or tuple(n for n in QUESTIONS[claim.kind].answers if n not in (NONE, CANNOT))
    arguments = tuple(tuple(numbers[letter] for letter in argument) for argument in claim.arguments)
    return Scene(tuple(steps)), Query(claim.kind, arguments, offered)
