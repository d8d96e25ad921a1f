"""GeomRel learnt from generated rows by a transformer of 0.85 million weights that starts from nothing.

    python tests/claims/geometry_language.py --out claims_geometry_language.json
    python tests/claims/geometry_language.py --rows 40000 --reading 1 --answering 1

Each word is a token, and each letter that names a point. The model first reads (questions with their answers, as
texts), then learns the answers alone, both with `sft`; each time that it meets a row its points have other names. It is
asked the bundled test questions of the same depths by the suite itself (`--prompt bare`), before and after; no test
question is a training question under any names of its points.

Claimed, over seeds (Student's t): more answers are right than by always giving the commonest answer of a question's
kind, and fewer at each depth than at the one before. Epochs and learning rates were tried on rows of the training split
alone.
"""

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from intervals import over_seeds
from own_answers import carried_out
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.common.environment import environment
from trimtab.data.generators.geometry import items, wording
from trimtab.data.sources import load_rows
from trimtab.evals.models import HFModel
from trimtab.evals.runner import ask, eval_spec, measures
from trimtab.evals.suite import baselines
from trimtab.models import characters
from trimtab.models.characters import ASSISTANT, END, PAD, SPECIAL, TEMPLATE, UNKNOWN, USER
from trimtab.models.loading import load_model, load_tokenizer

TOKEN = re.compile(r"[A-Z](?![a-z])|[A-Za-z][a-z]*|[^\sA-Za-z]|\n")
"""The letter of a point, a word, a sign."""


def tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token for each word, letter of a point, and sign of the texts."""
    words = sorted({token for text in texts for token in TOKEN.findall(text)})
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, *words])}, unk_token=UNKNOWN))
    isolated = pre_tokenizers.Split(Regex(TOKEN.pattern), "isolated")
    blanks = pre_tokenizers.Split(Regex(" +"), "removed")
    made.pre_tokenizer = pre_tokenizers.Sequence([blanks, isolated])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, chat_template=TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT], clean_up_tokenization_spaces=True,
        model_max_length=characters.POSITIONS,
    )  # fmt: skip


def start(folder: Path, texts: Sequence[str], seed: int) -> None:
    """Write an untrained model and its tokenizer."""
    made = tokenizer(texts)
    torch.manual_seed(seed)
    config = characters.config()
    config.vocab_size = len(made)
    LlamaForCausalLM(config).save_pretrained(folder)
    made.save_pretrained(folder)


def renamed(rows: Sequence[dict[str, Any]], copies: int, seed: int) -> list[list[dict[str, str]]]:
    """The chats of the rows, so many times, each time with other letters for the points."""
    drawn, chats = random.Random(seed), []
    for _ in range(copies):
        for row in rows:
            names = str.maketrans(wording.ALPHABET, "".join(drawn.sample(wording.ALPHABET, len(wording.ALPHABET))))
            text, choices, options = row["question"].partition(wording.CHOICES)
            words = (word.translate(names) if word.isupper() else word for word in re.split(r"\b", text))
            chats.append(items.chat("".join(words) + choices + options, row["answer"]))
    return chats


def learnt(name: str, policy: Path, data: Path, steps: int, rate: float, seed: int, folder: Path) -> Path:
    """The model after `sft` on the rows of a file."""
    tree = {
        "method": "sft",
        "models": {"policy": str(policy)},
        "data": {"train": str(data)},
        "training": {
            "per_device_train_batch_size": 64, "max_steps": steps, "learning_rate": rate, "adam_beta2": 0.95,
            "weight_decay": 0.1, "max_grad_norm": 1.0, "warmup_steps": 50, "lr_scheduler_type": "cosine",
            "max_length": 256, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
            "logging_steps": 20, "train_sampling_strategy": "group_by_length",
        },
        "seed": seed,
        "output": str(folder / name),
    }  # fmt: skip
    return carried_out(name, tree) / "model"


def asked(model: Path, deepest: int, limit: int | None) -> dict[str, float]:
    """Share of right answers (robust parser) to bundled test questions: of all, and by depth and relation."""
    about = eval_spec(
        "geomrel", {"depths": list(range(1, deepest + 1))}, prompt="bare", limit=limit, max_new_tokens=8
    )  # fmt: skip
    found = ask(about, HFModel(load_model(str(model)), load_tokenizer(str(model)), batch=100))
    kept = ("all", "depth=", "relation=")
    rows = [m for m in measures(about.suite, found) if m.group.startswith(kept)]
    return {m.group: m.value.estimate for m in rows if m.name == "robust strict"}


def usual(deepest: int, limit: int | None) -> dict[str, float]:
    """What always giving the commonest answer of a question's kind gets: over all depths, and within each."""
    found = {}
    for depths in ([*range(1, deepest + 1)], *([d] for d in range(1, deepest + 1))):
        about = eval_spec("geomrel", {"depths": depths}, prompt="bare", limit=limit)
        found["all" if len(depths) > 1 else f"depth={depths[0]}"] = baselines(about.suite, about.items)[
            "majority answer"
        ]
    return found


def run_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Shares of right answers before, after reading and after answering."""
    rows = load_rows(f"trimtab:geomrel/train?rows={args.rows}&deepest={args.deepest}&seed={1000 + seed}")
    model = folder / "start"
    start(model, [*(row["question"] for row in rows), f"Answer: {wording.ALPHABET}."], seed)
    render = load_tokenizer(str(model)).apply_chat_template
    found: dict[str, Any] = {"seed": seed, "before": asked(model, args.deepest, args.limit)}
    for name, key, copies, rate, names in (
        ("reading", "read", args.reading, args.rate, seed),
        ("answering", "after", args.answering, args.answer_rate, seed + 1),
    ):
        made: list[dict[str, Any]] = [{"messages": chat} for chat in renamed(rows, copies, names)]
        if name == "reading":
            made = [{"text": str(render(row["messages"], tokenize=False)).removesuffix(END)} for row in made]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in made))
        model = learnt(name, model, data, round(copies * args.rows / 64), rate, seed, folder)
        found[key] = asked(model, args.deepest, args.limit)
    return found


def summary(runs: Sequence[dict[str, Any]], commonest: dict[str, float], deepest: int) -> dict[str, Any]:
    """Differences over seeds, which one seed alone does not have."""
    after = [one["after"] for one in runs]
    gains = {group: over_seeds([one[group] - value for one in after]) for group, value in commonest.items()}
    falls = {
        f"{d} to {d + 1}": over_seeds([one[f"depth={d}"] - one[f"depth={d + 1}"] for one in after])
        for d in range(1, deepest)
    }
    return {"gains": gains, "falls": falls} if len(runs) > 1 else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--deepest", type=int, default=3)
    parser.add_argument("--reading", type=int, default=8, help="times that a row is met")
    parser.add_argument("--answering", type=int, default=8, help="times that a row is met")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of reading")
    parser.add_argument("--answer-rate", type=float, default=1e-3, help="learning rate of answering")
    parser.add_argument("--limit", type=int, default=None, help="test questions")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, runs, commonest = time.time(), [], usual(args.deepest, args.limit)
    print("the commonest answer:", {group: round(value, 3) for group, value in commonest.items()}, flush=True)
    found: dict[str, Any] = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as place:
            runs.append({**run_seed(seed, args, Path(place)), "seconds": round(time.time() - began)})
        for when in ("before", "read", "after"):
            print(f"seed {seed}, {when}:", {g: round(runs[-1][when][g], 3) for g in commonest}, flush=True)
        found = summary(runs, commonest, args.deepest)
        if args.out:  # after each seed: a run that is stopped keeps what it has
            settings = {key: value for key, value in vars(args).items() if key != "out"}
            result = {"settings": settings, "environment": environment(), "commonest": commonest, "runs": runs, **found}
            args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")
    for what, of in found.items():
        for group, difference in of.items():
            print(f"{what}, {group}: {difference}")


if __name__ == "__main__":
    main()
