"""One pass of a served teacher over the rows of a recipe, which writes a teacher cache of its most likely tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from trimtab import __version__
from trimtab.common.environment import environment
from trimtab.common.workdir import read_signature
from trimtab.runs.cached_teacher import COVERED_MASS, DTYPE, KIND, NAMED, PLACES, TEACHER, TOP_K, VOCABULARY
from trimtab.runs.served_teacher import ServedFacts, check_lengths, open_served
from trimtab.runs.signature import tokenizer_lines
from trimtab.runs.teacher_reader import Given
from trimtab.signals.row_store import rows_of
from trimtab.signals.served import ServedTeacher


def lines_of(facts: ServedFacts, name: str, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """What a cache that a server writes is signed with.

    Args:
        name: as the recipe has it.
        folder: of the cache, which an earlier call may have begun.
    """
    return {
        KIND: facts.kind,
        TOP_K: facts.k,
        TEACHER: facts.said_as((read_signature(folder) or {}).get(TEACHER)),
        **tokenizer_lines(tokenizer),
        VOCABULARY: facts.vocab,
        "frozen dtype": "that of the server",
        DTYPE: "float32",
        PLACES: None if facts.longest is None else facts.longest - 1,
        NAMED: name,
        "trimtab": __version__,
        **environment(),
    }


def signal_of(facts: ServedFacts, prepared: list[Any]) -> ServedTeacher:
    """The teacher, which can read all rows."""
    for one in prepared:
        check_lengths(facts, one)
    return open_served(facts, None)


def given(signal: ServedTeacher, inputs: Mapping[str, Tensor]) -> Given:
    """Key, fields and counted numbers of each row of a batch, whose rows are asked for at once."""
    found = signal.fields(dict(rows_of(inputs))).items()
    return [(key, fields, {COVERED_MASS: float(-fields["rest"].double().expm1().sum())}) for key, fields in found]
