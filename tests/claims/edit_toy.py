"""EtCon (arXiv:2512.04753) where all that a model knows can be asked: 60 facts, of which eight are edited.

    python tests/claims/edit_toy.py --out benchmarks/results/claims_edit_toy.json
    python tests/claims/edit_toy.py --smoke

A transformer of four layers learns 60 facts under six templates by heart. Its answer is a word of reasoning, drawn as
its subject prefers, and the value in a box. Then eight facts are edited from rows of one template: the model's own
reasoning with the new value behind it. Editors are settings of trimtab's methods; each learns the eight rows in every
update and is measured on its way: reliability (the new value in the greedy answer, under the template of the edit),
generalisation (under the other five), locality (share of the 52 other facts whose greedy answers under all templates
stay, word by word, and by their value alone) and drift, KL(policy || start) on these answers. Editors are compared
where they are equally reliable, on the straight line between the two measurements around that point.

Consolidation is GRPO with the reward edit, from what TPSFT has made of the model, and, as a control, from the model
that nobody has edited. It starts after 32 updates of TPSFT, chosen on seed 100, where that had changed five facts of
eight; after 40 it had changed all, and nothing was left to consolidate.

Claimed: TPSFT keeps more of the other facts than SFT where both are as reliable; consolidation raises reliability;
GRPO without the edit fails.
"""

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from intervals import over_seeds
from language import answers, recipe, train, where_first
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from trimtab.common.environment import environment
from trimtab.data.collate import length_sorted
from trimtab.models.loading import load_model
from trimtab.runs.job import Job, load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run
from trimtab.train.heldout import measure, summary

FACTS, EDITED, TEMPLATES, WORDS, VALUES = 60, 8, 6, 3, 20
PREFERENCE = (0.6, 0.25, 0.15)
"""how often a subject's words of reasoning are drawn"""
LONGEST = 5
"""tokens of an answer: the word, a tag, the box, a tag, the end"""
FFN = {"mlp": [1, 2]}
EDITORS: dict[str, tuple[str, dict[str, Any], Any, int]] = {
    "sft, all weights": ("sft", {}, "all", 20),
    "sft, FFN": ("sft", {}, FFN, 40),
    "tpsft": ("psft", {"epsilon": 0.28, "refresh": 8}, FFN, 80),
}
"""name -> method, options, scope, updates"""
CONSOLIDATED = "tpsft"
GRPO = {
    "epsilon": 0.2, "epsilon_high": 0.3, "dual_clip": 3.0, "eps": 1e-6, "kl": 0.01, "kl_form": "paper", "kl_max": 10.0,
}  # fmt: skip
MEASURES = ("generalisation", "locality", "values kept", "drift")


class World(NamedTuple):
    """What is true, and what is to be."""

    values: list[int]
    words: list[list[int]]
    """of each subject, the likeliest first"""
    new: dict[int, int]
    """edited subject -> its new value"""

    @classmethod
    def of(cls, seed: int) -> "World":
        drawn = random.Random(f"edit-toy-{seed}")
        values = [drawn.randrange(VALUES) for _ in range(FACTS)]
        words = [drawn.sample(range(WORDS), WORDS) for _ in range(FACTS)]
        new = {s: (values[s] + drawn.randrange(1, VALUES)) % VALUES for s in drawn.sample(range(FACTS), EDITED)}
        return cls(values, words, new)

    def rows(self, copies: int, seed: int) -> list[dict[str, str]]:
        """What the model learns by heart: each fact under each template, with drawn words of reasoning."""
        drawn = random.Random(f"edit-toy-rows-{seed}")
        return [
            {"prompt": asked(s, t), "completion": said(drawn.choices(self.words[s], PREFERENCE)[0], self.values[s])}
            for s, t, _ in itertools.product(range(FACTS), range(TEMPLATES), range(copies))
        ]


def asked(subject: int, template: int) -> str:
    return f"ask{template} who{subject}"


def said(word: int, value: int) -> str:
    return f" why{word} <answer> {boxed(value)} </answer>"


def boxed(value: int) -> str:
    return f"\\boxed{{v{value}}}"


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<end>", "<answer>", "</answer>", *(f"ask{t}" for t in range(TEMPLATES))]
    words += [f"who{s}" for s in range(FACTS)] + [f"why{w}" for w in range(WORDS)] + [boxed(v) for v in range(VALUES)]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", clean_up_tokenization_spaces=False
    )


def untrained(folder: Path, seed: int) -> str:
    made = tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=64, intermediate_size=176, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=32, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


# ---------------------------------------------------------------- what a model says


class Asked:
    """Measures a model against what the original said."""

    def __init__(self, world: World, original: Any, made: Any):
        self.world, self.tokenizer = world, made
        self.others = [asked(s, t) for s in range(FACTS) if s not in world.new for t in range(TEMPLATES)]
        self.before = self.replies(original, self.others)

    def replies(self, model: Any, prompts: list[str]) -> list[str]:
        training = model.training
        model.eval()
        found = self.tokenizer.batch_decode(answers(model, self.tokenizer, prompts, LONGEST, at_once=len(prompts)))
        model.train(training)
        return found

    def __call__(self, model: Any) -> dict[str, float]:
        under = [self._new(model, template) for template in range(TEMPLATES)]
        now = self.replies(model, self.others)
        pairs = list(zip(self.before, now, strict=True))
        return {
            "reliability": under[0],
            "generalisation": sum(under[1:]) / len(under[1:]),
            "locality": sum(old == new for old, new in pairs) / len(pairs),
            "values kept": sum(value_of(old) == value_of(new) for old, new in pairs) / len(pairs),
        }

    def _new(self, model: Any, template: int) -> float:
        replies = self.replies(model, [asked(s, template) for s in self.world.new])
        wanted = [boxed(value) for value in self.world.new.values()]
        return sum(value_of(reply) == value for reply, value in zip(replies, wanted, strict=True)) / len(wanted)


def value_of(reply: str) -> str | None:
    """The only box of a reply."""
    found = [word for word in reply.split() if word.startswith("\\boxed{")]
    return found[0] if len(found) == 1 else None


class Follow(TrainerCallback):
    """Measures every few updates, and keeps the model after some number of them."""

    def __init__(self, job: Job, ask: Asked, every: int, keep: dict[int, Path]):
        self.job, self.ask, self.every, self.keep = job, ask, every, keep
        self.found = [self.measure(0)]

    def measure(self, step: int) -> dict[str, float]:
        job = self.job
        assert job.heldout is not None
        found = {"step": float(step), **self.ask(job.policy)}
        rows = length_sorted(job.heldout.rows, job.collator, 512)
        return {**found, "drift": summary(measure(job.policy, rows, job.heldout_signals))["kl_to_initial"]}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.found.append(self.measure(state.global_step))
        if (folder := self.keep.get(state.global_step)) is not None:
            save(self.job, folder)


def save(job: Job, folder: Path) -> None:
    job.policy.save_pretrained(folder)
    job.tokenizer.save_pretrained(folder)


# ---------------------------------------------------------------- trainings


def written(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def learn(world: World, seed: int, args: argparse.Namespace, folder: Path) -> Path:
    """A model that knows the facts."""
    tree = {
        "method": "sft",
        "models": {"policy": untrained(folder / "untrained", seed)},
        "data": {"train": written(folder / "facts.jsonl", world.rows(4, seed))},
        "training": {
            "per_device_train_batch_size": 120, "max_steps": args.learn, "learning_rate": 3e-3, "warmup_steps": 20,
        },
        "seed": seed,
        "output": str(folder / "learn"),
    }  # fmt: skip
    job = load_job(recipe("learn", tree), Shared(), Console(quiet=True))
    train(job)
    save(job, folder / "knows")
    return folder / "knows"


def follow(name: str, ask: Asked, seed: int, args: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """The measurements of an editor; that which consolidation starts from is kept on the way."""
    method, options, scope, updates = EDITORS[name]
    tree = {
        "method": method,
        "options": options,
        "models": {"policy": str(folder / "knows"), "teacher_cache": "memory"},
        "scope": scope,
        "data": {"train": str(folder / "edits.jsonl"), "heldout": str(folder / "others.jsonl")},
        "training": {
            "per_device_train_batch_size": EDITED, "max_steps": min(args.steps, updates), "warmup_steps": 0,
            "learning_rate": args.learning_rate, "lr_scheduler_type": "constant",
        },
        "eval": {"kl_to_initial": True},
        "seed": seed,
        "output": str(folder / "run"),
    }  # fmt: skip
    job = load_job(recipe(name, tree), Shared(), Console(quiet=True))
    keep = {min(args.start, args.steps): folder / "edited"} if name == CONSOLIDATED else {}
    path = Follow(job, ask, args.every, keep)
    train(job, callbacks=[path])
    return path.found


def consolidate(model: Path, world: World, seed: int, args: argparse.Namespace, folder: Path) -> Path:
    """GRPO with the reward edit, as the second stage of EtCon."""
    tasks = [{"prompt": asked(s, 0), "answer": f"v{value}"} for s, value in world.new.items()]
    tree = {
        "method": "grpo",
        "options": GRPO,
        "models": {"policy": str(model)},
        "data": {"train": written(folder / "tasks.jsonl", tasks)},
        "reward": [{"name": "edit", "correct": 0.85}],
        "training": {
            "per_device_train_batch_size": 10 * EDITED, "num_generations": 10, "max_completion_length": LONGEST,
            "max_steps": min(args.steps, 60), "learning_rate": args.rl_learning_rate, "max_grad_norm": 1.0,
            "lr_scheduler_type": "constant", "save_strategy": "no",
        },
        "seed": seed,
        "output": str(folder / f"grpo-{model.name}"),
    }  # fmt: skip
    made = parse(tree, "grpo", "grpo")
    assert isinstance(made, Recipe)
    return run(made, console=Console(quiet=True)).folder / "model"


def of_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements of a seed: the paths of editors, and what is left after consolidation."""
    world, made = World.of(seed), tokenizer()
    original = load_model(str(learn(world, seed, args, folder)))
    ask = Asked(world, original, made)
    known = ask.replies(original, [asked(s, t) for s in range(FACTS) for t in range(TEMPLATES)])
    right = [boxed(world.values[s]) for s in range(FACTS) for _ in range(TEMPLATES)]
    knows = sum(value_of(reply) == value for reply, value in zip(known, right, strict=True)) / len(known)
    chains = ask.replies(original, [asked(s, 0) for s in world.new])
    rows = [
        {"prompt": asked(s, 0), "completion": f" {chain.split()[0]} <answer> {boxed(value)} </answer>"}
        for (s, value), chain in zip(world.new.items(), chains, strict=True)
    ]
    written(folder / "edits.jsonl", rows)
    others = [{"prompt": one, "completion": f" {reply}"} for one, reply in zip(ask.others, ask.before, strict=True)]
    written(folder / "others.jsonl", others)
    print(f"seed {seed}: the model knows {knows:.3f} of what it was taught", flush=True)
    paths = {name: follow(name, ask, seed, args, folder) for name in EDITORS}
    for name, path in paths.items():
        print(*lines(name, path), sep="\n", flush=True)
    stages = {"edited": folder / "edited", "consolidated": folder / "edited", "grpo alone": folder / "knows"}
    left = {}
    for name, start in stages.items():
        model = start if name == "edited" else consolidate(start, world, seed, args, folder)
        left[name] = ask(load_model(str(model)))
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in left[name].items()), flush=True)
    return {"knows": knows, "paths": paths, "stages": left}


def lines(name: str, path: Sequence[dict[str, float]]) -> Iterator[str]:
    yield f"{name}: " + " | ".join(path[0])
    for row in path:
        yield "  " + " | ".join(f"{value:.3f}" for value in row.values())


# ---------------------------------------------------------------- the command


def compared(found: Sequence[dict[str, Any]], at: float) -> dict[str, Any]:
    """Editors where they are equally reliable, and stages; differences are paired by seed."""
    reached = {name: [where_first(one["paths"][name], "reliability", at) for one in found] for name in EDITORS}
    claims: dict[str, Any] = {}
    for other in ("sft, all weights", "sft, FFN"):
        for name in MEASURES:
            pairs = [(a, b) for a, b in zip(reached[CONSOLIDATED], reached[other], strict=True) if a and b]
            told(claims, f"{name} at reliability {at:g}: tpsft minus {other}", [a[name] - b[name] for a, b in pairs])
    stages = [one["stages"] for one in found]
    for name in ("reliability", "generalisation", "locality", "values kept"):
        differences = [one["consolidated"][name] - one["edited"][name] for one in stages]
        told(claims, f"{name}: consolidated minus edited", differences)
    told(claims, "reliability of grpo alone", [one["grpo alone"]["reliability"] for one in stages])
    differences = [one["consolidated"]["reliability"] - one["grpo alone"]["reliability"] for one in stages]
    told(claims, "reliability: consolidated minus grpo alone", differences)
    return {"at": reached, "claims": claims}


def told(claims: dict[str, Any], name: str, differences: list[float]) -> None:
    if differences:
        claims[name] = list(over_seeds(differences))
        print(f"{name}: {over_seeds(differences)}, {len(differences)} seeds")


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--learn", type=int, default=400, help="updates that teach the facts")
    parser.add_argument("--steps", type=int, default=80, help="updates of an editor, at most its own number")
    parser.add_argument("--start", type=int, default=32, help="updates of tpsft before consolidation")
    parser.add_argument("--every", type=int, default=4, help="updates between measurements")
    parser.add_argument("--at", type=float, default=0.75, help="reliability at which editors are compared")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rl-learning-rate", type=float, default=3e-4)
    parser.add_argument("--smoke", action="store_true", help="one seed and a few updates: nothing is learnt")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    if args.smoke:
        args.seeds, args.learn, args.steps, args.start, args.every = [0], 4, 4, 2, 2
    start, found = time.time(), []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            found.append(of_seed(seed, args, Path(folder)))
        print(f"{time.time() - start:.0f} s so far", flush=True)
    settings = {key: value for key, value in vars(args).items() if key != "out"}
    result = {"settings": settings, "environment": environment(), "seeds": found, **compared(found, args.at)}
    result["seconds"] = round(time.time() - start)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
