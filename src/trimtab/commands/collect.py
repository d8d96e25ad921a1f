"""Answers of a model to tasks with a known result, as rows for reward models: pairs of right and wrong, and labels."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from trimtab import __version__, decoding
from trimtab.common import fingerprint
from trimtab.common.disk import check_writable
from trimtab.common.environment import environment
from trimtab.common.errors import UserError, check_answered
from trimtab.common.files import RecordError, append, json_line, records
from trimtab.common.locks import writing
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import say
from trimtab.data.chat import adopt_date, kwargs_of, tools_of
from trimtab.data.sources import DataError, load_rows
from trimtab.data.stored import drop_torn_line
from trimtab.data.tasks import question
from trimtab.data.tokens import prompt_ids
from trimtab.evals.models import HFModel, Model, OpenAIModel
from trimtab.models import loading
from trimtab.models.asked import How, load_asked
from trimtab.models.limits import check_prompts
from trimtab.report.html import put
from trimtab.rewards.final import final_answer, is_right, same
from trimtab.rewards.parsing import without_reasoning
from trimtab.rewards.pool import MathPool

SAMPLES, FACTS = "samples.jsonl", "collection.json"
SPLITS = ("train", "heldout")


class CollectError(UserError):
    """A collection that cannot be made as it was asked for."""


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    model: str
    source: str
    out: Path
    answers: int = 8
    """of each task"""
    limit: int | None = None
    """tasks"""
    heldout: float = 0.05
    """share of the tasks"""
    pairs: int | None = None
    """most of one task"""
    temperature: float | None = None
    """1 if neither this nor a strategy is given"""
    max_new_tokens: int = 256
    endpoint: str | None = None
    seed: int = 0
    batch: int = 32
    """answers at a time"""
    verify: Literal["exact", "math"] = "exact"
    """whether an answer is right by its last number or words, or by what its mathematics means"""
    decoding: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the decoding strategy"""
    how: How = field(default_factory=How)

    def __post_init__(self) -> None:
        if self.endpoint:
            self.how.check_server(self.model, CollectError)
        if self.decoding is None:
            if self.options:
                key = next(iter(self.options))
                raise CollectError(f"decoding.{key} is a setting of a strategy; name it: --decoding NAME")
            return
        if self.endpoint:
            raise CollectError("--decoding needs a model in memory; a server draws by itself at --temperature")
        if self.temperature is not None:
            raise CollectError(
                f"--temperature is of decoding without a name; with --decoding {self.decoding} write "
                "decoding.temperature=T, where that strategy has one (trimtab show lists the keys)"
            )
        decoding.check(self.decoding, self.options)


@dataclass
class Counts:
    """What became of the tasks and their answers. Each task is in exactly one of mixed, all_right and all_wrong."""

    tasks: int = 0
    mixed: int = 0
    all_right: int = 0
    """no wrong answer to learn from: left out"""
    all_wrong: int = 0
    """no right answer to learn from: left out"""
    answers: int = 0
    right: int = 0
    errors: int = 0
    """requests that a server did not answer; asked again when the command is run again"""
    empty: int = 0
    """answers without text: left out"""
    repeated: int = 0
    """answers that the task had already: left out"""
    pairs: int = 0
    unpaired: int = 0
    """right or wrong answers beyond the number of the others, or beyond --pairs"""
    labelled: int = 0


def collect(settings: Settings, model: Model | None = None, console: Console | None = None) -> Counts:
    """Ask every task several times, judge the answers, and write what reward models learn from.

    The folder gets `samples.jsonl` (every answer, kept as it comes: a run that was stopped is gone on with), and for
    the splits train and heldout `SPLIT.pairs.jsonl` (prompt, chosen, rejected) and `SPLIT.answers.jsonl` (prompt,
    completion, label), of tasks that got right and wrong answers. A task is in one split.

    Args:
        settings: `source` are rows with messages or a prompt, and the right `answer`.
        model: instead of the settings' model.
        console: for progress.

    Raises:
        ValueError: (or a subclass) for rows, a model or a folder that cannot be used.
    """
    console = console or Console()
    tasks = tasks_of(settings)
    if model is None and not settings.endpoint:
        tokenizer, limits = loading.load_tokenizer(settings.model), loading.limits(settings.model)
        ids = [prompt_ids(tokenizer, asked_with(task), f"task {i}") for i, task in enumerate(tasks, start=1)]
        for note in check_prompts(ids, settings.max_new_tokens, limits, tokenizer, settings.model, what="task"):
            say(console, note)
    check_writable(settings.out, CollectError, "choose another --out")
    model = model or _model(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    with writing(settings.out, "another command", "wait for it, or choose another --out", CollectError):
        signature = _signature(settings, tasks, model)
        _same(settings.out, signature)
        put(json_line({"signature": signature}, indent=1), settings.out / FACTS)
        samples = _ask(settings, tasks, model, console)
        counts, written = rows_of(tasks, samples, settings)
        for name, rows in written.items():
            put("".join(map(json_line, rows)), settings.out / name)
        put(json_line({"signature": signature, "counts": asdict(counts)}, indent=1), settings.out / FACTS)
    return counts


# ---------------------------------------------------------------- tasks


def tasks_of(settings: Settings) -> list[dict[str, Any]]:
    """Distinct tasks, each with `prompt` as messages and `answer` as text."""
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(load_rows(settings.source), start=1):
        where = f"{settings.source}: row {number}"
        asked = question(row, where)
        if row.get("answer") in (None, ""):
            raise DataError(f"{where} has no `answer` to hold answers against")
        more = {"tools": tools_of(row, where), "chat_template_kwargs": kwargs_of(row, where)}
        task = {"prompt": asked, **{key: value for key, value in more.items() if value}, "answer": str(row["answer"])}
        before = found.setdefault(json.dumps(asked_with(task)), task)
        if not same(before["answer"], task["answer"]):
            raise DataError(f"{where} gives the answer {task['answer']!r} to a question that had {before['answer']!r}")
    return list(found.values())[: settings.limit]


def asked_with(task: Mapping[str, Any]) -> Any:
    """What a model is asked with: messages, or a task of `trimtab.data.tokens` where there is more."""
    return {key: task[key] for key in task if key != "answer"} if task.keys() - {"prompt", "answer"} else task["prompt"]


def split_of(task: Mapping[str, Any], heldout: float) -> str:
    """By the task's text alone, so that another seed or more tasks move none to the other split."""
    return SPLITS[random.Random(json.dumps(task["prompt"])).random() < heldout]


# ---------------------------------------------------------------- answers


def _model(settings: Settings) -> Model:
    if settings.endpoint:
        return OpenAIModel(
            settings.endpoint, settings.model, seed=settings.seed, batch=settings.batch,
            temperature=1.0 if settings.temperature is None else settings.temperature,
        )  # fmt: skip
    tokenizer = loading.load_tokenizer(settings.model)
    adopt_date(tokenizer, settings.out / FACTS)
    model = load_asked(settings.model, settings.how)
    options = settings.options
    if settings.decoding is None:
        options = {"temperature": 1.0 if settings.temperature is None else settings.temperature}
    return HFModel(
        model, tokenizer, settings.model, strategy=settings.decoding or "sample", options=options, seed=settings.seed,
        batch=settings.batch,
    )  # fmt: skip


def _signature(settings: Settings, tasks: Sequence[Mapping[str, Any]], model: Model) -> dict[str, str]:
    return {
        "trimtab": __version__,
        "tasks": f"{settings.source}, {len(tasks)}, {fingerprint.of_each(tasks)}",
        "answers": f"{settings.answers} of at most {settings.max_new_tokens} tokens",
        **({} if settings.verify == "exact" else {"verify": settings.verify}),
        **model.facts(),
        **environment(),
    }


def _same(folder: Path, signature: Mapping[str, str]) -> None:
    """A folder holds one collection.

    Raises:
        CollectError: with the first difference.
    """
    path = folder / FACTS
    if not path.is_file():
        if (folder / SAMPLES).is_file():
            raise CollectError(f"{folder} holds answers and no {FACTS}; choose another --out, or delete the folder")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["signature"]
    except (ValueError, KeyError, TypeError):
        raise CollectError(f"{path} cannot be read; choose another --out, or delete the folder") from None
    for key in (signature | before).keys() - {"trimtab", "versions", "hardware", "python"}:
        if before.get(key) != signature.get(key):
            raise CollectError(
                f"{folder} holds another collection: its {key} is {before.get(key)}, and now {signature.get(key)}; "
                "choose another --out, or delete the folder"
            )


def _ask(
    settings: Settings, tasks: Sequence[Mapping[str, Any]], model: Model, console: Console
) -> dict[tuple[int, int], dict[str, Any]]:
    """(task, which of its answers) -> sample. Blocks are the same after a stop, and so are their draws."""
    path = settings.out / SAMPLES
    path.touch()
    drop_torn_line(path)
    try:
        samples = {(row["task"], row["number"]): row for row in records(path.read_bytes(), "task", "number")}
    except RecordError as error:
        raise CollectError(f"{path}, line {error.line}: no row; repair or delete the line") from None
    wanted = [(task, number) for task in range(len(tasks)) for number in range(settings.answers)]
    blocks = [wanted[i : i + settings.batch] for i in range(0, len(wanted), settings.batch)]
    with bar(console) as progress:
        done = sum(len(block) for block in blocks if _known(block, samples))
        if done:
            say(console, f"{done} of {len(wanted)} answers are there already")
        shown: Any = progress.add_task("answers", total=len(wanted) - done, note="answers")
        for place, block in enumerate(blocks):
            if _known(block, samples):
                continue
            chats, draws = [asked_with(tasks[task]) for task, _ in block], {}
            if isinstance(model, HFModel):
                model.calls = place
            if isinstance(model, OpenAIModel):  # one seed for all would give one answer for all of a task
                draws["seeds"] = [settings.seed + place * settings.batch + i for i in range(len(block))]
            replies = model.answer(chats, settings.max_new_tokens, **draws)
            rows = [
                {"task": task, "number": number, "text": reply.text, **({"error": reply.error} if reply.error else {})}
                for (task, number), reply in zip(block, replies, strict=True)
            ]
            append(path, rows)
            samples |= {(row["task"], row["number"]): row for row in rows}
            check_answered((row.get("error") for row in samples.values()), settings.model)
            advance(progress, shown, len(block))
    check_answered((row.get("error") for row in samples.values()), settings.model, whole=True)
    return samples


def _known(block: Sequence[tuple[int, int]], samples: Mapping[tuple[int, int], Mapping[str, Any]]) -> bool:
    return all(key in samples and not samples[key].get("error") for key in block)


# ---------------------------------------------------------------- rows


def rows_of(
    tasks: Sequence[Mapping[str, Any]], samples: Mapping[tuple[int, int], Mapping[str, Any]], settings: Settings
) -> tuple[Counts, dict[str, list[dict[str, Any]]]]:
    """What became of the tasks, and file name -> rows.

    Of a task with right and wrong answers, these are paired in the order in which they came.
    """
    counts = Counts(tasks=len(tasks))
    written: dict[str, list[dict[str, Any]]] = {
        f"{s}.{kind}.jsonl": [] for s in SPLITS for kind in ("pairs", "answers")
    }
    verdicts = _verdicts(tasks, samples, settings)
    for place, task in enumerate(tasks):
        judged = list(_judged(place, samples, verdicts, settings.answers, counts))
        right, wrong = ([text for text, good in judged if good is side] for side in (True, False))
        if not right or not wrong:
            if right:
                counts.all_right += 1
            else:
                counts.all_wrong += 1
            continue
        counts.mixed += 1
        split = split_of(task, settings.heldout)
        known = dict(task)
        written[f"{split}.answers.jsonl"] += [
            {**known, "completion": _said(text), "label": good, "final": final_answer(without_reasoning(text))}
            for text, good in judged
        ]
        pairs = list(zip(right, wrong))[: settings.pairs]
        written[f"{split}.pairs.jsonl"] += [{**known, "chosen": _said(a), "rejected": _said(b)} for a, b in pairs]
        counts.labelled += len(judged)
        counts.pairs += len(pairs)
        counts.unpaired += len(judged) - 2 * len(pairs)
    return counts, written


def _verdicts(
    tasks: Sequence[Mapping[str, Any]], samples: Mapping[tuple[int, int], Mapping[str, Any]], settings: Settings
) -> dict[tuple[int, int], bool]:
    """Whether each sample is right."""
    asked = [(place, number) for place in range(len(tasks)) for number in range(settings.answers)]
    texts = [without_reasoning(samples[key]["text"]) for key in asked]
    truths = [tasks[place]["answer"] for place, _ in asked]
    if settings.verify == "math":
        with MathPool() as pool:
            return {key: outcome == "right" for key, outcome in zip(asked, pool.judge(texts, truths))}
    return {key: is_right(text, truth) for key, text, truth in zip(asked, texts, truths)}


def _judged(
    place: int,
    samples: Mapping[tuple[int, int], Mapping[str, Any]],
    verdicts: Mapping[tuple[int, int], bool],
    number: int,
    counts: Counts,
) -> Iterator[tuple[str, bool]]:
    """The task's distinct answers, and whether each is right."""
    seen = set()
    for key in [(place, i) for i in range(number)]:
        sample, text = samples[key], samples[key]["text"].strip()
        if sample.get("error"):
            counts.errors += 1
        elif not text:
            counts.empty += 1
        else:
            good = verdicts[key]
            counts.answers += 1
            counts.right += good
            if text in seen:
                counts.repeated += 1
            else:
                seen.add(text)
                yield text, good


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
