"""What does it cost to evaluate edits: batches with a cache, against one prompt at a time without?

The toolkits for editing generate one prompt at a time with `use_cache=False`. Both sides ask SmolLM2-135M the same
probes of `trimtab:facts` (of each edit six: as it was made, in other words, a neighbour, two hops, a negation, a
paragraph), greedily and with as many new tokens. All verdicts must be equal, but for near ties that rounding in another
batch may turn (at most one in fifty). The slow side is timed on some of the edits; ours on those and on all.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import Different, Target, alternate, parser, ratio, signature, table, tell, unjudged, write
from trimtab.data.tokens import prompt_ids
from trimtab.evals import suites
from trimtab.evals.models import HFModel
from trimtab.evals.runner import EvalSpec, ask
from trimtab.evals.suite import Item
from trimtab.models.ends import end_tokens
from trimtab.models.loading import load_model, load_tokenizer

NAME, EDITS, FEW, NEW, BATCH, LIMIT = "smollm2-135m", 100, 10, 16, 32, 1.5
PROBES = ("reliability", "generalisation", "locality", "portability", "negation", "longform")
OURS, PEER = "trimtab", "one at a time, no cache"


def probes(edits: int) -> list[Item]:
    """The first probe of each kind of each edit."""
    suite = suites.load("edit")
    settings = {"file": f"trimtab:facts/train?rows={edits}", "general": 0}
    first: dict[tuple[str, str], Item] = {}
    for item in suite.items(suites.check("edit", settings)):
        if item.groups["probe"] in PROBES:
            first.setdefault((item.data["edit"], item.groups["probe"]), item)
    return list(first.values())


def verdicts(answers: dict[str, str], items: Sequence[Item]) -> dict[str, Any]:
    suite = suites.load("edit")
    return {item.id: {name: v.value for name, v in suite.score(item, answers[item.id]).items()} for item in items}


def ours(items: Sequence[Item], model: Any, tokenizer: Any, new: int) -> dict[str, str]:
    spec = EvalSpec(suites.load("edit"), items, "edit", max_new_tokens=new)
    return {one.item.id: one.answers[-1] for one in ask(spec, HFModel(model, tokenizer, batch=BATCH))}


@torch.no_grad()
def peer(items: Sequence[Item], model: Any, tokenizer: Any, new: int) -> dict[str, str]:
    """As the toolkits do it, but for their stop strings, which cut answers."""
    (step,) = suites.load("edit").prompts["edit"]
    found = {}
    for item in items:
        ids = torch.tensor([prompt_ids(tokenizer, step(item, ()), item.id)])
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, use_cache=False,
            eos_token_id=end_tokens(tokenizer, model), pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        found[item.id] = tokenizer.decode(output[0, ids.size(1) :], skip_special_tokens=True)
    return found


def main() -> None:
    args = parser(__doc__).parse_args()
    about, new = signature(), 2 if args.quick else NEW
    few, all_ = (1, 2) if args.quick else (FEW, EDITS)
    model, tokenizer = load_model(NAME).eval(), load_tokenizer(NAME)
    some, every, answers = probes(few), probes(all_), {}

    def asked(name: str, function: Any) -> None:
        answers[name] = function(some, model, tokenizer, new)

    tell(f"{few} edits, {len(some)} probes")
    steps = {OURS: lambda: asked(OURS, ours), PEER: lambda: asked(PEER, peer)}
    timings = alternate(steps, args.repeats or 1, patience=0)
    mine, theirs = (verdicts(answers[name], some) for name in (OURS, PEER))
    same = sum(mine[key] == theirs[key] for key in mine) / len(mine)
    if same < 0.98:
        raise Different(f"{OURS} gives the verdicts of {PEER!r} to only {same:.1%} of the probes")
    tell(f"{all_} edits, {len(every)} probes")
    start = time.perf_counter()
    ours(every, model, tokenizer, new)
    seconds = time.perf_counter() - start
    rows = [[name, few, len(some), timing.median, len(some) / timing.median] for name, timing in timings.items()]
    rows.append([OURS, all_, len(every), seconds, len(every) / seconds])
    faster = ratio(timings[OURS].median, timings[PEER].median)
    targets = [Target(f"evaluation of edits: {OURS}, seconds over {PEER!r}", 1 / LIMIT, faster)]
    targets = unjudged(targets) if args.quick else targets
    cells = [dict(zip(("contestant", "edits", "probes", "seconds", "a_second"), row, strict=True)) for row in rows]
    found = {"tokens": new, "batch": BATCH, "same_verdicts": same, "evaluation": cells}
    path = write("editing", args, {"signature": about, **found}, targets)
    print(table(["contestant", "edits", "probes", "seconds", "probes a second"], rows))
    print(f"\nequal verdicts: {same:.1%}", *targets, Path(path).name, sep="\n")


if __name__ == "__main__":
    main()
