"""Completions of a policy for held-out tasks: rewards, pass@1, entropy and divergences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimtab.common.processes import dealt
from trimtab.core.batch import IGNORE
from trimtab.core.draws import hashed_uniform
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.tasks import task_ids
from trimtab.data.tokens import padded
from trimtab.decoding._config import generate
from trimtab.models.ends import end_tokens
from trimtab.models.probing import eval_mode
from trimtab.rewards.graded import which_are_correct
from trimtab.train.dataset import columns_of
from trimtab.train.heldout import measure
from trimtab.train.together import joined

RewardFunction = Callable[..., Sequence[float | None]]
"""TRL's: prompts, completions, completion_ids and the columns of the rows -> a number for each, or None"""
STREAM = 2412
"""of the numbers that held-out completions are sampled with"""
TOKEN_METRICS = ("entropy", "kl_to_initial", "reverse_kl")
"""metrics of the policy per token of its own completions"""


class Completion(NamedTuple):
    prompt_ids: list[int]
    ids: list[int]
    """with its end token, if it has one"""
    text: str
    ended: bool


@torch.no_grad()
def draw(
    policy: Any,
    tokenizer: Any,
    tasks: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int,
    temperature: float,
    batch: int,
    seed: int,
    kwargs: Mapping[str, Any] | None = None,
    places: Sequence[int] | None = None,
) -> list[Completion]:
    """Sample one completion per task, a row of `prepare_tasks`, with the state of torch's generators unchanged.

    What a token is drawn with depends on seed, place and position alone, so that completions do not depend on which
    tasks share a batch or a process.

    Args:
        batch: tasks at a time.
        kwargs: further variables of the chat template.
        places: of these tasks among all; their numbers in the list by default.
    """
    of_all = torch.tensor(range(len(tasks)) if places is None else places)
    device = next(policy.parameters()).device
    ends = set(end_tokens(tokenizer, policy))
    found = []
    with eval_mode(policy), torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(tasks), batch):
            some = tasks[start : start + batch]
            ids = [
                task_ids(tokenizer, task, f"held-out task {start + i}", kwargs) for i, task in enumerate(some, start=1)
            ]
            inputs: Any = padded(ids, tokenizer.pad_token_id or 0).to(device)

            def uniform(rows: Tensor, position: int, start: int = start) -> Tensor:
                where = of_all[start + rows.cpu()].to(rows.device)
                return hashed_uniform(seed, 0, where, torch.full_like(where, position), STREAM)

            output = generate(
                policy, tokenizer, inputs, max_new_tokens, leave=True, uniform=uniform, do_sample=True,
                temperature=temperature,
            )  # fmt: skip
            width = inputs["input_ids"].size(1)
            for row, mask in zip(output.tolist(), inputs["attention_mask"].tolist()):
                prompt = [token for token, real in zip(row[:width], mask) if real]
                answer, ended = _until_end(row[width:], ends)
                found.append(Completion(prompt, answer, tokenizer.decode(answer, skip_special_tokens=True), ended))
    return found


def _until_end(ids: list[int], ends: set[int]) -> tuple[list[int], bool]:
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1], True
    return ids, False


def graded(
    policy: nn.Module,
    tokenizer: Any,
    tasks: Sequence[Mapping[str, Any]],
    rewards: Sequence[RewardFunction],
    collator: Collator,
    signals: Sequence[Any] = (),
    *,
    correct: Sequence[float],
    weights: Sequence[float] | None = None,
    answers: int,
    max_new_tokens: int,
    temperature: float,
    batch: int,
    seed: int,
    kwargs: Mapping[str, Any] | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[dict[int, dict[str, float]], list[dict[str, Any]]]:
    """Sample each task several times and grade the completions.

    Args:
        tasks: rows of `prepare_tasks`.
        rewards: their values, times `weights`, are added.
        correct: of each, the value from which a completion counts as correct; the first reward that grades it decides.
        signals: of the initial policy, for the KL to it.
        answers: completions per task.
        kwargs: further variables of the chat template.
        share: (rank, processes): each does its part of the tasks, see `dealt`, and all get the whole.

    Returns:
        row_id -> {"tokens": 1, "pass_at_1": share of correct completions, "reward", "completion_length",
        "truncation_rate": share without an end token, and in nats per token of its completions "entropy",
        "kl_to_initial" and, of a teacher, "reverse_kl", unless all of them are padding that another model does not
        know}; and all completions as {prompt, text, reward}.
    """
    mine = dealt(len(tasks), share)
    rows = [tasks[place] for place in mine for _ in range(answers)]
    own = draw(
        policy, tokenizer, rows, max_new_tokens=max_new_tokens, temperature=temperature, batch=batch, seed=seed,
        kwargs=kwargs, places=[place * answers + i for place in mine for i in range(answers)],
    )  # fmt: skip
    given = _as_trl(rows, own)
    values = [reward(**given) for reward in rewards]
    are_correct = which_are_correct(values, correct, given["prompts"])
    factors = weights or [1.0] * len(rewards)
    total = [sum(factor * (one or 0.0) for factor, one in zip(factors, each)) for each in zip(*values)]
    prepared = [_row(i, one) for i, one in enumerate(own)]
    measured = measure(policy, length_sorted(prepared, collator, batch, next(policy.parameters()).device), signals)
    names = [name for name in TOKEN_METRICS if any(name in one for one in measured.values())]
    found: dict[int, dict[str, float]] = {}
    for number, place in enumerate(mine):
        some = range(number * answers, (number + 1) * answers)
        tokens = sum(measured[i]["tokens"] for i in some)  # those that all models know
        found[tasks[place]["row_id"]] = {
            "tokens": 1,
            "pass_at_1": sum(are_correct[i] for i in some) / answers,
            "reward": sum(total[i] for i in some) / answers,
            "completion_length": sum(len(own[i].ids) for i in some) / answers,
            "truncation_rate": sum(not own[i].ended for i in some) / answers,
            **{name: sum(measured[i].get(name, 0.0) for i in some) / tokens for name in names if tokens},
        }
    texts = [{"prompt": row["prompt"], "text": one.text, "reward": value} for row, one, value in zip(rows, own, total)]
    said = {place: texts[number * answers : (number + 1) * answers] for number, place in enumerate(mine)}
    return joined(found), [text for some in joined(said).values() for text in some]


def _as_trl(rows: Sequence[Mapping[str, Any]], own: Sequence[Completion]) -> dict[str, Any]:
    chats = not isinstance(rows[0]["prompt"], str)
    return {
        "prompts": [row["prompt"] for row in rows],
        "completions": [[{"role": "assistant", "content": one.text}] if chats else one.text for one in own],
        "completion_ids": [one.ids for one in own],
        **{key: [row.get(key) for row in rows] for key in columns_of(rows) if key != "prompt"},
    }


def _row(number: int, one: Completion) -> dict[str, Any]:
    labels = [IGNORE] * len(one.prompt_ids) + one.ids
    return {"input_ids": one.prompt_ids + one.ids, "labels": labels, "row_id": number}
