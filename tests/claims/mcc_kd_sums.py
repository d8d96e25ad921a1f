"""Consistency of answers (MCC-KD, arXiv:2310.14747) on sums of two numbers that are worked out in two ways.

    python tests/claims/mcc_kd_sums.py --out benchmarks/results/claims_mcc_kd.json

A model of two layers reads characters and learns, from scratch, two rationales of each sum. With alpha 0 both are
learnt alone, with alpha 0.1 the answers after them are made alike too. On held-out sums, given correct rationales, and
after a way to work them out that no model has seen:

- claimed: the divergence between the answers after the two ways is smaller with alpha 0.1;
- claimed: the answer after the unseen way is correct no less often (its difference is not below 0);
- no claim: how many sums are solved greedily, as errors arise in the rationale and not in the answer given it.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from intervals import between_ends
from own_answers import carried_out
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from trimtab.common.environment import environment
from trimtab.core.batch import COMPARED, IGNORE
from trimtab.data.collate import Collator
from trimtab.data.rationales import draw, prepare_rationales
from trimtab.data.sources import load_rows
from trimtab.models import characters
from trimtab.objectives.consistency import consistency
from trimtab.rewards.final import is_correct
from trimtab.rewards.places import place_of_answer

FIRST, SECOND, UNSEEN = 0, 1, 2


def untrained(folder: Path, seed: int) -> Path:
    """A model of two layers, 64 wide."""
    config = characters.config()
    config.update({"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4})
    config.update({"num_key_value_heads": 4, "head_dim": 16})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    characters.tokenizer().save_pretrained(folder)
    return folder


def trained(alpha: float, seed: int, args: argparse.Namespace, folder: Path) -> Path:
    tree = {
        "method": "mcc_kd",
        "models": {"policy": str(untrained(folder / f"start-{seed}", seed))},
        "data": {"train": f"trimtab:worked_sums/train?rows={args.rows}&seed={seed}", "chat": True},
        "options": {"alpha": alpha},
        "training": {
            "per_device_train_batch_size": 32, "max_steps": args.steps, "learning_rate": args.rate,
            "warmup_steps": 20, "lr_scheduler_type": "cosine", "max_length": 128, "save_strategy": "no",
            "max_grad_norm": 1.0, "bf16": False, "gradient_checkpointing": False,
        },
        "seed": seed,
        "output": str(folder / f"alpha-{alpha:g}-{seed}"),
    }  # fmt: skip
    return carried_out(f"alpha-{alpha:g}-{seed}", tree) / "model"


@torch.no_grad()
def measured(place: Path, sums: int) -> dict[str, float]:
    """On held-out sums: divergences at the answers, answers after each way, sums solved greedily."""
    rows = load_rows(f"trimtab:worked_sums/heldout?rows={sums}&ways=3")
    tokenizer, model = characters.tokenizer(), AutoModelForCausalLM.from_pretrained(place).eval()
    made = prepare_rationales(rows, tokenizer, max_length=128, find=place_of_answer, chat=True).rows
    found: dict[str, float] = {}
    for name, first, second in (("seen", FIRST, SECOND), ("unseen", FIRST, UNSEEN)):
        batch = Collator(0, len(tokenizer), columns=(COMPARED,))([draw(row, first, second) for row in made])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        inside = ((batch["labels"] != IGNORE) & (batch[COMPARED] >= 0))[:, 1:]
        apart = consistency(logits[0::2][inside[0::2]], logits[1::2][inside[1::2]])
        found[f"divergence, {name}"] = apart.mean().item()
        right = (logits.argmax(-1) == batch["labels"][:, 1:]) | ~inside
        found[f"answer after {name}"] = right[1::2].all(dim=1).float().mean().item()
    texts = [tokenizer.apply_chat_template(
        [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, tokenize=False) for row in rows
    ]  # fmt: skip
    asked = tokenizer(texts, add_special_tokens=False, return_tensors="pt")  # all of one length
    ids = model.generate(input_ids=asked.input_ids, attention_mask=asked.attention_mask, max_new_tokens=60,
                         do_sample=False)  # fmt: skip
    said = tokenizer.batch_decode(ids[:, asked.input_ids.size(1) :], skip_special_tokens=True)
    solved = [is_correct(text, row["answer"]) for text, row in zip(said, rows, strict=True)]
    return {**found, "solved": sum(solved) / len(solved)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--alphas", nargs="+", type=float, default=[0.0, 0.1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--sums", type=int, default=150, help="held out")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start = time.time()
    found: dict[float, list[dict[str, float]]] = {alpha: [] for alpha in args.alphas}
    with tempfile.TemporaryDirectory() as place:
        for seed in args.seeds:
            for alpha, own in found.items():
                own.append(measured(trained(alpha, seed, args, Path(place)), args.sums))
                print(f"seed {seed}, alpha {alpha:g}, {time.time() - start:.0f} s so far: {own[-1]}", flush=True)
    differences = between_ends(found, "alpha")
    if args.out:
        settings = {key: value for key, value in vars(args).items() if key != "out"}
        result = {"settings": settings, "environment": environment(), "measures": found, "differences": differences}
        args.out.write_text(json.dumps({**result, "seconds": round(time.time() - start)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
