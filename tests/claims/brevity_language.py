"""The dial (InRa, arXiv:2506.12704; CLM, arXiv:2503.04346) and TrRa on a language model: how long are its answers?

    python tests/claims/brevity_language.py --out brevity_language.json
    python tests/claims/brevity_language.py --methods inra --seeds 0

SmolLM2-135M-Instruct learns to answer in one sentence: by imitation (inra, sft) or preferences (clm). At each
strength of the dial, or after TrRa at each strength, it answers held-out prompts greedily; measured is the length of
the answers in tokens. Settings are those of the tiny recipes; nothing was tuned on these prompts.

Claimed: lengths fall with the strength, from one strength to the next (interpolation) and beyond 1 and below 0
(extrapolation); at strength 0 the answers are those of the untrained model, token for token.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import over_seeds_and_rows
from rich.console import Console

from trimtab.data.synthetic import everyday
from trimtab.decoding.realign import realign
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.tokenizers import encode_prompts
from trimtab.recipe import load_recipe
from trimtab.run import environment, run, run_stages

DIAL = (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
BAKED = (0.0, 0.5, 1.0, 1.5, 2.0)
MODEL = "smollm2-135m"


def prompts(number: int) -> list[str]:
    asked = [next(m["content"] for m in row["messages"] if m["role"] == "user") for row in everyday("heldout")]
    return list(dict.fromkeys(asked))[:number]


@torch.no_grad()
def answers(model: Any, tokenizer: Any, asked: list[str], new: int, **settings: Any) -> list[list[int]]:
    """Ids of each greedy answer, without what follows its end."""
    found = []
    for start in range(0, len(asked), 12):
        inputs = encode_prompts(tokenizer, asked[start : start + 12])
        width = inputs["input_ids"].size(1)
        output = model.generate(**inputs, max_new_tokens=new, do_sample=False, **settings)
        for row in output[:, width:].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            found.append(row[:end])
    return found


def lengths(method: str, seed: int, args: argparse.Namespace, tokenizer: Any, untrained: list[list[int]]) -> dict:
    """strength -> lengths of the answers."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["eval.drift=false", "data.heldout=null", "eval.prompts=[]", f"training.max_steps={args.steps}"]
        if method == "trra":
            strengths = BAKED
            for strength in strengths:
                place = [f"output={folder}/{strength}", f"seed={seed}", *quiet]
                stages = load_recipe("tiny_trra", place)
                stages.stages[0].output = f"{folder}/brief"  # one aligned model for all strengths
                stages.stages[1].models.aligned = f"{folder}/brief/model"
                stages.stages[1].options["strength"] = strength
                run_stages(stages, resume=strength != strengths[0], console=Console(quiet=True))
                model = load_model(f"{folder}/{strength}/realigned/model")
                found[strength] = answers(model, tokenizer, args.prompts, args.new)
        else:
            strengths = DIAL
            run(
                load_recipe(f"tiny_{method}", [f"output={folder}/run", f"seed={seed}", *quiet]),
                console=Console(quiet=True),
            )
            model = load_model(f"{folder}/run/model")
            for strength in strengths:
                found[strength] = answers(
                    model, tokenizer, args.prompts, args.new, custom_generate=realign, strength=strength
                )
    assert found[0.0] == untrained or method == "trra", "strength 0 is not the untrained model"
    return {strength: [len(ids) for ids in texts] for strength, texts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["inra", "clm", "trra"], choices=["inra", "clm", "trra"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--number", type=int, default=24, help="held-out prompts")
    parser.add_argument("--new", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.prompts = prompts(args.number)
    start, tokenizer = time.time(), load_tokenizer(MODEL)
    untrained = answers(load_model(MODEL), tokenizer, args.prompts, args.new)
    result: dict[str, Any] = {"settings": {**vars(args), "out": None}, "environment": environment(), "methods": {}}
    result["untrained"] = [len(ids) for ids in untrained]
    print(f"untrained: {np.mean(result['untrained']):.1f} tokens over {len(untrained)} prompts, at most {args.new}")
    for method in args.methods:
        by_seed = [lengths(method, seed, args, tokenizer, untrained) for seed in args.seeds]
        table = {strength: np.array([seed[strength] for seed in by_seed], float) for strength in by_seed[0]}
        ones = np.ones_like(next(iter(table.values())))
        steps = {}
        for low, high in itertools.pairwise(table):
            steps[f"{low:g} to {high:g}"] = over_seeds_and_rows(table[high], ones, table[low])
        result["methods"][method] = {
            "lengths": {f"{s:g}": values.tolist() for s, values in table.items()},
            "means": {f"{s:g}": values.mean() for s, values in table.items()},
            "change": steps,
            "monotone in every seed": [
                bool((np.diff([v[i].mean() for v in table.values()]) < 0).all()) for i in range(len(by_seed))
            ],
        }
        print(f"\n{method}, seeds {args.seeds}: mean tokens of an answer (change from the strength before)")
        for strength, change in zip(table, ["", *map(str, steps.values())]):
            print(f"  strength {strength:>4g}: {table[strength].mean():6.2f}   {change}")
        result["seconds"] = round(time.time() - start)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
