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
from rich.console import Console
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trimtab.data.geometry import items, wording
from trimtab.data.sources import load_rows
from trimtab.evals.answerers import Local
from trimtab.evals.runner import ask, measures, question
from trimtab.evals.suite import baselines
from trimtab.models.characters import ASSISTANT, END, PAD, SPECIAL, TEMPLATE, UNKNOWN, USER
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.recipe import Recipe, parse
from trimtab.run import environment, run

TOKEN = re.compile(r"[A-Z](?![a-z])|[A-Za-z][a-z]*|[^\sA-Za-z]|\n")
"""The letter of a point, a word, a sign."""
WIDTH, LAYERS, POSITIONS = 128, 4, 512


def tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token for each word, letter of a point, and sign of the texts."""
    words = sorted({token for text in texts for token in TOKEN.findall(text)})
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, *words])}, unk_token=UNKNOWN))
    isolated = pre_tokenizers.Split(Regex(TOKEN.pattern), "isolated")
    blanks = pre_tokenizers.Split(Regex(" +"), "removed")
    made.pre_tokenizer = pre_tokenizers.Sequence([blanks, isolated])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, chat_template=TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT], clean_up_tokenization_spaces=True, model_max_length=POSITIONS,
    )  # fmt: skip


def start(folder: Path, texts: Sequence[str], seed: int) -> None:
    """Write an untrained model and its tokenizer."""
    made = tokenizer(texts)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(made), hidden_size=WIDTH, intermediate_size=352, num_hidden_layers=LAYERS,
        num_attention_heads=4, max_position_embeddings=POSITIONS, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=SPECIAL.index(END), pad_token_id=SPECIAL.index(PAD),
    )  # fmt: skip
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
    recipe = parse(
        {
            "method": "sft",
            "models": {"policy": str(policy)},
            "data": {"train": str(data)},
            "training": {
                "per_device_train_batch_size": 64, "max_steps": steps, "learning_rate": rate, "adam_beta2": 0.95,
                "weight_decay": 0.1, "max_grad_norm": 1.0, "warmup_steps": 50, "lr_scheduler_type": "cosine",
                "max_length": 256, "bf16": False, "gradient_checkpointing": False, "save_strategy": "no",
                "logging_steps": 20,
            },
            "seed": seed,
            "output": str(folder / name),
        },
        name,
        name,
    )  # fmt: skip
    assert isinstance(recipe, Recipe)
    return run(recipe, console=Console(quiet=True)).folder / "model"


def asked(model: Path, deepest: int, limit: int | None) -> dict[str, float]:
    """Share of right answers (robust parser) to bundled test questions: of all, and by depth and relation."""
    about = question(
        "geomrel", {"depths": list(range(1, deepest + 1))}, prompt="bare", limit=limit, max_new_tokens=8
    )  # fmt: skip
    found = ask(about, Local(load_model(str(model)), load_tokenizer(str(model)), batch=100))
    kept = ("all", "depth=", "relation=")
    rows = [m for m in measures(about.suite, found) if m.group.startswith(kept)]
    return {m.group: m.value.estimate for m in rows if m.name == "robust strict"}


def usual(deepest: int, limit: int | None) -> dict[str, float]:
    """What always giving the commonest answer of a question's kind gets: over all depths, and within each."""
    found = {}
    for depths in ([*range(1, deepest + 1)], *([d] for d in range(1, deepest + 1))):
        about = question("geomrel", {"depths": depths}, prompt="bare", limit=limit)
        found["all" if len(depths) > 1 else f"depth={depths[0]}"] = baselines(about.suite, about.items)[
            "majority answer"
        ]
    return found


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
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            rows = load_rows(f"trimtab:geomrel/train?rows={args.rows}&deepest={args.deepest}&seed={1000 + seed}")
            start(
                folder / "start",
                [text for row in rows for text in (row["question"], f"Answer: {wording.ALPHABET}.")],
                seed,
            )
            render = load_tokenizer(str(folder / "start")).apply_chat_template
            texts = [
                str(render(chat, tokenize=False)).removesuffix(END) for chat in renamed(rows, args.reading, seed)
            ]  # fmt: skip
            for name, column, values in (
                ("reading", "text", texts), ("answering", "messages", renamed(rows, args.answering, seed + 1)),
            ):  # fmt: skip
                lines = (json.dumps({column: value}) + "\n" for value in values)
                (folder / f"{name}.jsonl").write_text("".join(lines))
            one: dict[str, Any] = {"seed": seed, "before": asked(folder / "start", args.deepest, args.limit)}
            steps = [round(times * args.rows / 64) for times in (args.reading, args.answering)]
            read = learnt("reading", folder / "start", folder / "reading.jsonl", steps[0], args.rate, seed, folder)
            one["read"] = asked(read, args.deepest, args.limit)
            done = learnt(
                "answering", read, folder / "answering.jsonl", steps[1], args.answer_rate, seed, folder
            )  # fmt: skip
            one["after"] = asked(done, args.deepest, args.limit)
            one["seconds"] = round(time.time() - began)
        runs.append(one)
        course = {when: {g: round(v, 3) for g, v in one[when].items() if "relation" not in g} for when in (
            "before", "read", "after")}  # fmt: skip
        print(f"seed {seed}, {one['seconds']} s: {course}", flush=True)
    gains = {group: over_seeds([one["after"][group] - value for one in runs]) for group, value in commonest.items()}
    falls = {
        f"{depth} to {depth + 1}": over_seeds(
            [one["after"][f"depth={depth}"] - one["after"][f"depth={depth + 1}"] for one in runs]
        )
        for depth in range(1, args.deepest)
    }
    for group, gain in gains.items():
        print(f"{group}: over the commonest answer {gain}")
    for depths, fall in falls.items():
        print(f"falls from depth {depths} by {fall}")
    if args.out:
        result = {
            "settings": {key: value for key, value in vars(args).items() if key != "out"},
            "environment": environment(), "commonest": commonest, "runs": runs,
            "gains": {key: list(value) for key, value in gains.items()},
            "falls": {key: list(value) for key, value in falls.items()},
        }  # fmt: skip
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
