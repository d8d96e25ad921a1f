"""Clean-Eval (arXiv:2311.09154) with SmolLM2-135M: it is trained on a test set, which is then put into other words.

    python tests/claims/clean_eval_language.py --out claims_clean_eval_language.json

The bundled items of SocialBench with one right option are dealt, by a seed, into a test set and a control set. The
model learns the letters of the test set with `sft` until it knows them. `trimtab clean` rewrites the questions of the
test set (not its options) by its rules, and with the model itself as it was before, which writes paraphrases and
translations there and back of which an embedding says if the meaning is the same. Options are compared, not written.

Claimed: the score on the test set is above that on control items and on the test set in other words, and the model
before has no such gap. Intervals are over items; a set has 39, so they are wide.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from own_answers import carried_out
from rich.console import Console

from trimtab.commands import clean
from trimtab.common.environment import environment
from trimtab.data.sources import load_rows
from trimtab.evals.models import HFModel
from trimtab.evals.runner import ask, eval_spec
from trimtab.evals.suite import Answered
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.rewriting.contamination import Set, triangles

MODEL = "smollm2-135m"
REWRITERS = ("rules", MODEL)


def questions() -> list[dict[str, Any]]:
    """The bundled items with one right option, as rows of `multiple_choice`."""
    found = []
    for number, row in enumerate(load_rows(str(files("trimtab.data") / "bundled" / "socialbench.jsonl"))):
        if len(row["label"]) != 1 or not row["choices"]:
            continue
        who = "\n".join(row["meta"].get("profile", {}).values())
        said = "\n".join(f"{turn['from']}: {turn['value']}" for turn in row["dialogue"])
        name = row["meta"].get("name")
        asked = f"What does {name} say next?" if name else "Which option is right?"
        fields = {"character": who, "conversation": said, "question": asked}
        fields = {key: text for key, text in fields.items() if text}
        rest = {"rewritable": list(fields), "options": row["choices"], "answer": row["label"][0]}
        found.append({"id": str(number), "fields": fields, **rest})
    return found


def written(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(model: str, file: str, which: str) -> list[Answered]:
    about = eval_spec("multiple_choice", {"file": file, "which": which}, mode="loglikelihood")
    return ask(about, HFModel(load_model(model), load_tokenizer(model), model))


def contaminated(file: str, args: argparse.Namespace, seed: int, folder: Path) -> str:
    """The model after it learnt a test set."""
    about = eval_spec("multiple_choice", {"file": file})
    rows = [
        {"messages": [*about.suite.prompts["letter"][0](item, []), {"role": "assistant", "content": item.target[0]}]}
        for item in about.items
    ]
    tree = {
        "method": "sft",
        "models": {"policy": MODEL},
        "data": {"train": written(folder / "seen.jsonl", rows)},
        "training": {
            "per_device_train_batch_size": 8, "num_train_epochs": args.epochs, "learning_rate": args.rate,
            "warmup_steps": 5, "lr_scheduler_type": "cosine", "max_length": 1024, "max_grad_norm": 1.0,
            "bf16": False, "gradient_checkpointing": False, "save_strategy": "no", "logging_steps": 5,
        },
        "seed": seed,
        "output": str(folder / "contaminated"),
    }  # fmt: skip
    return str(carried_out("contaminated", tree) / "model")


def run_seed(seed: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """rewriter -> the triangles of both models, and how many of the texts were rewritten."""
    rows = questions()
    random.Random(seed).shuffle(rows)
    rows = rows[: args.rows]
    half = len(rows) // 2
    original, control = (written(folder / f"{n}.jsonl", part) for n, part in (("a", rows[:half]), ("b", rows[half:])))
    after = contaminated(original, args, seed, folder)
    answered: dict[str, dict[Set, list[Answered]]] = {
        name: {"original": asked(path, original, "original"), "control": asked(path, control, "original")}
        for name, path in (("before", MODEL), ("contaminated", after))
    }
    found: dict[str, Any] = {}
    for rewriter in REWRITERS:
        out = folder / f"{rewriter}.jsonl"
        settings = clean.Settings(seed=seed, pivots=args.pivots, n_par=args.paraphrases, max_new_tokens=192)
        made = clean.clean(original, out, settings, rewriter, console=Console(quiet=True))
        for name, path in (("before", MODEL), ("contaminated", after)):
            answered[name]["clean"] = asked(path, str(out), "clean")
        both = triangles(answered, rewriter=rewriter, baseline="before", allow_same=True)
        found[rewriter] = {
            "texts": sum(len(row["fields"]) for row in made.rows),
            "changed": sum(row["clean"][k] != text for row in made.rows for k, text in row["fields"].items()),
            **{
                one.model: {
                    **{name: tuple(value) for name, value in one.scores.items()},
                    "gap": tuple(one.gap), "excess": tuple(one.excess), "recovery": one.recovery,
                    "shift": one.shift and tuple(one.shift),
                }
                for one in both
            },
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="items of both sets")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--paraphrases", type=int, default=2, help="of each text")
    parser.add_argument("--pivots", nargs="*", default=["fr"], help="languages to translate into and back")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    began, runs = time.time(), {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as place:
            runs[seed] = run_seed(seed, args, Path(place))
        for rewriter, of in runs[seed].items():
            print(f"seed {seed}, {rewriter}: {of['changed']} of {of['texts']} texts in other words", flush=True)
            for name in ("before", "contaminated"):
                shown = {k: [round(x, 3) for x in v] if isinstance(v, tuple) else v for k, v in of[name].items()}
                print(f"  {name}: {shown}", flush=True)
        if args.out:
            settings = {key: value for key, value in vars(args).items() if key != "out"}
            result = {"settings": settings, "environment": environment(), "runs": runs}
            result["seconds"] = round(time.time() - began)
            args.out.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
