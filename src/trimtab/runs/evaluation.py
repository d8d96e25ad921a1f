"""Evaluation during training: held-out rows, prompts and suites."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from rich.console import Console

from trimtab import report
from trimtab.common import processes
from trimtab.common.processes import dealt
from trimtab.common.terminal import say
from trimtab.core.pairs import PairedObjective
from trimtab.data.collate import Collator, length_sorted
from trimtab.decoding._texts import generate_texts
from trimtab.evals.models import HFModel
from trimtab.evals.runner import EvalSpec, ask, measures
from trimtab.evals.suite import Answered, Item
from trimtab.objectives.answer_maps import AnswerAttribution
from trimtab.objectives.reward_models import RewardObjective
from trimtab.runs.job import Job
from trimtab.train import answers, heldout
from trimtab.train.events import EventLog
from trimtab.train.together import joined, share
from trimtab.train.wrapping import GATHERED, asked

T = TypeVar("T")
R = TypeVar("R")
SHOWN = (
    "pass_at_1", "reward", "preference_accuracy", "preference_margin", "consistency", "map_cosine", "perplexity",
    "forward_kl", "agreement", "entropy", "kl_to_initial", "reward_loss", "reward_accuracy", "brier", "answer_length",
    "completion_length",
)  # fmt: skip
"""Metrics in a line of progress."""


def evaluator(
    job: Job, args: Any, log: EventLog, console: Console, tell: Callable[[dict[str, float]], None]
) -> Callable[[Any, int, bool], None] | None:
    """Evaluate on held-out rows at a step; `whole` also stores single rows and completions of the prompts. Means are
    also passed to `tell`."""
    recipe = job.recipe
    if job.heldout is None and not recipe.eval.prompts and not job.questions:
        return None

    mixed = torch.bfloat16 if args.bf16 else torch.float16

    def evaluate(policy: Any, step: int, whole: bool) -> None:
        # its draws must not move those of training; autocast is said here, because a run that is resumed after its last
        # step measures a model that nothing has wrapped
        with torch.random.fork_rng(), torch.autocast(args.device.type, mixed, enabled=bool(args.bf16 or args.fp16)):
            measure(policy, step, whole)

    def measure(policy: Any, step: int, whole: bool) -> None:
        main = processes.rank() == 0
        means: dict[str, float] = {}
        rows: dict[int, dict[str, float]] = {}
        texts: list[dict[str, Any]] = []
        drawn: list[dict[str, Any]] = []
        if job.heldout is not None and job.rollouts:
            rows, texts = answers.graded(
                policy, job.tokenizer, job.heldout.rows, job.rewards, job.collator, job.heldout_signals,
                correct=[one.correct for one in recipe.reward], weights=args.reward_weights,
                answers=recipe.eval.answers,
                max_new_tokens=args.max_completion_length, temperature=args.temperature,
                batch=recipe.eval.batch_size, seed=recipe.seed, kwargs=args.chat_template_kwargs,
                share=share(),
            )  # fmt: skip
        elif job.heldout is not None:
            judged = isinstance(job.plan.objective, RewardObjective)
            plain = Collator(job.collator.pad_id, job.collator.vocab_size)  # answers alone, whatever training reads
            collator = job.collator if judged else plain
            how: Any = {"batch_size": recipe.eval.batch_size, "device": args.device, "share": share()}
            batches = length_sorted(job.heldout.rows, collator, **how)
            if judged:
                rows = joined(heldout.evaluate(policy, batches, job.plan))
            else:
                rows = joined(heldout.measure(policy, batches, job.heldout_signals))
            if job.pairs is not None:
                batches = length_sorted(job.pairs.rows, job.collator, **how)
                paired = isinstance(job.plan.objective, PairedObjective)
                read = heldout.rationale_pairs if paired else heldout.preferences
                for row, found in joined(read(policy, batches, job.plan)).items():
                    if row in rows:
                        rows[row] |= found
            if isinstance(job.plan.auxiliary, AnswerAttribution):
                batches = length_sorted(job.heldout.rows, job.collator, **how)
                for row, found in joined(heldout.attributions(policy, batches, job.plan)).items():
                    drawn.append({"row_id": row, **{name: found.pop(name) for name in ("ids", "student", "teacher")}})
                    rows[row] |= found
        if rows:
            means |= heldout.summary(rows)
        if main and whole:
            for row, sums in rows.items():
                log.sample("heldout", step, row_id=row, **sums)
            for one in drawn[:SHOWN_MAPS]:
                log.sample("attribution", step, tokens=job.tokenizer.convert_ids_to_tokens(one.pop("ids")), **one)
            for text in texts[: SHOWN_ANSWERS * recipe.eval.answers : recipe.eval.answers]:
                log.sample("generation", step, prompt=_question(text["prompt"]), text=text["text"])
        if whole and recipe.eval.prompts:
            said = _dealt(
                recipe.eval.prompts,
                lambda some: generate_texts(policy, job.tokenizer, some, recipe.eval.max_new_tokens),
            )
            means["answer_length"] = statistics.mean(answer.num_tokens for answer in said)
            if main:
                for prompt, answer in zip(recipe.eval.prompts, said):
                    log.sample("generation", step, prompt=prompt, text=answer.text)
        for name, spec in job.questions.items() if whole else ():
            model = HFModel(policy, job.tokenizer, batch=recipe.eval.batch_size)
            found = _dealt(spec.items, partial(_ask, spec, model))
            numbers = [one for one in measures(spec.suite, found) if one.group == "all"]
            means[name] = numbers[0].value.estimate
            if main:
                lines = [
                    {"measure": n.name, "value and 95% interval": n.value.shown(), "items": n.number} for n in numbers
                ]
                log.event("table", step, title=f"{name} at step {step}", rows=lines)
                for one in found:
                    log.sample("suite", step, suite=name, id=one.item.id, answers=one.answers, verdicts=one.verdicts)
        if main and means:
            log.event("eval", step, **means)
            tell(means)
            shown = (*SHOWN, *job.questions)
            text = "  ".join(f"{report.short(name)} {means[name]:.4g}" for name in shown if name in means)
            say(console, f"held-out rows, step {step}: {text}")

    return evaluate


def _ask(spec: EvalSpec, model: HFModel, some: list[Item]) -> list[Answered]:
    return ask(replace(spec, items=some), model)


def _dealt(whole: Sequence[T], answered: Callable[[list[T]], Sequence[R]]) -> list[R]:
    """What `answered` makes of all, each process of its part, in all of them. Where the weights are split no process
    generates without the others, and each does all."""
    mine = dealt(len(whole), (0, 1) if asked().startswith(GATHERED) else share())
    return list(joined(dict(zip(mine, answered([whole[place] for place in mine]), strict=True))).values())


SHOWN_MAPS = 8
"""held-out rows whose attribution maps the report shows"""
SHOWN_ANSWERS = 8
"""held-out tasks whose first completion the report shows"""


def _question(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
