"""Show rows as the model sees them: trained tokens in green, context in grey; and which rows are dropped."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trimtab.commands.train import RecipeSettings
from trimtab.common.settings import Shown
from trimtab.common.terminal import quiet, say, table_of

if TYPE_CHECKING:
    from trimtab.data.counts import Prepared
    from trimtab.data.sources import Row
    from trimtab.runs.recipe import Recipe
    from trimtab.train.packs import Packing

LEARNT, READ, COMPARED_TOKENS = "black on bright_green", "grey50", "black on bright_yellow"


class PreviewSettings(RecipeSettings):
    """Which rows of a recipe to show."""

    rows: Annotated[int, Shown("N"), Field(ge=0)] = 3
    """Number of rows to show."""
    split: Literal["train", "heldout"] = "train"
    """Split to show."""


SETTINGS = PreviewSettings


def main(settings: PreviewSettings) -> None:
    """Print the rows."""
    recipe = settings.first()
    quiet()
    preview_recipe(recipe, settings.rows, settings.split)


def preview_recipe(recipe: "Recipe", rows: int, split: str, console: Console | None = None) -> "Prepared":
    """Print `rows` rows of a split with the answer tokens in colour, then the totals of the whole split.

    Of rationales what is compared has a colour of its own. Without colours (a pipe, a file) answers stand in ⟦ ⟧, and
    what is compared in ⟪ ⟫. Where the teacher reads another prompt, that stands below the row.

    Raises:
        DataError: if the recipe has no such split, or more rows are dropped than the recipe allows (after printing).
    """
    from trimtab.data.counts import check_dropped
    from trimtab.data.sources import DataError, load_rows
    from trimtab.runs.cached_teacher import rows_cached
    from trimtab.runs.policy import policy_tokenizer
    from trimtab.runs.rows import adopt_run_date, prepare_source

    console = console or Console()
    if getattr(recipe.data, split) is None:
        raise DataError(f"the recipe has no data.{split}")
    tokenizer = policy_tokenizer(recipe)
    adopt_run_date(recipe, tokenizer)
    read = cache(load_rows)
    prepared = prepare_source(recipe, split, tokenizer, refuse=False, console=console, read=read)
    taught_by, teachers = _teachers(recipe, prepared, read)
    prompts, of_prompts = _prompts(recipe, split, prepared, tokenizer, read)
    for row in prepared.rows[:rows]:
        place = f"row {prepared.number(row)} of {prepared.source}{taught_by(row)}"
        console.rule(Text(place), align="left", style="grey50")
        _row(row, tokenizer, console)
        if prompts:
            console.print("the teacher reads, before the same answer:", style="bold")
            read_ids = prompts[prepared.number(row) - 1]
            console.print(Text(str(tokenizer.decode(read_ids, skip_special_tokens=False)), style=READ), soft_wrap=True)
    table = _table(prepared, recipe.data.max_dropped, tokenizer, _packing(recipe, prepared, split))
    if (cached := rows_cached(recipe, split, prepared, tokenizer)) is not None:
        lacking = prepared.counts.kept - cached[0]
        said = f"; training refuses: trimtab precompute adds the other {lacking:,}" if lacking else ""
        table.add_row("in the teacher cache", f"{cached[0]:,}", Text(f"{cached[1]}{said}"))
    for line in (*teachers, *of_prompts):
        table.add_row(*map(Text, line))
    console.print(table)
    for note in prepared.notes():
        say(console, note)
    check_dropped(prepared, recipe.data.max_dropped)
    return prepared


def _row(row: Mapping[str, Any], tokenizer: Any, console: Console) -> None:
    """What a model reads of a row."""
    from trimtab.core.batch import COMPARED
    from trimtab.data.rows import sequences

    if "input_ids" not in row:  # a task, for which the policy generates the completion
        console.print(_task(row), soft_wrap=True)
        return
    if isinstance(row["labels"], (int, float)):
        text = Text(str(tokenizer.decode(row["input_ids"])), style=READ)
        console.print(text.append(f"\nlabel: {row['labels']}", style="default"), soft_wrap=True)
        return
    found, marks = sequences(row), row.get(COMPARED, [])
    for side, (ids, labels) in zip(_sides(row, len(found)), found):
        if len(found) > 1:
            console.print(side, style="bold")
        inside, marks = marks[: len(ids)], marks[len(ids) :]
        console.print(_coloured(ids, labels, tokenizer, console.is_terminal, inside), soft_wrap=True)


def _prompts(
    recipe: "Recipe", split: str, prepared: "Prepared", tokenizer: Any, read: Callable[[str], list["Row"]]
) -> tuple[list[list[int]], list[tuple[str, str, str]]]:
    """What the teacher reads in the place of each row's prompt, and a line of the table on it, where a recipe says."""
    if recipe.data.teacher_prompt is None:
        return [], []
    from trimtab.runs.policy import method_of
    from trimtab.runs.teacher_prompts import prompts
    from trimtab.train import settings

    method, sampled = method_of(recipe)[0], None
    if method.loop == "rollouts":
        args: Any = settings.build(recipe.training, Path(recipe.output), recipe.seed, method.loop)
        sampled = args.max_completion_length
    found = prompts(recipe, {split: prepared}, tokenizer, sampled, read).get(split, [])
    if not found:
        return [], [("tokens of the teacher's prompts", "0", "none has one; not compared with the teacher")]
    number, longest = sum(map(len, found)), max(map(len, found))
    return found, [("tokens of the teacher's prompts", f"{number:,}", f"longest {longest}")]


def _teachers(
    recipe: "Recipe", prepared: "Prepared", read: Callable[[str], list["Row"]]
) -> tuple[Callable[[Mapping[str, Any]], str], list[tuple[str, str, str]]]:
    """Of several teachers: what is said of a row's own, and lines of the table on each."""
    from trimtab.runs.models_key import teachers_of
    from trimtab.runs.several_teachers import routes

    named, weights = teachers_of(recipe.models), recipe.models.teacher_weights
    if weights is not None:
        total = sum(weights.values())
        return lambda row: "", [(f"share of teacher {one}", f"{weights[one] / total:.1%}", named[one]) for one in named]
    if not named:
        return lambda row: "", []
    routed, names = routes(recipe, {"rows": prepared}, read)[0]["rows"].tolist(), list(named)

    def own(row: Mapping[str, Any]) -> str:
        return names[routed[row["row_id"] % len(routed)]]

    numbers = Counter(map(own, prepared.rows))
    lines = [(f"rows of teacher {one}", f"{numbers[one]:,}", named[one]) for one in named]
    return lambda row: f", read by teacher {own(row)}", lines


def _task(row: Mapping[str, Any]) -> Text:
    prompt = row["prompt"]
    turns = [{"role": "prompt", "content": prompt}] if isinstance(prompt, str) else prompt
    known = {key: value for key, value in row.items() if key not in ("prompt", "row_id")}
    text = Text("\n".join(f"{turn['role']}: {turn['content']}" for turn in turns), style=READ)
    return text.append("".join(f"\n{key}: {value}" for key, value in known.items()), style="default")


def _sides(row: Mapping[str, Any], number: int) -> list[str]:
    """What stands above each sequence of a row that has several."""
    from trimtab.data.rows import LENGTHS

    return [f"rationale {i}:" for i in range(1, number + 1)] if LENGTHS in row else ["chosen:", "rejected:"]


def _coloured(ids: list[int], labels: list[int], tokenizer, colours: bool, marks: list[int]) -> Text:
    from trimtab.core.batch import IGNORE

    text = Text()
    kinds = [(label != IGNORE, bool(marks) and marks[i] >= 0) for i, label in enumerate(labels)]
    start = 0
    for stop in range(1, len(ids) + 1):
        if stop < len(ids) and kinds[stop] == kinds[start]:
            continue
        learnt, compared = kinds[start]
        piece = tokenizer.decode(ids[start:stop], skip_special_tokens=False)
        if not colours and learnt:
            piece = f"⟪{piece}⟫" if compared else piece
            piece = "⟦" * (start == 0 or not kinds[start - 1][0]) + piece
            piece += "⟧" * (stop == len(ids) or not kinds[stop][0])
        text.append(piece, style=COMPARED_TOKENS if compared else LEARNT if learnt else READ)
        start = stop
    return text


def _limit(prepared: "Prepared") -> str:
    if prepared.limited_by == "training.max_length":
        return f"{prepared.limited_by}={prepared.max_length}"
    return f"{prepared.max_length} by {prepared.limited_by}"


_KEYS = {"without an answer": "empty", "prompt too long": "prompt_too_long"}


def _packing(recipe: "Recipe", prepared: "Prepared", split: str) -> "Packing | None":
    """How training rows are packed, if they are."""
    if split != "train" or not recipe.training.get("packing") or not prepared.rows:
        return None
    from trimtab.data.packs import size_of
    from trimtab.train.packs import Packing

    return Packing([size_of(row) for row in prepared.rows], prepared.max_length, 1)


def _table(prepared: "Prepared", max_dropped: float, tokenizer, packing: "Packing | None" = None) -> Table:
    counts = prepared.counts
    table = table_of("what", "count", "note", box=None, pad_edge=False, title=prepared.source, title_justify="left")
    share = counts.num_dropped() / counts.rows
    if prepared.rows and "input_ids" not in prepared.rows[0]:
        table.add_row("tasks", f"{counts.rows:,}", "completed by the policy, graded by the recipe's reward")
        table.add_row("tokens of prompts", f"{counts.tokens:,}", f"longest {counts.longest}")
        return table
    if prepared.rows and isinstance(prepared.rows[0]["labels"], (int, float)):
        table.add_row("rows with a label", f"{counts.rows:,}", "")
        first = f"first: row {counts.first['truncated']}" if counts.truncated else ""
        table.add_row("cut at the end", f"{counts.truncated:,}", first)
        table.add_row("tokens", f"{counts.tokens:,}", Text(f"longest row {counts.longest}, limit {_limit(prepared)}"))
        return table
    lines = [
        ("rows", counts.rows, ""),
        ("kept", counts.kept, ""),
        ("truncated", counts.truncated, "the end of the answer is cut off"),
        ("prompt too long", counts.prompt_too_long, "the prompt alone exceeds the limit"),
        ("without an answer", counts.empty, ""),
        *([("identical", counts.identical, "both answers are the same")] if counts.identical else []),
        (
            "dropped or cut",
            counts.num_dropped(),
            f"{share:.1%}; training refuses above data.max_dropped={max_dropped:.1%}",
        ),
        ("answers without an end token", counts.no_end, "the model does not learn to stop there" * (counts.no_end > 0)),
        ("tokens", counts.tokens, f"longest row {counts.longest}, limit {_limit(prepared)}"),
        ("answer tokens", counts.answer_tokens, f"{counts.answer_tokens / max(counts.tokens, 1):.0%} are trained on"),
    ]
    if packing is not None:
        rows = f"{counts.kept / packing.number:.1f} rows in each of at most {packing.limit} tokens"
        lines.append(("packs", packing.number, f"{packing.filled:.0%} filled; {rows}"))
    for what, number, note in lines:
        first = counts.first.get(_KEYS.get(what, what))
        table.add_row(what, f"{number:,}", "; ".join(filter(None, [note, f"first: row {first}" if first else ""])))
    return table
