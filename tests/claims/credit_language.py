"""Token reward models of a language model that can compute: blame, prefix values, picks (arXiv:2505.23363, 2604.13197).

    trimtab train tiny_policy
    python tests/claims/credit_language.py --policy runs/tiny_policy/model
    python tests/claims/credit_language.py --members q_rm orm --seeds 100 --steps 50

Every member of the family starts from the policy and learns from planted errors (`trimtab:planted_errors`, small), as
pairs, labelled answers or steps; "own" members learn from the policy's own answers to training tasks instead, judged by
their result alone. "logit" members score a token by the language model's logit, as the paper of q_rm has it, and so
start from what the policy knows, and "logprob" ones, as a later script of its author has it, with the likelihood of the
chosen answers beside it; the scalar head of its code starts at random. All have the same number of updates, of
sequences in an update, and learning rate. A seed draws rows, heads and order; the policy is the same for all. Judged on
held-out tasks: planted errors, and eight answers of the policy to each task, of which every scorer picks one.
"untrained" is the policy with a random head, "policy" its own mean log-probability.

Claimed and aimed at, with 95 % intervals over seeds (Student's t), or over seeds and tasks (best of 8):
    q_rm: pair accuracy >= .95, token AUC of the planted error >= .85; both AUCs above those of orm with the same head
    ipvrm: Brier score of prefix values below both implicit_prm; probability after an error below .1 and theirs higher
    best of 8: every trained scorer above random; q_rm and ipvrm above the majority vote

Equal texts have equal scores, so scores that know nothing are right as often as any of the *distinct* texts, and less
often than a random answer, which is often one that was given several times, and right.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from intervals import over_seeds, over_seeds_and_rows
from language import TRAINING
from numpy.typing import NDArray
from rich.console import Console

from trimtab.commands.collect import CollectSettings, collect
from trimtab.common import fingerprint
from trimtab.common.environment import environment
from trimtab.data.sources import Row, load_rows
from trimtab.evals.models import HFModel
from trimtab.evals.scored import read
from trimtab.evals.scoring import batches, encode
from trimtab.evals.worth import Worth, worth
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.rewards.final import final_answer, number, same
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel, load_reward_model

OUT = Path("benchmarks/results/claims_credit_language.json")
DATA = "trimtab:planted_errors"
LONGEST = 128
N = 8
"""answers to a task"""


class Member(NamedTuple):
    method: str
    options: dict[str, Any]
    form: str
    rule: str
    """by which the first wrong step is found"""
    own: bool = False


def _other(kind: str, form: str, rule: str, own: bool = False, **options: Any) -> Member:
    return Member("reward_model", {"kind": kind, **options}, form, rule, own)


MEMBERS = {
    "q_rm": Member("q_rm", {}, "pairs", "step-mean"),
    "q_rm, logit": Member("q_rm", {"head": "logit"}, "pairs", "step-mean"),
    "q_rm, logprob": Member("q_rm", {"head": "logprob", "nll": 1.0}, "pairs", "step-mean"),
    "orm": _other("orm", "pairs", "last"),
    "orm, logit": _other("orm", "pairs", "last", head="logit"),
    "pgtg, logit": _other("pgtg", "pairs", "step-mean", head="logit"),
    "step_prm, logit": _other("step_prm", "steps", "last", head="logit"),
    "dpo_rm": _other("dpo_rm", "pairs", "sum-diff"),
    "ipvrm": Member("ipvrm", {}, "answers", "sum-diff"),
    "implicit_prm, .05": _other("implicit_prm", "answers", "sum-diff", beta=0.05),
    "implicit_prm, .5": _other("implicit_prm", "answers", "sum-diff", beta=0.5),
    "q_rm, logit, own": Member("q_rm", {"head": "logit"}, "pairs", "step-mean", True),
    "orm, logit, own": _other("orm", "pairs", "last", True, head="logit"),
    "ipvrm, own": Member("ipvrm", {}, "answers", "sum-diff", True),
    "implicit_prm, .05, own": _other("implicit_prm", "answers", "sum-diff", True, beta=0.05),
}
MEASURES = {
    "pair accuracy": "pair accuracy",
    "token AUC": "token AUC of the error",
    "AUC, numbers": "token AUC of the error among numbers",
    "before": "mean probability before the error",
    "after": "mean probability after the error",
    "Brier": "Brier score of prefixes",
}
"""short name -> as `worth` calls it"""
CLAIMS = (
    ("q_rm", "orm", "token AUC"),
    ("q_rm", "orm", "AUC, numbers"),
    ("q_rm, logit", "orm, logit", "token AUC"),
    ("q_rm, logit", "orm, logit", "AUC, numbers"),
    ("implicit_prm, .05", "ipvrm", "Brier"),
    ("implicit_prm, .5", "ipvrm", "Brier"),
    ("implicit_prm, .05", "ipvrm", "after"),
    ("implicit_prm, .5", "ipvrm", "after"),
)
"""(larger, smaller, measure)"""
Array = NDArray[np.float64]


# ---------------------------------------------------------------- scorers


def trained(name: str, seed: int, args: argparse.Namespace, folder: Path) -> TokenRewardModel:
    """A member after its training."""
    member = MEMBERS[name]
    data = folder / ("own" if member.own else str(seed)) / f"train.{member.form}.jsonl"
    if not data.exists():
        data.parent.mkdir(exist_ok=True)
        rows = load_rows(f"{DATA}/train?rows={args.rows}&seed={1000 + seed}&form={member.form}&level=small")
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "method": member.method,
        "options": member.options,
        "models": {"policy": args.policy, "teacher_cache": "memory"},
        "data": {"train": str(data), "max_dropped": 0.1},
        "training": {
            **TRAINING,
            "per_device_train_batch_size": args.batch // (2 if member.form == "pairs" else 1),
            "max_steps": args.steps,
            "learning_rate": args.learning_rate,
            "warmup_steps": 10,
            "max_length": LONGEST,
            "logging_steps": 20,
        },
        "seed": seed,
        "output": str(folder / f"{name}-{seed}"),
    }
    recipe = parse(tree, name, name)
    assert isinstance(recipe, Recipe)
    return load_reward_model(f"{run(recipe, console=Console(quiet=True)).folder}/model")


def untrained(policy: str, seed: int) -> TokenRewardModel:
    model = with_scalar_head(load_model(policy), seed)
    add_score_forward(model)
    return TokenRewardModel(model, ScoreSpec("scalar", "mean", 1.0, outcomes=False))


def likelihood(policy: str) -> TokenRewardModel:
    model = load_model(policy)
    add_objective_forward(model)
    return TokenRewardModel(model, ScoreSpec("logprob", "mean", 1.0, outcomes=False))


# ---------------------------------------------------------------- what they are worth


def scored(model: TokenRewardModel, tokenizer: Any, rows: list[Row]) -> list[Any]:
    """(asked, scored) of the answers of rows, in their order; all kinds of errors are one."""
    encoded, _ = encode(read(rows), tokenizer, LONGEST)
    found = {one.id: one for batch in batches(model, encoded, 64) for one in batch}
    return [(replace(one.answer, kind=None), found[one.answer.id]) for one in encoded]


def judged(model: TokenRewardModel, tokenizer: Any, heldout: dict[str, list[Row]], rule: str) -> dict[str, float]:
    """Measures on planted errors; members that did not learn from outcomes have no probabilities."""

    def by_rows(form: str) -> Worth:
        return worth(scored(model, tokenizer, heldout[form]), model.spec.source, outcomes=model.spec.outcomes)

    pairs, answers, steps = map(by_rows, ("pairs", "answers", "steps"))
    known = {m.name: m.value.estimate for m in [*answers.measures, *pairs.measures] if m.group == "all"}
    found = {short: known[name] for short, name in MEASURES.items() if name in known}
    for line in steps.steps:
        if line.threshold in ("held out", "oracle"):
            found[f"F1 {line.rule}, {line.threshold}"] = line.f1.estimate
    found["F1"] = found.get(f"F1 {rule}, held out", np.nan)
    return found


def sampled(policy: str, tokenizer: Any, tasks: list[Row], seed: int) -> tuple[list[Row], Array, list[list[str]]]:
    """N answers to each task: as rows, whether they are right [P, N], and what they settle on."""
    model = HFModel(
        load_model(policy), tokenizer, strategy="sample", options={"temperature": 1.0}, seed=10_000 * (1 + seed)
    )
    chats = [task["prompt"] for task in tasks for _ in range(N)]
    texts = [
        reply.text.strip() or "?"
        for start in range(0, len(chats), 128)
        for reply in model.answer(chats[start : start + 128], 40)
    ]
    ends = [final_answer(text) for text in texts]
    right = np.array([same(end, tasks[place // N]["answer"]) for place, end in enumerate(ends)], float)
    rows = [
        {"prompt": chat, "completion": [{"role": "assistant", "content": text}], "label": bool(good)}
        for chat, text, good in zip(chats, texts, right)
    ]
    forms = [str(number(end) if end else None) for end in ends]
    return rows, right.reshape(-1, N), [forms[place : place + N] for place in range(0, len(forms), N)]


def picked(score: Array, right: Array) -> Array:
    """[P]: is the answer with the highest score right? Ties count by their mean."""
    top = score == score.max(axis=1, keepdims=True)
    return (top * right).sum(axis=1) / top.sum(axis=1)


def distinct(rows: list[Row], right: Array) -> Array:
    """[P]: how often is any of the different texts right? That is what scores get that know nothing."""
    texts = np.array([row["completion"][0]["content"] for row in rows]).reshape(right.shape)
    once = 1 / (texts[:, :, None] == texts[:, None, :]).sum(axis=2)
    return (once * right).sum(axis=1) / once.sum(axis=1)


def votes(forms: list[list[str]]) -> Array:
    """[P, N]: how many answers settle on the same as this one; none for answers that settle on nothing."""
    return np.array([[own.count(one) if one != "None" else 0 for one in own] for own in forms], float)


def values(model: TokenRewardModel, tokenizer: Any, rows: list[Row]) -> Array:
    """[P, N] final values."""
    return np.array([one.values[-1] for _, one in scored(model, tokenizer, rows)]).reshape(-1, N)


# ---------------------------------------------------------------- the command


def run_seed(seed: int, args: argparse.Namespace, folder: Path, tokenizer: Any, heldout: dict[str, list[Row]]) -> Any:
    """name -> measures, and name -> [P] how often the pick is right."""
    tasks = list({str(row["prompt"]): row for row in heldout["pairs"]}.values())[: args.tasks]
    rows, right, forms = sampled(args.policy, tokenizer, tasks, seed)
    picks = {"random": right.mean(axis=1), "majority": picked(votes(forms), right), "oracle": right.max(axis=1)}
    picks["distinct"] = distinct(rows, right)
    measures = {}
    for name in ("untrained", "policy", *args.members):
        start = time.time()
        if name in MEMBERS:
            model, rule = trained(name, seed, args, folder), MEMBERS[name].rule
        else:
            model = untrained(args.policy, seed) if name == "untrained" else likelihood(args.policy)
            rule = "step-mean"
        seconds = time.time() - start
        measures[name] = {**judged(model, tokenizer, heldout, rule), "training seconds": seconds}
        picks[name] = picked(values(model, tokenizer, rows), right)
        shown = {key: measures[name].get(key, np.nan) for key in (*MEASURES, "F1")}
        text = ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
        spent = f"{seconds:.0f} + {time.time() - start - seconds:.0f} s"
        print(f"seed {seed}, {name} ({spent}): {text}, best of {N} {picks[name].mean():.3f}", flush=True)
    return measures, {name: pick.tolist() for name, pick in picks.items()}


def summary(found: dict[int, Any]) -> dict[str, Any]:
    """Means, claims and picks over the seeds so far; printed as well."""
    seeds = list(found)
    names = list(found[seeds[0]][0])
    table: dict[str, dict[str, list[float]]] = {
        name: {m: [found[seed][0][name].get(m, np.nan) for seed in seeds] for m in (*MEASURES, "F1")} for name in names
    }
    print(f"\n| | {' | '.join([*MEASURES, 'F1'])} |\n|{'---|' * (len(MEASURES) + 2)}")
    for name, row in table.items():
        cells = [
            "" if np.isnan(v).all() else f"{np.mean(v):.3f} ± {np.std(v, ddof=len(v) > 1):.3f}" for v in row.values()
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    claims = {}
    for larger, smaller, measure in CLAIMS:
        if {larger, smaller} <= set(names):
            difference = over_seeds([a - b for a, b in zip(table[larger][measure], table[smaller][measure])])
            verdict = "shown" if difference.low > 0 else "not shown"
            claims[f"{measure}: {larger} over {smaller}"] = [verdict, *difference]
            print(f"{verdict}: {measure} of {larger} minus {smaller} is {difference}")
    picks = {name: np.array([found[seed][1][name] for seed in seeds]) for name in found[seeds[0]][1]}
    ones = np.ones(picks["random"].shape[1])
    best = {}
    for name, right in picks.items():
        best[name] = {"accuracy": over_seeds_and_rows(right, ones)}
        best[name] |= {
            f"over {o}": over_seeds_and_rows(right, ones, picks[o]) for o in ("random", "distinct", "majority")
        }
        print(f"best of {N}, {name}: {'; '.join(f'{key} {value}' for key, value in best[name].items())}")
    return {"per seed": table, "claims": claims, f"best of {N}": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="runs/tiny_policy/model", help="folder of the model that all start from")
    parser.add_argument("--members", nargs="+", default=list(MEMBERS), choices=MEMBERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="settings were tuned on 100")
    parser.add_argument("--rows", type=int, default=1700, help="training rows of a seed")
    parser.add_argument("--steps", type=int, default=100, help="updates")
    parser.add_argument("--batch", type=int, default=32, help="sequences of an update")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--heldout", type=int, default=200, help="held-out rows with planted errors")
    parser.add_argument("--tasks", type=int, default=100, help=f"held-out tasks of which {N} answers are sampled")
    parser.add_argument("--own", type=int, default=250, help="training tasks of the own members")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start, tokenizer = time.time(), load_tokenizer(args.policy)
    heldout = {
        form: load_rows(f"{DATA}/heldout?rows={args.heldout}&form={form}&level=small")
        for form in ("pairs", "answers", "steps")
    }
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "policy")}
    result: dict[str, Any] = {"settings": settings, "environment": environment()}
    result["policy"] = fingerprint.of_model(load_model(args.policy))
    found: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if any(MEMBERS[name].own for name in args.members):
            source = f"{DATA}/train?rows={args.own}&seed=999&level=small"
            how = {"answers": N, "max_new_tokens": 40, "batch": 128}
            own = CollectSettings(model=args.policy, source=source, out=folder / "own", **how)
            result["own answers"] = vars(collect(own, console=Console(quiet=True)))
            print(f"own answers, {time.time() - start:.0f} s: {result['own answers']}", flush=True)
        for seed in args.seeds:
            found[seed] = run_seed(seed, args, folder, tokenizer, heldout)
            result |= {"measures": found, **summary(found), "seconds": round(time.time() - start)}
            args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
