"""Run the items of a suite, store every answer, and resume an evaluation that was stopped."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from trimtab.common.errors import check_answered
from trimtab.data.tokens import prompt_ids
from trimtab.evals import suites
from trimtab.evals.models import Model, Reply, renormalised
from trimtab.evals.suite import Answered, Estimate, Fit, Item, Suite, SuiteError, Verdict, accuracy
from trimtab.models.limits import Limits, check_prompts

Mode = Literal["generate", "loglikelihood"]
"""whether a model writes its answer, or the probabilities of the options are compared"""
OPTIONS = "options"
"""the parser's name where options are compared"""


@dataclass(frozen=True)
class EvalSpec:
    """A suite's items, one of its prompts, and how answers are read."""

    suite: Suite
    items: Sequence[Item]
    prompt: str
    mode: Mode = "generate"
    max_new_tokens: int | None = None
    fallback: str = ""
    """why the mode is not the default of the suite, where nobody asked for it"""
    options: Any = None
    """settings of the suite, for one that is bound to its model"""

    def __post_init__(self) -> None:
        if self.prompt not in self.suite.prompts:
            raise SuiteError(f"there is no prompt {self.prompt!r}; there are: {', '.join(self.suite.prompts)}")
        if self.mode == "loglikelihood" and (bare := next((i for i in self.items if not i.options), None)):
            raise SuiteError(f"item {bare.id} has no options to compare; use --mode generate, or choose other items")
        repeated = len(self.items) - len({item.id for item in self.items})
        if repeated:
            raise SuiteError(f"{repeated} items share the id of another")


def eval_spec(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    prompt: str | None = None,
    mode: Mode | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> EvalSpec:
    """A suite's items with these settings, in its default mode if not told otherwise.

    Raises:
        SuiteError: if the suite, a setting or the prompt is not there, or no item is left.
    """
    suite = suites.load(name)
    options = suites.check(name, settings or {})
    items = list(suite.items(options))[:limit]
    if not items:
        raise SuiteError(f"{name} has no items with these settings")
    named, how = prompt or next(iter(suite.prompts)), mode or suite.default_mode
    return EvalSpec(suite, items, named, how, max_new_tokens, options=options)


def fitted(spec: EvalSpec, tokenizer: Any, limits: Limits) -> EvalSpec:
    """With prompts for this model, where the suite has such.

    Raises:
        SuiteError: if it has none for a model like this.
    """
    if spec.suite.bound is None:
        return spec
    length = limits.places or limits.trained
    new = spec.max_new_tokens or spec.suite.max_new_tokens
    fit = Fit(tokenizer, None if length is None else length - new, new, spec.prompt)
    return replace(spec, suite=spec.suite.bound(spec.options, fit))


def ask(
    spec: EvalSpec,
    model: Model,
    done: Mapping[str, Mapping[str, Any]] | None = None,
    keep: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[Answered]:
    """Answers and verdicts for all items, in their order.

    Prompts of like length share a batch, the longest come first, so that memory peaks at the start.

    Args:
        done: item id -> row of an earlier `keep`; those items are not asked again, unless they ended in an error.
        keep: is given the rows of each batch as soon as they are there.

    Raises:
        Unanswered: where the first questions, or all, end in errors.
    """
    if isinstance(limits := getattr(model, "limits", None), Limits):
        spec = fitted(spec, getattr(model, "tokenizer", None), limits)
    suite, steps = spec.suite, spec.suite.prompts[spec.prompt]
    rows = {key: row for key, row in (done or {}).items() if not row.get("error")}
    known = {item.id for item in spec.items}
    rows = {key: row for key, row in rows.items() if key in known}
    errors: list[str | None] = [None] if rows else []
    for batch, tokens in _batches(spec, steps[0], model.batch, rows):
        start = time.perf_counter()
        chats: list[Any] = []
        asked: list[Any] = [[] for _ in batch]
        replies: list[list[Reply]] = [[] for _ in batch]
        p: list[dict[str, float]] = [{} for _ in batch]
        for number, step in enumerate(steps):
            chats = [step(item, [r.text for r in earlier]) for item, earlier in zip(batch, replies)]
            if spec.mode == "loglikelihood" and number == len(steps) - 1:
                p, asked = model.compare(chats, [list(item.options) for item in batch]), chats
                break
            open_ = [i for i, earlier in enumerate(replies) if chats[i] and not any(r.error for r in earlier)]
            said = dict(zip(open_, model.answer([chats[i] for i in open_], tokens) if open_ else ()))
            for i, earlier in enumerate(replies):
                if i in said or not chats[i]:
                    earlier.append(said.get(i, Reply("")))
            asked = [chat or before for chat, before in zip(chats, asked)]
        seconds = (time.perf_counter() - start) / len(batch)
        new = [
            _row(suite, item, chat, reply, values, seconds)
            for item, chat, reply, values in zip(batch, asked, replies, p)
        ]
        rows |= {row["id"]: row for row in new}
        if keep is not None:
            keep(new)
        errors += [row.get("error") for row in new]
        check_answered(errors, _who(model))
    check_answered(errors, _who(model), whole=True)
    return [answered(suite, rows[item.id], item) for item in spec.items]


def _who(model: Model) -> str:
    return getattr(model, "name", "the model")


def check_spec(name: str, spec: EvalSpec, tokenizer: Any, limits: Limits, model: str) -> list[str]:
    """Compare the first prompts of all items, and their answers, with what a model can read; returns notes for users.

    Raises:
        LimitError: naming the item.
    """
    spec = fitted(spec, tokenizer, limits)
    first, notes = spec.suite.prompts[spec.prompt][0], []
    for item in spec.items:
        tokens = spec.max_new_tokens or item.max_new_tokens or spec.suite.max_new_tokens
        tokens = 1 if spec.mode == "loglikelihood" else tokens
        ids = prompt_ids(tokenizer, first(item, ()), f"{name}: item {item.id}")
        notes += check_prompts([ids], tokens, limits, tokenizer, model, what=f"{name}: item {item.id}, prompt")
    return [*notes[:1], *(f"{name}: {number} {what}" for what, number in spec.suite.remarks.items())]


def _batches(spec: EvalSpec, first: Any, size: int, done: Mapping[str, Any]) -> Iterator[tuple[list[Item], int]]:
    """Items that are not done, and the most tokens of their answers."""
    length: dict[str, int] = {}
    by_tokens: dict[int, list[Item]] = {}
    for item in spec.items:
        if item.id not in done:
            length[item.id] = sum(len(message["content"]) for message in first(item, ()))
            tokens = spec.max_new_tokens or item.max_new_tokens or spec.suite.max_new_tokens
            by_tokens.setdefault(tokens, []).append(item)
    for tokens, items in sorted(by_tokens.items(), reverse=True):
        items.sort(key=lambda item: -length[item.id])
        for start in range(0, len(items), size):
            yield items[start : start + size], tokens


def _row(
    suite: Suite, item: Item, chat: Any, replies: Sequence[Reply], logprobs: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """What is kept of an item: all that a report shows, as JSON."""
    row: dict[str, Any] = {"id": item.id, "item": asdict(item), "chat": chat, "answers": [r.text for r in replies]}
    error = next((reply.error for reply in replies if reply.error), None)
    if error:
        row["error"] = error
    elif logprobs:
        p, mass = renormalised(logprobs)
        row |= {"p": p, "mass": mass}
    row["seconds"] = round(seconds, 4)
    row["verdicts"] = {} if error else {name: v._asdict() for name, v in verdicts(suite, item, row).items()}
    return row


def verdicts(suite: Suite, item: Item, row: Mapping[str, Any]) -> dict[str, Verdict]:
    """Parser -> verdict of a row's answer, by the suite as it is now."""
    if "p" in row:
        return {OPTIONS: suite.score_options(item, row["p"]) if row["p"] else Verdict(None, None)}
    return dict(suite.score(item, suite.joined(item, row["answers"])))


def answered(suite: Suite, row: Mapping[str, Any], item: Item) -> Answered:
    """A kept row as what measures are made of."""
    error = row.get("error")
    found = {} if error else verdicts(suite, item, row)
    return Answered(item, tuple(row["answers"]), found, error, row.get("mass"))


def measures(suite: Suite, found: Sequence[Answered]) -> list[Estimate]:
    """All numbers of an evaluation."""
    return [*(accuracy(found) if suite.accuracy else []), *suite.measures([one for one in found if one.error is None])]
