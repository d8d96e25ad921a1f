"""Learning from own answers, on a model of 0.8 million weights that imitates solutions of which half hold an error.

    trimtab train tiny_grpo  # its stage `policy` is the start of all that follows
    python tests/claims/own_answers.py --policy runs/tiny_imitator/model --arithmetic runs/tiny_policy/model
    python tests/claims/own_answers.py --policy ... --arithmetic ... --experiment stability

"learning": every member has the same policy, tasks, updates, answers an update and learning rate; two reward models are
trained once on planted errors. Held-out tasks are answered a few times before and after. "random"
is GRPO whose reward is a coin: what it gains is no learning.
"stability": each batch of answers is used four times, at learning rates of 1, 3 and 10 times the first experiment's.

Claimed, over seeds (Student's t):
    learning: grpo, reinforce with Q-RM's scores, DistRL with IPVRM, and LCO each raise pass@1, and random does not
    stability: at 10 times the rate LCO keeps more entropy than REINFORCE, and its largest gradient norm is smaller
Settings were tried on seed 100 alone.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from intervals import over_seeds
from rich.console import Console

from trimtab.common.environment import environment
from trimtab.report.reading import load
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run

DATA = "trimtab:planted_errors"
COIN = """
import hashlib

def coin(prompts, completions, completion_ids, **columns):
    said = [str(prompt) + str(completion) for prompt, completion in zip(prompts, completions)]
    return [float(hashlib.blake2b(text.encode()).digest()[0] % 2) for text in said]
"""
EXACT, SIGNED = "exact", {"name": "exact", "correct": 1.0, "incorrect": -1.0}


class Member(NamedTuple):
    method: str
    options: dict[str, Any]
    reward: Any
    credit: str | None = None
    rate: float = 1.0
    """times the learning rate of all"""


LEARNING = {
    "grpo": Member("grpo", {}, EXACT),
    "reinforce + q_rm": Member("reinforce", {"token_reward": "tokens", "center": True}, EXACT, "q_rm"),
    "distrl + ipvrm": Member("distrl", {"online": "frozen"}, EXACT, "ipvrm"),
    "lco": Member("lco", {}, SIGNED),
    "random": Member("grpo", {}, "COIN"),
}
STABILITY = {
    "reinforce": Member("reinforce", {}, SIGNED),
    "grpo": Member("grpo", {}, EXACT),
    "lco": Member("lco", {}, SIGNED),
    "lco, negatives as hard": Member("lco", {"neg_beta_scale": 1.0}, SIGNED),
}
RATES = (1, 3, 10)
JUDGES = {
    "q_rm": ("q_rm", {"head": "logit"}, "pairs", 32, 3e-4, "arithmetic"),
    "ipvrm": ("ipvrm", {}, "answers", 64, 3e-4, "policy"),
}
"""method, options, form of the rows, rows an update, learning rate, what it starts from"""


def carried_out(name: str, tree: dict[str, Any]) -> Path:
    """The folder of a run."""
    recipe = parse(tree, name, name)
    assert isinstance(recipe, Recipe)
    return run(recipe, console=Console(quiet=True)).folder


def judge(name: str, args: argparse.Namespace, folder: Path) -> Path:
    """A reward model, which starts from the policy, or from the model before it learnt to err."""
    method, options, form, rows, rate, start = JUDGES[name]
    tree = {
        "method": method,
        "options": options,
        "models": {"policy": getattr(args, start)},
        "data": {
            "train": f"{DATA}/train?rows=20000&level=small&seed=2&form={form}",
            "heldout": f"{DATA}/heldout?rows=200&level=small&form={form}",
            "max_dropped": 0.1,
        },
        "training": {
            "per_device_train_batch_size": rows, "max_steps": args.judge_steps, "learning_rate": rate,
            "warmup_steps": 10, "lr_scheduler_type": "cosine", "max_length": 128, "max_grad_norm": 1.0,
            "save_strategy": "no", "logging_steps": 20,
        },
        "eval": {"batch_size": 64},
        "output": str(folder / name),
    }  # fmt: skip
    return carried_out(name, tree)


def trained(
    name: str, member: Member, seed: int, args: argparse.Namespace, folder: Path, rate: float, times: int = 1
) -> dict[str, Any]:
    """What is left of a run: held-out measures before and after, and the course of training."""
    own = {"reward_model": str(folder / member.credit / "model")} if member.credit else {}
    title = f"{name}-{rate:g}-{seed}"
    tree: dict[str, Any] = {
        "method": member.method,
        "options": member.options,
        "models": {"policy": args.policy, **own},
        "data": {
            "train": f"{DATA}/train?rows=4000&level=small&seed={1000 + seed}",
            "heldout": f"{DATA}/heldout?rows={args.tasks}&level=small",
        },
        "reward": member.reward,
        "training": {
            "per_device_train_batch_size": args.batch, "num_generations": 8, "max_completion_length": 40,
            "num_iterations": times, "max_steps": args.steps, "learning_rate": rate, "save_strategy": "no",
            "lr_scheduler_type": "constant", "max_grad_norm": 1.0,
        },
        "eval": {"answers": 4, "batch_size": 256, "kl_to_initial": True},
        "seed": seed,
        "output": str(folder / title),
    }  # fmt: skip
    if member.reward == "COIN":  # held-out answers are judged by the first reward, which training does not weigh
        tree["reward"] = [EXACT, f"{folder}/coin.py:coin"]
        tree["training"]["reward_weights"] = [0.0, 1.0]
    report = load(carried_out(title, tree))
    return {"name": name, "seed": seed, "rate": rate, **_course(report)}


def _course(found: Any) -> dict[str, Any]:
    before, after = found.evals[0], found.evals[-1]
    kept = ("pass_at_1", "entropy", "kl_to_initial", "completion_length", "truncation_rate")
    norms = [event["grad_norm"] for event in found.train]
    return {
        "before": {key: before[key] for key in kept},
        "after": {key: after[key] for key in kept},
        "reward": [round(event["reward"], 4) for event in found.train if "reward" in event],
        "entropy": [round(event["entropy"], 4) for event in found.train],
        "grad_norm": [round(norm, 4) for norm in norms],
        "largest_norm": max(norms),
        "seconds": found.finished["seconds"],
    }


def shown(one: dict[str, Any]) -> str:
    before, after = one["before"], one["after"]
    return (
        f"{one['name']}, rate {one['rate']:g}, seed {one['seed']}: pass@1 {before['pass_at_1']:.3f} to "
        f"{after['pass_at_1']:.3f}, "
        f"entropy {before['entropy']:.3f} to {after['entropy']:.3f}, "
        f"KL to the initial policy {after['kl_to_initial']:.3f}, "
        f"largest gradient norm {one['largest_norm']:.2f}, {one['seconds']:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--arithmetic", required=True, help="the stage before it")
    parser.add_argument("--experiment", choices=("learning", "stability"), default="learning")
    parser.add_argument("--members", nargs="+", default=None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", type=int, default=list(RATES), help="of stability, times --rate")
    parser.add_argument("--steps", type=int, default=80, help="updates")
    parser.add_argument("--judge-steps", type=int, default=300, help="updates of a reward model")
    parser.add_argument("--batch", type=int, default=64, help="answers an update, eight to a task")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--tasks", type=int, default=200, help="held out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start, runs = time.time(), []
    learning = args.experiment == "learning"
    members = LEARNING if learning else STABILITY
    chosen = {name: members[name] for name in args.members or members}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "coin.py").write_text(COIN)
        for name in {member.credit for member in chosen.values() if member.credit}:
            found = load(judge(name, args, folder)).evals[-1]
            print(f"{name}: held-out accuracy {found['reward_accuracy']:.3f}, {time.time() - start:.0f} s", flush=True)
        for seed in args.seeds:
            for name, member in chosen.items():
                for times in (1,) if learning else args.rates:
                    runs.append(
                        trained(name, member, seed, args, folder, times * member.rate * args.rate, 1 if learning else 4)
                    )
                    print(shown(runs[-1]), flush=True)
    gained: dict[str, Any] = {}
    for name, rate in dict.fromkeys((one["name"], one["rate"]) for one in runs):
        own = [one for one in runs if (one["name"], one["rate"]) == (name, rate)]
        gains = over_seeds([one["after"]["pass_at_1"] - one["before"]["pass_at_1"] for one in own])
        gained[f"{name}, rate {rate:g}"] = list(gains)
        print(f"{name}, rate {rate:g}: pass@1 gained {gains}")
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key not in ("out", "policy", "arithmetic")}
        result = {"settings": settings, "environment": environment(), "runs": runs, "gained": gained}
        args.out.write_text(json.dumps({**result, "seconds": round(time.time() - start)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
