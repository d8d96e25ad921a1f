"""How many items of a suite are answered a second: our own runner against inspect_ai with its `hf` provider.

The same model, items, prompts and tokens of an answer, greedily, by turns in one process; loading is not counted. Once
with the question alone, once after examples. All must give the same answers, but for near ties that rounding in another
batch may turn (at most one in ten). Further contestants: inspect_ai with our provider, and options that are compared
instead of written. Scoring is timed alone.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from inspect_ai import eval as inspect_eval
from inspect_ai.model import get_model

from common import Different, Target, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.evals import harness, suites
from trimtab.evals.models import HFModel
from trimtab.evals.runner import EvalSpec, ask, verdicts
from trimtab.evals.suite import Answered
from trimtab.models.builtin import builtin_folder
from trimtab.models.loading import load_model, load_tokenizer

SUITE, NAME = "geomrel", "smollm2-135m"
ITEMS = {"zero_shot": 96, "few_shot": 32}
"""of each prompt; the examples of the second are 389 tokens that all items share"""
NEW, BATCH, REPEATS = 16, 32, 2
OURS, PEER, HARNESS, COMPARED = "trimtab", "inspect_ai, hf", "inspect_ai, trimtab", "trimtab, options compared"


class Models(NamedTuple):
    """One set of weights, asked in three ways."""

    model: Any
    tokenizer: Any
    hf: Any
    own: Any


def load() -> Models:
    model, tokenizer = load_model(NAME), load_tokenizer(NAME)
    hf = get_model("hf/local", model_path=str(builtin_folder(NAME)), do_sample=False, batch_size=BATCH, memoize=False)
    own = get_model(f"trimtab/{NAME}", live=(model, tokenizer), batch=BATCH, memoize=False)
    return Models(model, tokenizer, hf, own)


def measured(prompt: str, number: int, new: int, repeats: int, models: Models) -> dict[str, Any]:
    """Timings of all contestants, the share of equal answers, and of scoring in the time of answering."""
    suite = suites.load(SUITE)
    items = list(suite.items(suites.check(SUITE, {})))[:number]
    answers: dict[str, dict[str, str]] = {}

    def asked(mode: Literal["generate", "loglikelihood"]) -> Sequence[Answered]:
        question = EvalSpec(suite, items, prompt, mode, new if mode == "generate" else None)
        return ask(question, HFModel(models.model, models.tokenizer, batch=BATCH))

    def ours() -> None:
        answers[OURS] = {one.item.id: one.answers[-1] for one in asked("generate")}

    def compared() -> None:
        asked("loglikelihood")

    def harnessed(name: str, served: Any) -> None:
        task = harness.suite_task(SUITE, prompt=prompt, limit=number, max_new_tokens=new)
        with tempfile.TemporaryDirectory() as logs:
            (log,) = inspect_eval(
                task, model=served, log_dir=logs, display="none", max_connections=BATCH,
                max_samples=BATCH,
            )  # fmt: skip
            assert log.status == "success", log.error  # its samples are read from the file when they are asked for
            answers[name] = {str(sample.id): sample.output.completion for sample in log.samples or ()}

    steps = {
        OURS: ours,
        PEER: lambda: harnessed(PEER, models.hf),
        HARNESS: lambda: harnessed(HARNESS, models.own),
        COMPARED: compared,
    }
    timings = alternate(steps, repeats, patience=0)
    same = {}
    for name in (PEER, HARNESS):
        same[name] = sum(answers[name][key].strip() == text.strip() for key, text in answers[OURS].items()) / number
        if same[name] < 0.9:
            raise Different(f"{name} gives the answers of {OURS} to only {same[name]:.0%} of the items")
    start = time.perf_counter()
    for item in items:
        verdicts(suite, item, {"answers": [answers[OURS][item.id]]})
    scoring = (time.perf_counter() - start) / timings[OURS].median
    cells = [
        {"contestant": name, "a_second": number / timing.median, "time": timing.record()}
        for name, timing in timings.items()
    ]
    return {"prompt": prompt, "items": number, "cells": cells, "same_answers": same, "scoring": scoring}


def main() -> None:
    args = parser(__doc__).parse_args()
    about = signature()
    repeats = args.repeats or (1 if args.quick else REPEATS)
    new = 2 if args.quick else NEW
    models, found, targets = load(), [], []
    for prompt, number in ITEMS.items():
        tell(prompt)
        one = measured(prompt, 2 if args.quick else number, new, repeats, models)
        found.append(one)
        a_second = {cell["contestant"]: cell["a_second"] for cell in one["cells"]}
        for name in (OURS, COMPARED):
            faster = ratio(a_second[PEER], a_second[name])
            targets.append(Target(f"evaluation, {prompt}: {name}, seconds over the hf provider's", 1 / 1.5, faster))
        targets.append(Target(f"evaluation, {prompt}: scoring over generation", 0.01, one["scoring"]))
    targets = unjudged(targets) if args.quick else targets
    path = write("evaluation", args, {"signature": about, "tokens": new, "prompts": found}, targets)
    print(table(["prompt", "contestant", "items a second"], [
        [one["prompt"], cell["contestant"], cell["a_second"]] for one in found for cell in one["cells"]
    ]))  # fmt: skip
    print("", *targets, Path(path).name, sep="\n")


if __name__ == "__main__":
    main()
