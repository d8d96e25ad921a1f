"""A recipe with several teachers: which row has which, and the signal."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from trimtab.common import fingerprint
from trimtab.data.counts import Prepared
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.runs.models_key import TEACHER, teachers_of
from trimtab.runs.recipe import Recipe
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.several import Teachers


def routes(
    recipe: Recipe, sources: Mapping[str, Prepared | None], read: Callable[[str], list[Row]] = load_rows
) -> tuple[dict[str, Tensor], list[str]]:
    """For each row of each source which teacher is its own, by index, where a column says it; and notes on teachers
    that no row names.

    Args:
        read: gives the rows of a source.

    Raises:
        DataError: naming the first row without one of the teachers.
    """
    names, column = list(teachers_of(recipe.models)), recipe.data.teacher_column
    if column is None:
        return {}, []
    found, notes = {}, []
    for which, prepared in sources.items():
        if prepared is None:
            continue
        rows = read(prepared.source)[: prepared.sources]
        own = [_route(row, names, column, f"{prepared.source}: row {i}") for i, row in enumerate(rows, start=1)]
        found[which] = torch.tensor(own)
        if idle := [name for i, name in enumerate(names) if i not in set(own)]:
            notes.append(f"{prepared.source}: no row names {', '.join(idle)} in its {column}")
    return found, notes


def _route(row: Mapping[str, Any], names: list[str], column: str, where: str) -> int:
    if column not in row:
        raise DataError(f"{where} has no column {column!r}, which data.teacher_column names; give each row its teacher")
    name = row[column]
    if not isinstance(name, str):
        way = f"; write {json.dumps(str(name))}" if str(name) in names else ""
        raise DataError(f"{where} has {json.dumps(name)} in {column!r}, but the name of a teacher is a text{way}")
    if name not in names:
        raise DataError(f"{where} has the teacher {name!r} in {column!r}; the teachers are: {', '.join(names)}")
    return names.index(name)


def facts(recipe: Recipe, prints: Mapping[str, str]) -> dict[str, str]:
    """For signatures: the teachers, what chooses among them, and a fingerprint of all.

    Args:
        prints: role -> fingerprint of the model.
    """
    teachers, weights = teachers_of(recipe.models), recipe.models.teacher_weights
    if not teachers:
        return {}
    shares = {name: f" x {weights[name]:g}" if weights else "" for name in teachers}
    listed = ", ".join(f"{name} {model}{shares[name]}" for name, model in teachers.items())
    how = "" if weights else f" by {recipe.data.teacher_column}"
    content = [(name, prints[f"{TEACHER}.{name}"], shares[name]) for name in teachers]
    return {TEACHER: f"{listed}{how} {fingerprint.of_text(str((content, how)))}"}


def signal(
    recipe: Recipe,
    teachers: Mapping[str, FrozenModel],
    routed: Tensor | None,
    reads: Literal["distribution", "answers"],
) -> Teachers:
    """Several teachers as one.

    Args:
        teachers: by name.
        routed: of the rows that they read, see `routes`.
    """
    weights = recipe.models.teacher_weights
    if weights is None:
        return Teachers(list(teachers.values()), routes=routed, reads=reads)
    return Teachers(list(teachers.values()), weights=[weights[name] for name in teachers], reads=reads)
