"""Sampling completions of tasks, stored as they arrive, and making rows from them: graded ones, or all of a teacher."""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from trimtab.common import fingerprint
from trimtab.common.errors import check_answered
from trimtab.common.files import JsonLines
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import say
from trimtab.data.messages import kwargs_of, tools_of
from trimtab.data.sources import DataError, load_rows
from trimtab.data.tasks import question
from trimtab.data.tokens import prompt_ids
from trimtab.evals.models import HFModel, Model, Reply
from trimtab.models import loading
from trimtab.models.limits import check_prompts
from trimtab.rewards._marks import without_reasoning
from trimtab.rewards.final import final_answer, is_correct, same
from trimtab.rewards.pool import MathPool

SPLITS = ("train", "heldout")
FILES = tuple(f"{split}.{kind}.jsonl" for split in SPLITS for kind in ("pairs", "answers"))
COMPLETIONS = tuple(f"{split}.jsonl" for split in SPLITS)
Samples = Mapping[tuple[int, int], dict[str, Any]]
"""(task, which of its answers) -> a line of the file of answers"""
Block = tuple[int, list[Any]]
"""place among the blocks, and chats that are asked together"""


@dataclass
class CollectCounts:
    """What became of the tasks and their answers; a task is in one of mixed, all_correct and all_incorrect."""

    tasks: int = 0
    mixed: int = 0
    all_correct: int = 0
    """no incorrect answer to learn from: left out"""
    all_incorrect: int = 0
    """no correct answer to learn from: left out"""
    answers: int = 0
    correct: int = 0
    errors: int = 0
    """requests that a server did not answer; asked again when the command is run again"""
    empty: int = 0
    """answers without text: left out"""
    repeated: int = 0
    """answers that the task had already: left out"""
    pairs: int = 0
    unpaired: int = 0
    """correct or incorrect answers beyond the number of the others, or beyond --pairs"""
    labelled: int = 0
    unasked: int = 0
    """answers that a budget has left out"""


@dataclass
class CompletionCounts:
    """What became of the completions that are rows as they are."""

    tasks: int = 0
    completions: int = 0
    errors: int = 0
    """requests that a server did not answer; asked again when the command is run again"""
    empty: int = 0
    """without text: left out"""
    truncated: int = 0
    """reached the most new tokens before they ended: left out"""
    repeated: int = 0
    """that the task had already: left out"""
    unasked: int = 0
    """that a budget has left out"""


# ---------------------------------------------------------------- tasks


def tasks_of(source: str, limit: int | None = None, *, graded: bool = True) -> list[dict[str, Any]]:
    """Distinct tasks, each with `prompt` as messages and `answer` as text, which a row may lack if none is graded."""
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(load_rows(source), start=1):
        where = f"{source}: row {number}"
        prompt = question(row, where)
        named = row.get("answer") not in (None, "")
        if graded and not named:
            raise DataError(f"{where} has no `answer` to hold answers against")
        more = {"tools": tools_of(row, where), "chat_template_kwargs": kwargs_of(row, where)}
        task = {"prompt": prompt, **{key: value for key, value in more.items() if value}}
        task |= {"answer": str(row["answer"])} if named else {}
        before = found.setdefault(json.dumps(chat_of(task)), task)
        if graded and not same(before["answer"], task["answer"]):
            raise DataError(f"{where} gives the answer {task['answer']!r} to a question that had {before['answer']!r}")
    return list(found.values())[:limit]


def chat_of(task: Mapping[str, Any]) -> Any:
    """The messages of a task, or a prompt of `trimtab.data.tokens` where it has tools or template variables."""
    return {key: task[key] for key in task if key != "answer"} if task.keys() - {"prompt", "answer"} else task["prompt"]


def split_of(task: Mapping[str, Any], heldout: float) -> str:
    """By the task's text alone, so that another seed or more tasks move none to the other split."""
    return SPLITS[random.Random(json.dumps(task["prompt"])).random() < heldout]


# ---------------------------------------------------------------- answers


def check_tasks(tasks: Sequence[Mapping[str, Any]], model: str, max_new_tokens: int) -> list[str]:
    """Compare prompts and the longest answers with what a model can read, before its weights are loaded; returns notes
    for the user.
    """
    tokenizer, limits = loading.load_tokenizer(model), loading.limits(model)
    ids = [prompt_ids(tokenizer, chat_of(task), f"task {i}") for i, task in enumerate(tasks, start=1)]
    return check_prompts(ids, max_new_tokens, limits, tokenizer, model, what="task")


def facts(
    source: str,
    tasks: Sequence[Mapping[str, Any]],
    answers: int,
    max_new_tokens: int,
    verify: str,
    write: str = "graded",
) -> dict[str, str]:
    """Lines of the signature."""
    return {
        "tasks": f"{source}, {len(tasks)}, {fingerprint.of_each(tasks)}",
        "answers": f"{answers} of at most {max_new_tokens} tokens",
        **({} if verify == "exact" else {"verify": verify}),
        **({} if write == "graded" else {"write": write}),
    }


def ask(
    tasks: Sequence[Mapping[str, Any]],
    answers: int,
    model: Model,
    lines: JsonLines,
    *,
    batch: int,
    max_new_tokens: int,
    console: Console,
    answered: Callable[[Sequence[Block]], Iterator[list[Reply]]] | None = None,
) -> Samples:
    """(task, which of its answers) -> sample, of a model in memory. Blocks are the same after a stop, and so are their
    draws.

    Args:
        answered: replies to blocks, in their order; those of the model by default.
    """
    answered = answered or partial(map, partial(answer_block, model, max_new_tokens))
    name = getattr(model, "name", "the model")
    samples = {(row["task"], row["number"]): row for row in lines.rows}
    wanted = keys_of(tasks, answers)
    blocks = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    with bar(console) as progress:
        done = sum(len(block) for block in blocks if _known(block, samples))
        if done:
            say(console, f"{done} of {len(wanted)} answers are there already")
        shown: Any = progress.add_task("answers", total=len(wanted) - done, note="answers")
        left = [(place, block) for place, block in enumerate(blocks) if not _known(block, samples)]
        asked = [(place, [chat_of(tasks[task]) for task, _ in block]) for place, block in left]
        for (_, block), replies in zip(left, answered(asked), strict=True):
            rows = [
                {
                    "task": task,
                    "number": number,
                    "text": reply.text,
                    **({"cut": True} if reply.cut else {}),
                    **({"error": reply.error} if reply.error else {}),
                }
                for (task, number), reply in zip(block, replies, strict=True)
            ]
            lines.append(rows)
            samples |= {(row["task"], row["number"]): row for row in rows}
            check_answered((row.get("error") for row in samples.values()), name)
            advance(progress, shown, len(block))
    check_answered((row.get("error") for row in samples.values()), name, whole=True)
    return samples


def answer_block(model: Model, max_new_tokens: int, block: Block) -> list[Reply]:
    """Replies to a block, whose draws depend on its place alone."""
    place, chats = block
    if isinstance(model, HFModel):
        model.calls = place
    return model.answer(chats, max_new_tokens)


def keys_of(tasks: Sequence[Any], answers: int) -> list[tuple[int, int]]:
    """(task, which of its answers), in the order in which they are asked."""
    return [(task, number) for task in range(len(tasks)) for number in range(answers)]


def _known(block: Sequence[tuple[int, int]], samples: Samples) -> bool:
    return all(key in samples and not samples[key].get("error") for key in block)


# ---------------------------------------------------------------- rows


def rows_of(
    tasks: Sequence[Mapping[str, Any]],
    samples: Samples,
    answers: int,
    *,
    heldout: float = 0.05,
    pairs: int | None = None,
    verify: str = "exact",
) -> tuple[CollectCounts, dict[str, list[dict[str, Any]]]]:
    """What became of the tasks, and file name -> rows; correct and incorrect answers of a task are paired in order."""
    counts = CollectCounts(tasks=len(tasks))
    written: dict[str, list[dict[str, Any]]] = {name: [] for name in FILES}
    verdicts = _verdicts(tasks, samples, answers, verify)
    for place, task in enumerate(tasks):
        graded = list(_graded(place, samples, verdicts, answers, counts))
        correct, incorrect = ([text for text, good in graded if good is side] for side in (True, False))
        if not correct or not incorrect:
            if correct:
                counts.all_correct += 1
            else:
                counts.all_incorrect += 1
            continue
        counts.mixed += 1
        split = split_of(task, heldout)
        written[f"{split}.answers.jsonl"] += [
            {**task, "completion": _message(text), "label": good, "final": final_answer(without_reasoning(text))}
            for text, good in graded
        ]
        paired = list(zip(correct, incorrect))[:pairs]
        written[f"{split}.pairs.jsonl"] += [{**task, "chosen": _message(a), "rejected": _message(b)} for a, b in paired]
        counts.labelled += len(graded)
        counts.pairs += len(paired)
        counts.unpaired += len(graded) - 2 * len(paired)
    return counts, written


def _verdicts(
    tasks: Sequence[Mapping[str, Any]], samples: Samples, answers: int, verify: str
) -> dict[tuple[int, int], bool]:
    """Whether each sample is correct."""
    keys = [key for key in keys_of(tasks, answers) if key in samples]
    texts = [without_reasoning(samples[key]["text"]) for key in keys]
    truths = [tasks[place]["answer"] for place, _ in keys]
    if verify == "math":
        with MathPool() as pool:
            return {key: outcome == "correct" for key, outcome in zip(keys, pool.grade(texts, truths))}
    return {key: is_correct(text, truth) for key, text, truth in zip(keys, texts, truths)}


def _graded(
    place: int,
    samples: Samples,
    verdicts: Mapping[tuple[int, int], bool],
    number: int,
    counts: CollectCounts,
) -> Iterator[tuple[str, bool]]:
    """The task's distinct answers, and whether each is correct."""
    seen = set()
    for key in [(place, i) for i in range(number)]:
        if key not in samples:
            counts.unasked += 1
            continue
        sample, text = samples[key], samples[key]["text"].strip()
        if sample.get("error"):
            counts.errors += 1
        elif not text:
            counts.empty += 1
        else:
            good = verdicts[key]
            counts.answers += 1
            counts.correct += good
            if text in seen:
                counts.repeated += 1
            else:
                seen.add(text)
                yield text, good


def completions_of(
    tasks: Sequence[Mapping[str, Any]], samples: Samples, answers: int, *, heldout: float = 0.05
) -> tuple[CompletionCounts, dict[str, list[dict[str, Any]]]]:
    """What became of the answers, and file name -> rows with `prompt` and `completion`: every distinct whole answer."""
    counts = CompletionCounts(tasks=len(tasks))
    written: dict[str, list[dict[str, Any]]] = {name: [] for name in COMPLETIONS}
    seen: set[tuple[int, str]] = set()
    for key in keys_of(tasks, answers):
        sample = samples.get(key, {})
        text = sample.get("text", "").strip()
        if not sample:
            counts.unasked += 1
        elif sample.get("error"):
            counts.errors += 1
        elif sample.get("cut"):
            counts.truncated += 1
        elif not text:
            counts.empty += 1
        elif (key[0], text) in seen:
            counts.repeated += 1
        else:
            seen.add((key[0], text))
            counts.completions += 1
            task = tasks[key[0]]
            written[f"{split_of(task, heldout)}.jsonl"].append({**task, "completion": _message(text)})
    return counts, written


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
