"""The sentences on the page."""

import json
import re
import shlex
from typing import Any

import numpy as np

from trimtab.common.count import count
from trimtab.common.locks import holder
from trimtab.metrics.intervals import Interval
from trimtab.report.comparing import change, difference, first, last, obstacles, teacher_obstacles
from trimtab.report.measures import (
    ACCURACY,
    FORWARD_KL,
    MARGIN,
    MEASURES,
    PASS_AT_1,
    PERPLEXITY,
    PREFERENCE,
    REWARD_LOSS,
    SQUARED_ERROR,
    Measure,
    digits,
    number,
    verdict,
)
from trimtab.report.reading import Run

NOT_A_SETTING = ("seed", "seeds", "data_seed", "output", "output_dir", "name", "run_name")
"""last parts of recipe keys in which two runs of one setting may differ"""


def headline_of_one(run: Run) -> str:
    """Which method trained which model, and the most relevant change."""
    student = re.sub(r"(?<!\S)[/~.]\S*/(?=\S)", "", student_name(run))  # of a folder only its name
    done = f"{method_name(run)} trained {student} for {count(run.steps, 'step')}"
    measure = _main_measure(run)
    before, after = first(run, measure), last(run, measure)
    if before is None or after is None:
        return f"{done}; nothing was measured on held-out data."
    if len(run.measured) < 2:
        only = number(before.estimate, measure)
        return f"{done}; measured once so far, at step {run.measured[0]:,}: {measure.title} {only}."
    said = [moved(measure, before, after, change(run, measure))]
    before, after = first(run, MARGIN), last(run, MARGIN)
    if measure is PREFERENCE and before is not None and after is not None:
        said.append(moved(MARGIN, before, after, change(run, MARGIN)))
    return f"{done}: {' and '.join(said)}."


def other_changes(run: Run) -> list[str]:
    """A sentence for each measure that the headline leaves out."""
    if len(run.measured) < 2:
        return []
    clauses = []
    for measure in MEASURES:
        before, after = first(run, measure), last(run, measure)
        if measure not in _headlined(run) and before is not None and after is not None:
            clause = moved(measure, before, after, change(run, measure))
            clauses.append(clause[0].upper() + clause[1:] + ".")
    return clauses


def headline_of_many(runs: list[Run]) -> str:
    """Which run ends best, next to which, and whether that may be chance."""
    comparable = [
        measure
        for measure in (PASS_AT_1, PREFERENCE, FORWARD_KL, PERPLEXITY, REWARD_LOSS, ACCURACY, SQUARED_ERROR)
        if all(difference(runs[0], run, measure) is not None for run in runs[1:])
    ]
    if not comparable:
        return f"{len(runs)} runs side by side; they cannot be ranked, for the reasons below."
    measure = comparable[0]
    ends = [(end.estimate, run) for run in runs if (end := last(run, measure)) is not None]
    broken = [run.name for end, run in ends if not np.isfinite(end)]
    if broken:
        return f"{len(runs)} runs side by side; {measure.title} is not finite in {', '.join(broken)}."
    upwards = measure.better == "higher"
    (end, best), (following, second), *_ = sorted(ends, key=lambda pair: pair[0], reverse=upwards)
    gap = difference(best, second, measure)
    each = " with one seed each" if _one_seed_each(runs) else ""
    said = {"no change": ", no difference", "may be chance": ", a difference that may be chance"}
    remark = said.get(verdict(measure, gap), "")
    return (
        f"Of {len(runs)} runs{each}, {best.name} ends with the {'highest' if upwards else 'lowest'} {measure.title}, "
        f"{number(end, measure)}; "
        f"next is {second.name} with {number(following, measure)}{remark}."
    )


def _headlined(run: Run) -> tuple[Measure, ...]:
    main = _main_measure(run)
    return (PREFERENCE, MARGIN) if main is PREFERENCE else (main,)


def _main_measure(run: Run) -> Measure:
    known = (PASS_AT_1, PREFERENCE, FORWARD_KL, REWARD_LOSS, ACCURACY, SQUARED_ERROR)
    return next((m for m in known if last(run, m) is not None), PERPLEXITY)


def moved(measure: Measure, before: Interval, after: Interval, moved_by: Interval | None) -> str:
    """A change as a clause: "perplexity fell from 26.4 to 18.1"."""
    start, end = number(before.estimate, measure), number(after.estimate, measure)
    said = verdict(measure, moved_by)
    if said == "no change" or (start == end and said != "may be chance"):
        return f"{measure.title} stayed at {end}"
    if said == "may be chance":
        return f"{measure.title} went from {start} to {end}, which may be chance"
    if not np.isfinite(after.estimate - before.estimate):
        return f"{measure.title} went from {start} to {end}"
    return f"{measure.title} {'fell' if after.estimate < before.estimate else 'rose'} from {start} to {end}"


def cautions(runs: list[Run]) -> list[str]:
    """Caveats about the numbers."""
    said = [_sample_size(runs)]
    for run in runs[1:]:
        pair = f"{run.name} cannot be compared with {runs[0].name}"
        if why := obstacles(runs[0], run):
            said.append(f"{pair}: {'; '.join(why)}. No differences are shown.")
        elif why := teacher_obstacles(runs[0], run):
            said.append(f"{pair} by measures against the teacher: {'; '.join(why)}.")
    said.append(_seeds(runs))
    if len({run.steps for run in runs}) > 1:
        listed = ", ".join(f"{run.name} {count(run.steps, 'step')}" for run in runs)
        said.append(f"The runs were not trained equally long: {listed}.")
    said += [f"{unfinished(run)}." for run in runs if run.finished is None]
    return said + to_continue(runs)


def unfinished(run: Run) -> str:
    """Of a run that has not finished: how far it is, and when its numbers were measured."""
    if holder(run.folder) is not None:
        state = f"is still running, at step {run.steps:,}"
    elif run.interrupted is not None:
        state = f"was interrupted after step {run.interrupted:,}"
    else:
        state = f"has not finished (last logged step: {run.steps:,})"
    measured = f"its numbers were measured at step {run.measured[-1]:,}" if run.measured else "nothing was measured yet"
    return f"{run.name} {state}; {measured}"


def to_continue(runs: list[Run]) -> list[str]:
    """The whole commands that go on with runs that were stopped; stages have one for all."""
    stopped = [run for run in runs if run.finished is None and holder(run.folder) is None]
    commands: dict[str, list[str]] = {}
    for run in stopped:
        stored = shlex.join(("trimtab", "train", f"{run.folder}/recipe.yaml", "--resume"))
        commands.setdefault(run.command or stored, []).append(run.name)
    return [f"To continue {', '.join(names)}: {command}" for command, names in commands.items()]


def _sample_size(runs: list[Run]) -> str:
    rows = {run.name: run.heldout.get(run.measured[-1], {}) if run.measured else {} for run in runs}
    without = [name for name, one in rows.items() if not one]
    if without:
        return f"No row-by-row measurement at the last evaluation of {', '.join(without)}: no intervals there."
    sizes = {(len(one), sum(row["tokens"] for row in one.values())) for one in rows.values()}
    if len(sizes) > 1:
        listed = ", ".join(f"{name} {len(one):,}" for name, one in rows.items())
        return f"The numbers are from different held-out rows: {listed}."
    [(num_rows, num_tokens)] = sizes
    tokens = f" with {count(num_tokens, 'answer token')}" if num_tokens != num_rows else ""  # else metrics are per row
    text = f"The numbers are from {count(num_rows, 'held-out row')}{tokens}."
    return text + (" With so few rows the intervals tend to be too narrow." if num_rows < 30 else "")


def _seeds(runs: list[Run]) -> str:
    if len(runs) == 1:
        return (
            "One run with one seed: another seed would give other numbers, and the intervals do not show by how much."
        )
    if _one_seed_each(runs):
        return (
            "One seed for each setting: differences between methods may be chance. The intervals cover which held-out "
            "rows were drawn, not the randomness of training."
        )
    listed = "; ".join(f"{', '.join(run.name for run in group)}: {_num_seeds(group)}" for group in by_setting(runs))
    return (
        f"Seeds for each setting: {listed}. The spread of runs of one setting shows the randomness of training; "
        "the intervals cover only which held-out rows were drawn."
    )


def by_setting(runs: list[Run]) -> list[list[Run]]:
    """Runs grouped by recipe, seed and names aside."""
    settings: dict[str, list[Run]] = {}
    for run in runs:
        settings.setdefault(setting(run), []).append(run)
    return list(settings.values())


def setting(run: Run, without: str = "") -> str:
    """The recipe as a text that is the same for all runs of one setting, seed, names and one more key aside."""
    flat = flatten(run.recipe).items()
    kept = {key: entry for key, entry in flat if key.split(".")[-1] not in NOT_A_SETTING and key != without}
    return json.dumps(kept, sort_keys=True, default=str)


def _num_seeds(group: list[Run]) -> int:
    return len({str(run.recipe.get("seed")) for run in group})


def _one_seed_each(runs: list[Run]) -> bool:
    return all(_num_seeds(group) == 1 for group in by_setting(runs))


def method_name(run: Run) -> str:
    """As the run says it, else as the recipe does."""
    return str(run.method.get("name") or run.recipe.get("method") or "training")


def student_name(run: Run) -> str:
    """The trained model, under either of its names in a recipe."""
    return model_name(run, "policy") or model_name(run, "student") or "the student"


def model_name(run: Run, role: str) -> str:
    """The model as the recipe names it, several teachers with what chooses among them, "" where it names none."""
    given = run.recipe.get("models")
    models = given if isinstance(given, dict) else {}
    named = models.get(role)
    if not isinstance(named, dict):
        return str(named or "")
    if role == "teacher":
        return _several(named, models.get("teacher_weights"), run.recipe.get("data"))
    source, layers = str(named.get("from", "another model")), named.get("layers")
    kept = len(layers) if isinstance(layers, list) else layers
    source = model_name(run, "teacher") if source == "teacher" else source
    return f"{kept} layers of {source}" if kept else source


def teacher_name(run: Run) -> str:
    """The teacher, with what it reads in the place of each row's prompt."""
    data = run.recipe.get("data")
    name, prompt = model_name(run, "teacher"), data.get("teacher_prompt") if isinstance(data, dict) else None
    return f"{name}, reading {prompt}" if name and prompt else name


def _several(named: dict[str, Any], weights: Any, data: Any) -> str:
    """As in `signature.txt`."""
    shares = weights if isinstance(weights, dict) else {}
    said = [f"{name} {model}{f' x {shares[name]:g}' if name in shares else ''}" for name, model in named.items()]
    column = data.get("teacher_column") if isinstance(data, dict) else None
    return ", ".join(said) + (f" by {column}" if column else "")


def duration(seconds: float) -> str:
    """Seconds as a reader says them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{digits(seconds)} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if hours == 0 else f"{hours} h {minutes % 60} min"


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} becomes {"a.b": 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, entry in tree.items():
        if isinstance(entry, dict) and entry:
            flat |= flatten(entry, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = entry
    return flat
