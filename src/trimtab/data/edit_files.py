"""Rows of edits as users and benchmarks write them, turned into the columns of `trimtab.data.edits.Edit`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.common.csv_text import unpacked
from trimtab.data.sources import DataError, Row

Read = Callable[[Row], list[Row]]
NQ = "nq question: "
"""with which the neighbours of ZsRE begin"""
OWN = (
    *("id", "prompt", "target_new", "subject", "ground_truth", "aliases", "rephrases", "locality", "hops"),
    *("negations", "reversal", "longform"),
)
FLAT = (*OWN, "case_id", "rephrase_prompt", "locality_prompt", "locality_ground_truth", "portability")
ASKED, ANSWER = ("prompt", "question", "loc"), ("answer", "ground_truth", "loc_ans")
"""names of the two columns of a probe"""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    needs: tuple[str, ...]
    """columns that all rows have, by which the file is recognised"""
    read: Read
    """a row -> rows with the columns `OWN`; any error for one of another form"""
    target: str = "target_new"
    """the column of the new fact, for messages"""
    own: bool = False
    """a file that its user has written: a bad row is refused and not left out"""
    known: tuple[str, ...] = ()
    """columns that need not be there; others are named as not read"""


def texts(value: Any) -> list[str]:
    """One text or several, also in lists of lists; a cell of CSV may hold a list as JSON."""
    value = unpacked(value) if isinstance(value, str) else value
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence):
        raise TypeError
    return [text for one in value for text in texts(one) if text.strip()]


def first(value: Any) -> str | None:
    found = texts(value)
    return found[0] if found else None


def probes(value: Any) -> list[Row]:
    """What is asked: objects, pairs [prompt, answer], or prompts alone, or kinds with lists of these; a cell of
    CSV may hold them as JSON.

    Raises:
        TypeError: where it is none of these.
    """
    value = unpacked(value) if isinstance(value, str) else value
    if value is None or value == "":
        return []
    if isinstance(value, Mapping) and not any(key in value for key in ASKED):
        return [one for kind in value.values() for one in probes(kind)]
    if isinstance(value, (str, Mapping)):
        value = [value]
    return [_probe(one) for one in value]


def _probe(one: Any) -> Row:
    if isinstance(one, str):
        return {"prompt": one, "answer": None}
    if isinstance(one, Mapping):
        name = next((key for key in ASKED if key in one), None)
        if name is None:
            raise TypeError
        answers = next((texts(one[key]) for key in ANSWER if key in one), [])
        return {
            "prompt": one[name],
            "answer": answers[0] if answers else None,
            "aliases": [*answers[1:], *texts(one.get("aliases"))],
        }
    prompt, answer = one
    return {"prompt": prompt, "answer": answer}


# ---------------------------------------------------------------- benchmarks


def _zsre(row: Row) -> list[Row]:
    """The edit is src -> alt; `answers` is the old fact. The neighbour's prompt loses "nq question: " and gets its
    question mark. A second hop that toolkits have added in `portability` is a hop."""
    neighbour = row["loc"].removeprefix(NQ).strip()
    neighbour += "" if neighbour.endswith("?") else "?"
    answers = texts(row.get("answers"))
    hops = row.get("portability") or {}
    found = {
        "prompt": row["src"],
        "target_new": row["alt"],
        "subject": row["subject"],
        "ground_truth": answers,
        "rephrases": texts(row["rephrase"]),
        "locality": [{"prompt": neighbour, "answer": first(row["loc_ans"])}],
        "hops": _portability(hops),
    }
    return [found]


def _portability(given: Any) -> list[Row]:
    """A second hop as the toolkits have added it to ZsRE and CounterFact, or the lists of KnowEdit."""
    if isinstance(given, Mapping) and "New Question" in given:
        return [{"prompt": given["New Question"], "answer": given["New Answer"]}]
    return probes(given)


def _counterfact(row: Row) -> list[Row]:
    """The nested rows of the release: stems, not questions. Neighbourhood prompts are the neighbours, with the old fact
    as their answer; the first generation prompt asks for a text."""
    asked = row["requested_rewrite"]
    truth = asked["target_true"]["str"]
    return [
        {
            "id": row.get("case_id"),
            "prompt": asked["prompt"].replace("{}", asked["subject"]),
            "target_new": asked["target_new"]["str"],
            "subject": asked["subject"],
            "ground_truth": truth,
            "rephrases": texts(row["paraphrase_prompts"]),
            "locality": [{"prompt": one, "answer": truth} for one in texts(row["neighborhood_prompts"])],
            "longform": first(row.get("generation_prompts")),
        }
    ]


def _qaedit(row: Row) -> list[Row]:
    """The edit is prompt -> target; a star behind a target is taken off. All five neighbours are asked, of which the
    reference script reads the first."""
    return [
        {
            "id": row.get("id"),
            "prompt": row["prompt"],
            "target_new": row["target"],
            "subject": row["subject"],
            "ground_truth": row.get("ground_truth"),
            "rephrases": texts(row["rephrase"]),
            "locality": [{"prompt": one["loc"], "answer": first(one["loc_ans"])} for one in row["locality"]],
        }
    ]


def _mquake(row: Row) -> list[Row]:
    """Each rewrite of a case is an edit: its question is the prompt, its stem a rephrase. The multi-hop questions are
    hops of the last one, when all of them have been made; an edit that several cases share is one edit."""
    found = []
    for number, asked in enumerate(row["requested_rewrite"], start=1):
        stem = asked["prompt"].replace("{}", asked["subject"])
        found.append(
            {
                "id": f"{row['case_id']}-{number}" if "case_id" in row else None,
                "prompt": asked.get("question") or stem,
                "target_new": asked["target_new"]["str"],
                "subject": asked["subject"],
                "ground_truth": asked["target_true"]["str"],
                "rephrases": [stem] if asked.get("question") else [],
            }
        )
    hops = {"answer": row["new_answer"], "aliases": texts(row.get("new_answer_alias"))}
    found[-1]["hops"] = [{"prompt": question, **hops} for question in texts(row["questions"])]
    return found


def _own(row: Row) -> list[Row]:
    """Our own columns, and those of the toolkits' flattened files: `rephrase_prompt`, `locality_prompt` and
    `locality_ground_truth`, and KnowEdit's lists in `locality` and `portability`."""
    neighbours, answers = texts(row.get("locality_prompt")), texts(row.get("locality_ground_truth"))
    pairs = zip(neighbours, answers or [None] * len(neighbours), strict=True)
    return [
        {
            "id": row.get("case_id"),
            **{key: row[key] for key in OWN if row.get(key) not in (None, "")},
            "rephrases": [*texts(row.get("rephrases")), *texts(row.get("rephrase_prompt"))],
            "locality": [*probes(row.get("locality")), *({"prompt": p, "answer": a} for p, a in pairs)],
            "hops": [*probes(row.get("hops")), *_portability(row.get("portability"))],
        }
    ]


FORMATS = (
    Format(
        "MQuAKE", ("requested_rewrite", "questions", "new_answer"), _mquake, "target_new",
        known=("case_id", "new_answer_alias", "answer", "answer_alias", "single_hops", "new_single_hops", "orig"),
    ),
    Format(
        "CounterFact", ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"), _counterfact,
        known=("case_id", "pararel_idx", "generation_prompts", "attribute_prompts"),
    ),
    Format(
        "ZsRE", ("subject", "src", "alt", "rephrase", "loc", "loc_ans"), _zsre, "alt",
        known=("pred", "answers", "cond", "portability", "case_id"),
    ),
    Format(
        "QAEdit", ("prompt", "target", "subject", "rephrase", "locality"), _qaedit, "target",
        known=("id", "source", "ground_truth"),
    ),
    Format("CounterFact (flat)", ("case_id", "prompt", "target_new", "rephrase_prompt"), _own, known=FLAT),
    Format("trimtab", ("prompt", "target_new"), _own, own=True, known=FLAT),
)  # fmt: skip
"""in the order in which they are tried"""


def format_of(row: Mapping[str, Any], source: str) -> Format:
    """The kind of file whose first row this is.

    Raises:
        DataError: saying what was expected.
    """
    for one in FORMATS:
        if set(one.needs) <= row.keys():
            return one
    others = "; ".join(f"{one.name}: {', '.join(one.needs)}" for one in FORMATS[:-1])
    raise DataError(
        f"{source}: row 1 has the columns {', '.join(map(str, row)) or 'none'}, by which it is no edit; expected "
        f"prompt and target_new (and {', '.join(OWN[3:])}), or the columns of a benchmark ({others})"
    )
