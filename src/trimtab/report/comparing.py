"""Held-out metrics of runs, with intervals, and which runs can be compared."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trimtab.metrics.intervals import Interval, bootstrap_ratio, paired_difference
from trimtab.report.measures import Measure
from trimtab.report.reading import Run

OWN_VALUE_OF_A_TEACHER = {
    "forward_kl": 0.0, "reverse_kl": 0.0, "agreement": 1.0, "map_cosine": 1.0, "attribution_loss": 0.0,
}  # fmt: skip
OF_A_MODEL = ("nll", "cross_entropy", "squared_error")
"""fields of rows by which two models are told apart: of language models, classifiers, regressions"""


def value(run: Run, step: int, measure: Measure) -> Interval | None:
    """The measure at a step: from rows with an interval, else from the evaluation event without; None if unknown."""
    rows = _rows(run, step, measure)
    sums = _column(rows, measure.key)
    if sums is not None:
        return _ratio(tuple(sums), tuple(_weights(rows, measure)), _transform(measure))
    mean = _mean(run, step, measure.event_key)
    return None if mean is None else Interval(mean, np.nan, np.nan)


def first(run: Run, measure: Measure) -> Interval | None:
    return value(run, run.measured[0], measure) if run.measured else None


def last(run: Run, measure: Measure) -> Interval | None:
    return value(run, run.measured[-1], measure) if run.measured else None


def change(run: Run, measure: Measure) -> Interval | None:
    """Last minus first, paired over rows, or without an interval where one of them was not measured row by row."""
    before, after = first(run, measure), last(run, measure)
    if len(run.measured) < 2 or before is None or after is None:
        return None
    start, end = run.measured[0], run.measured[-1]
    if all(_column(_rows(run, step, measure), measure.key) is not None for step in (start, end)):
        return _paired(run, start, run, end, measure)
    return Interval(after.estimate - before.estimate, np.nan, np.nan)


def difference(run: Run, other: Run, measure: Measure) -> Interval | None:
    """How much `other` ends above `run`, paired over held-out rows; None where the two may not be compared."""
    if obstacles(run, other) or (measure.against == "teacher" and teacher_obstacles(run, other)):
        return None
    if measure.against == "start" and not _agree(_untrained_profile(run), _untrained_profile(other)):
        return None
    return _paired(run, run.measured[-1], other, other.measured[-1], measure)


def obstacles(run: Run, other: Run) -> list[str]:
    """Why the two runs may not be compared on held-out data, in words; empty where they may."""
    ours, theirs = _last_rows(run), _last_rows(other)
    without = [one.name for one, rows in ((run, ours), (other, theirs)) if not rows]
    if without:
        return [f"no row-by-row measurement at the last evaluation of {' and '.join(without)}"]
    shared = ours.keys() & theirs.keys()
    if ours.keys() != theirs.keys():
        return [
            f"they were measured on different held-out rows ({run.name}: {len(ours)}, {other.name}: {len(theirs)}, "
            f"in both: {len(shared)})"
        ]
    if any(ours[row]["tokens"] != theirs[row]["tokens"] for row in shared):
        return ["the same held-out rows have different numbers of tokens, so text or tokenizer differ"]
    heldout_is_named = any(_subject(key) == "heldout" for key in run.signature.keys() & other.signature.keys())
    return _conflicts(run, other, "heldout" if heldout_is_named else "data")


def teacher_obstacles(run: Run, other: Run) -> list[str]:
    """Why measures against the teacher may not be compared although others may."""
    if not _teacher_profile(run) or not _teacher_profile(other):
        return []  # nothing to compare
    conflicts = _conflicts(run, other, "teacher")
    if not conflicts and not _agree(_teacher_profile(run), _teacher_profile(other)):
        conflicts = [f"the teachers of {run.name} and {other.name} give the same held-out rows different likelihoods"]
    return conflicts


def untrained(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that measured the untrained student at step 0, grouped by the student they measured."""
    return _groups([run for run in runs if run.measured and run.measured[0] == 0], _untrained_profile)


def untrained_value(group: Sequence[Run], measure: Measure) -> Interval | None:
    """The measure at step 0 from the first run of the group that has it."""
    return next((found for run in group if (found := first(run, measure)) is not None), None)


def start_name(group: Sequence[Run]) -> str:
    """What the model at step 0 is: a student that was cut from another and has not learnt yet, or the policy that
    training starts from."""
    cut = [isinstance(models := run.recipe.get("models"), dict) and _is_cut(models) for run in group]
    return "untrained student" if all(cut) else "initial policy"


def _is_cut(models: dict[str, Any]) -> bool:
    return any(isinstance(models.get(role), dict) and models[role].get("layers") for role in ("policy", "student"))


def teachers(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that were held against a teacher, grouped by the teacher."""
    return _groups([run for run in runs if _teacher_profile(run)], _teacher_profile)


def group_name(what: str, group: Sequence[Run], groups: Sequence[Sequence[Run]]) -> str:
    """ "teacher", or "teacher of RUN, RUN" where there is more than one."""
    return what if len(groups) == 1 else f"{what} of {', '.join(run.name for run in group)}"


def teacher_value(run: Run, measure: Measure) -> Interval | None:
    """The measure of the teacher itself: perplexity was measured, distances to itself follow, others are unknown."""
    if measure.kind != "perplexity":
        known = _column(run.heldout.get(run.measured[-1], {}), f"teacher_{measure.key}")
        if known is not None:  # of a classifier
            return _ratio(tuple(known), (1,) * len(known), None)
        own = OWN_VALUE_OF_A_TEACHER.get(measure.key)
        return None if own is None else Interval(own, np.nan, np.nan)
    step = run.measured[-1]
    rows = run.heldout.get(step, {})
    sums = _column(rows, "teacher_nll")
    if sums is not None:
        return _ratio(tuple(sums), tuple(_tokens(rows)), np.exp)
    mean = _mean(run, step, "teacher_nll")
    return None if mean is None else Interval(float(np.exp(mean)), np.nan, np.nan)


def _paired(run: Run, step: int, other: Run, other_step: int, measure: Measure) -> Interval | None:
    ours, theirs = _rows(run, step, measure), _rows(other, other_step, measure)
    sums, other_sums = _column(ours, measure.key), _column(theirs, measure.key)
    if sums is None or other_sums is None or ours.keys() != theirs.keys():
        return None
    weights, other_weights = _weights(ours, measure), _weights(theirs, measure)
    return paired_difference(sums, weights, other_sums, other_weights, transform=_transform(measure))


@lru_cache(256)
def _ratio(sums: tuple[float, ...], weights: tuple[float, ...], transform: Callable[..., Any] | None) -> Interval:
    """`bootstrap_ratio`, resampled once: a page shows the same measure in several places."""
    return bootstrap_ratio(sums, weights, transform=transform)


def _transform(measure: Measure) -> Callable[..., Any] | None:
    return np.exp if measure.kind == "perplexity" else None


def _column(rows: dict[Any, dict[str, Any]], key: str) -> list[float] | None:
    """The field of every row, in the order of row ids; None where a row lacks it. JSON null was a NaN."""
    if not rows or any(key not in row for row in rows.values()):
        return None
    return [_float(rows[row][key]) for row in _order(rows)]


def _rows(run: Run, step: int, measure: Measure) -> dict[Any, dict[str, Any]]:
    """The rows of a step on which the measure is held."""
    rows = run.heldout.get(step, {})
    return {key: row for key, row in rows.items() if measure.key in row} if measure.by_row else rows


def _weights(rows: dict[Any, dict[str, Any]], measure: Measure) -> list[int]:
    return [1] * len(rows) if measure.by_row else _tokens(rows)


def _tokens(rows: dict[Any, dict[str, Any]]) -> list[int]:
    return [rows[row]["tokens"] for row in _order(rows)]


def _order(rows: dict[Any, Any]) -> list[Any]:
    return sorted(rows, key=str)


def _mean(run: Run, step: int, key: str) -> float | None:
    return next((_float(event[key]) for event in run.evals if event["step"] == step and key in event), None)


def _float(entry: Any) -> float:
    return np.nan if entry is None else float(entry)


def _last_rows(run: Run) -> dict[Any, dict[str, Any]]:
    return run.heldout.get(run.measured[-1], {}) if run.measured else {}


def _untrained_profile(run: Run) -> dict[Any, float]:
    return _first_profile(run, run.measured[0], OF_A_MODEL) if run.measured else {}


def _teacher_profile(run: Run) -> dict[Any, float]:
    return _first_profile(run, run.measured[-1], [f"teacher_{key}" for key in OF_A_MODEL]) if run.measured else {}


def _first_profile(run: Run, step: int, keys: Sequence[str]) -> dict[Any, float]:
    return next((found for key in keys if (found := _profile(run, step, key))), {})


def _profile(run: Run, step: int, key: str) -> dict[Any, float]:
    """Measurements by which two models can be told apart: row by row, else the mean."""
    rows = run.heldout.get(step, {})
    column = _column(rows, key)
    if column is not None:
        return dict(zip(_order(rows), column, strict=True))
    mean = _mean(run, step, key)
    return {} if mean is None else {"mean": mean}


def _agree(profile: dict[Any, float], other: dict[Any, float]) -> bool:
    """Equal up to the noise of another machine; an empty profile contradicts nothing."""
    if not profile or not other:
        return True
    keys = list(profile)
    return profile.keys() == other.keys() and np.allclose(
        [profile[key] for key in keys], [other[key] for key in keys], rtol=1e-3, atol=1e-3, equal_nan=True
    )


def _groups(runs: Sequence[Run], profile: Callable[[Run], dict[Any, float]]) -> list[list[Run]]:
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if _agree(profile(group[0]), profile(run))), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _conflicts(run: Run, other: Run, subject: str) -> list[str]:
    return [
        f"signature {key!r} is {run.signature[key]} in {run.name} and {other.signature[key]} in {other.name}"
        for key in run.signature
        if key in other.signature
        and _subject(key) == subject
        and _fingerprint(run.signature[key]) != _fingerprint(other.signature[key])
    ]


def _fingerprint(entry: str) -> str:
    """The hash at the end of a signature line, so that a file may have moved; the whole line where there is none."""
    found = re.search(r"\b[0-9a-f]{16,}$", entry)
    return found[0] if found else entry


QUALIFIERS = {"model", "models", "data", "dataset", "fingerprint", "hash", "sha", "id", "revision", "rows"}


SUBJECTS = {"heldout": "heldout", "policy": "student", "student": "student", "teacher": "teacher"}


def _subject(key: str) -> str:
    """What a line identifies: "held-out data" the held-out rows, "policy" or "model" the student; "" for others."""
    words = set(re.findall(r"[a-z]+", re.sub("held[_ -]out", "heldout", key.lower())))
    named = words - QUALIFIERS
    if not named:
        return "data" if words & {"data", "dataset"} else "student" if "model" in words else ""
    return SUBJECTS.get(named.pop(), "") if len(named) == 1 else ""
