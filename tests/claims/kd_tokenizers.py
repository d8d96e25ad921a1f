"""KD from a teacher of another tokenizer, for a student with few rows.

    python tests/claims/kd_tokenizers.py --out benchmarks/results/claims_kd_tokenizers.json

Texts of a small grammar. The teacher, with a tokenizer of 480 tokens, learns from 1,500 of them; students, with one of
300 tokens that knows other words, from 48, by SFT and by KD with `tokenizers: different`, both from the same weights in
the same number of steps.

- claimed: after KD the negative log-likelihood of held-out texts is smaller than after SFT.

Seeds 0 to 2, each another student, had been looked at when the settings were chosen.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, for the models of the tests

import torch
from intervals import Interval, over_seeds
from own_answers import carried_out
from transformers import PreTrainedTokenizerFast

import tiny
import tiny_folder
from tiny_tokenizers import byte_level
from trimtab.common.environment import environment
from trimtab.report.reading import load

SUBJECTS = ["The river", "A young fox", "My old neighbour", "The green machine", "Our teacher", "The last train"]
VERBS = ["watches", "carries", "remembers", "follows", "paints", "understands"]
OBJECTS = ["the silver moon", "a heavy stone", "every garden", "the quiet harbour", "some bread", "an ancient letter"]
ENDS = ["in the morning.", "without a sound.", "behind the mountain.", "for many years.", "when it rains."]


def sentences(seed: int, number: int) -> list[dict[str, Any]]:
    """Rows of a small grammar in which each part depends on the one before."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        a = draw.randrange(6)
        b = (a + draw.choice([0, 0, 0, 1, 2])) % 6
        c = (2 * b + draw.choice([0, 0, 1])) % 6
        end = ENDS[(b + c + draw.choice([0, 0, 3])) % 5]
        answer = f"{SUBJECTS[a]} {VERBS[b]} {OBJECTS[c]} {end}"
        turns = [{"role": "user", "content": "Say something."}, {"role": "assistant", "content": answer}]
        rows.append({"messages": turns})
    return rows


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    return byte_level(size=size, texts=[row["messages"][1]["content"] for row in sentences(99, 500)])


def save(folder: Path, size: int, seed: int) -> str:
    made = tokenizer(size)
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
    model = tiny.model(
        "llama_tied", seed, vocab_size=len(made), eos_token_id=0, pad_token_id=0, bos_token_id=None,
        max_position_embeddings=256, initializer_range=0.05, **wide,
    )  # fmt: skip
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def trained(
    folder: Path, name: str, seed: int, steps: int, rows: str, method: str, named: dict[str, str], **options: Any
) -> Path:
    tree = {
        "method": method,
        "models": named,
        "options": options,
        "data": {"train": str(folder / f"{rows}.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        "training": {
            "per_device_train_batch_size": 16, "max_steps": steps, "learning_rate": 3e-3, "max_length": 128,
            "save_strategy": "no", "lr_scheduler_type": "cosine", "warmup_steps": 10, "bf16": False,
        },
        "seed": seed,
        "output": str(folder / f"{name}-{seed}"),
    }  # fmt: skip
    return carried_out(name, tree)


def measured(args: argparse.Namespace, folder: Path) -> tuple[dict[str, list[float]], Interval]:
    """Held-out nats a token after each seed's SFT and KD, and the share of tokens at which vocabularies are compared;
    and by how much KD is better."""
    for name, number in (("many", 1500), ("few", 48), ("heldout", args.held)):
        tiny_folder.write_jsonl(folder / f"{name}.jsonl", sentences(len(name), number))
    large = save(folder / "large", 480, 7)
    teacher = trained(folder, "teacher", 0, args.teacher_steps, "many", "sft", {"policy": large})
    found: dict[str, list[float]] = {"sft": [], "kd": [], "matched": []}
    for seed in args.seeds:
        policy = save(folder / f"small-{seed}", 300, seed)
        sft = load(trained(folder, "sft", seed, args.steps, "few", "sft", {"policy": policy}))
        both = {"policy": policy, "teacher": str(teacher / "model")}
        kd = load(trained(folder, "kd", seed, args.steps, "few", "kd", both, tokenizers="different"))
        found["sft"].append(sft.evals[-1]["nll"])
        found["kd"].append(kd.evals[-1]["nll"])
        found["matched"].append(kd.train[-1]["matched"])
        print(f"seed {seed}: {', '.join(f'{name} {own[-1]:.3f}' for name, own in found.items())}", flush=True)
    return found, over_seeds([sft - kd for sft, kd in zip(found["sft"], found["kd"])])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5, 6, 7])
    made.add_argument("--steps", type=int, default=120)
    made.add_argument("--teacher-steps", type=int, default=250)
    made.add_argument("--held", type=int, default=64, help="held-out rows")
    made.add_argument("--out", type=Path)
    return made


def main() -> None:
    args = parser().parse_args()
    start = time.time()
    with tempfile.TemporaryDirectory() as place:
        found, difference = measured(args, Path(place))
    print(f"nll: sft minus kd: {difference}")
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key != "out"}
        result = {"settings": settings, "environment": environment(), "measures": found}
        result |= {"differences": {"nll: sft - kd": list(difference)}, "seconds": round(time.time() - start)}
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
