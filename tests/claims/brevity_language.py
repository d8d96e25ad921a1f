"""Strengths of alignment on a language model (InRa and TrRa, CLM, WSPO): how long are its answers?

    python tests/claims/brevity_language.py --out brevity_language.json
    python tests/claims/brevity_language.py --methods inra --seeds 0

SmolLM2-135M-Instruct learns to answer in one sentence: with a dial, by imitation (inra, arXiv:2506.12704) or by
preferences (clm, arXiv:2503.04346); by TrRa at each strength (trra, arXiv:2506.12704); or from the change that 20 of
its layers underwent (wspo, arXiv:2410.18640; here the strength is 1/gamma). It answers held-out prompts greedily;
measured is the length of the answers in tokens. Settings are those of the tiny recipes; nothing was tuned on these
prompts.

Claimed: lengths fall with the strength, from one strength to the next (interpolation) and beyond 1 and below 0
(extrapolation); at strength 0 of a dial the answers are those of the untrained model, token for token.
"""

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from intervals import over_seeds_and_rows
from language import answers, prompts
from rich.console import Console

from trimtab.common.environment import environment
from trimtab.decoding.realign import realign
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.runs.parse import load_recipe
from trimtab.runs.run import run, run_stages

STRENGTHS = {
    "inra": (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    "clm": (-0.5, 0.0, 0.5, 1.0, 1.5, 2.0),
    "trra": (0.5, 1.0, 1.5, 2.0),
    "wspo": (1.0, 2.0, 4.0),
}
MODEL = "smollm2-135m"


def lengths(method: str, seed: int, args: argparse.Namespace, tokenizer: Any, untrained: list[list[int]]) -> dict:
    """strength (and names of the models on the way) -> lengths of the answers."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        quiet = [f"seed={seed}", "eval.kl_to_initial=false", "data.heldout=null", "eval.prompts=[]"]

        def answer(model: str, **options: Any) -> list[list[int]]:
            return answers(load_model(f"{folder}/{model}/model"), tokenizer, args.prompts, args.new, **options)

        if method in ("trra", "wspo"):
            for strength in STRENGTHS[method]:
                stages = load_recipe(f"tiny_{method}", [f"output={folder}/{strength}", *quiet])
                *shared, last = stages.stages
                for stage in shared:  # one aligned model, or weak pair, for all strengths
                    stage.output = f"{folder}/{Path(stage.output).name}"
                if method == "trra":
                    last.models.aligned = f"{folder}/brief/model"
                    last.options["strength"] = strength
                else:
                    shared[1].models.policy = last.models.weak_reference = f"{folder}/weak/model"
                    last.models.weak_aligned = f"{folder}/weak_brief/model"
                    last.options["gamma"] = 1 / strength
                run_stages(stages, resume=bool(found), console=Console(quiet=True))
                found |= {Path(s.output).name: answer(Path(s.output).name) for s in shared if not found}
                found[strength] = answer(f"{strength}/{Path(last.output).name}")
        else:
            run(load_recipe(f"tiny_{method}", [f"output={folder}/run", *quiet]), console=Console(quiet=True))
            for strength in STRENGTHS[method]:
                found[strength] = answer("run", custom_generate=realign, strength=strength)
            assert found[0.0] == untrained, "strength 0 is not the untrained model"
    return {name: [len(ids) for ids in texts] for name, texts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["inra", "clm", "trra", "wspo"], choices=STRENGTHS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
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
        by_seed = []
        for seed in args.seeds:
            by_seed.append(lengths(method, seed, args, tokenizer, untrained))
            means = ", ".join(f"{name} {np.mean(counts):.1f}" for name, counts in by_seed[-1].items())
            print(f"{method}, seed {seed}, {time.time() - start:.0f} s so far: {means}", flush=True)
            result["methods"][method] = {"lengths by seed": by_seed}
            if args.out:
                args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")
        table = {strength: np.array([seed[strength] for seed in by_seed], float) for strength in by_seed[0]}
        if method in ("trra", "wspo"):  # these start at the untrained model
            table = {0.0: np.array([result["untrained"]] * len(by_seed), float), **table}
        ones = np.ones(table[1.0].shape[1])
        steps = {}
        for low, high in itertools.pairwise(STRENGTHS[method]):
            steps[f"{low:g} to {high:g}"] = over_seeds_and_rows(table[high], ones, table[low])
        means = {strength: table[strength].mean(axis=1) for strength in STRENGTHS[method]}  # [seeds]
        result["methods"][method] = {
            "lengths": {str(s): values.tolist() for s, values in table.items()},
            "means": {str(s): values.mean() for s, values in table.items()},
            "change": steps,
            "falls in seeds": int((np.diff(np.stack(list(means.values())), axis=0) < 0).all(axis=0).sum()),
        }
        print(f"\n{method}, seeds {args.seeds}: mean tokens of an answer (change from the strength before)")
        changes = dict(zip(STRENGTHS[method][1:], steps.values()))
        for strength, values in table.items():
            print(f"  {strength!s:>10}: {values.mean():6.2f}   {changes.get(strength, '')}")
        print(f"  lengths fall from each strength to the next in {result['methods'][method]['falls in seeds']} seeds")
        result["seconds"] = round(time.time() - start)
        if args.out:
            args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
