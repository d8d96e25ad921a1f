"""How many answers a second does `score` read, and with how much memory, against a plain loop with full logits?

The reward model is a log-ratio of two language models, SmolLM2-135M cut to six layers and the same a little moved:

  trimtab  answers of like length together; the head at answer tokens alone, a chunk at a time
  plain    model(...).logits.log_softmax(-1).gather for batches of 8 rows as they come

Rows are pairs of everyday answers or solutions, tokenised beforehand for both. Time by turns in one process; memory in
processes of their own, models loaded before. Both must give the same scores.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from common import (
    MIB,
    PATIENCE,
    Different,
    Target,
    alternate,
    in_fresh_process,
    parser,
    peak_bytes,
    ratio,
    signature,
    table,
    tell,
    unjudged,
    write,
)
from trimtab.core import answer_mask
from trimtab.data.collate import Collator
from trimtab.data.sources import load_rows
from trimtab.evals.scored import read
from trimtab.evals.scoring import Encoded, batches, encode
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.student import evenly_spaced, keep_layers
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel

transformers.logging.disable_progress_bar()
NAME, LAYERS, ROWS, BATCH = "smollm2-135m", 6, 64, 8
SOURCE = "trimtab:brevity/heldout"
LIMIT = 1 / 1.5
TOLERANCE = 1e-3


def start(layers: int) -> Any:
    whole = load_model(NAME)
    return keep_layers(whole, evenly_spaced(whole.config.num_hidden_layers, layers))


def reward_model(layers: int) -> TokenRewardModel:
    moved = start(layers)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.01 * weight.std() * torch.randn_like(weight))
    add_objective_forward(moved)
    return TokenRewardModel(
        moved, ScoreSpec("ratio", "sum", 1.0, True), FrozenModel(start(layers), name="reference", reads="answers")
    )


def answers(rows: int) -> list[Encoded]:
    found, _ = encode(read(load_rows(SOURCE)[:rows], SOURCE), load_tokenizer(NAME), 4096, SOURCE)
    return found


def ours(model: TokenRewardModel, encoded: list[Encoded]) -> dict[str, list[float]]:
    return {one.id: one.scores for batch in batches(model, encoded, BATCH, SOURCE) for one in batch}


@torch.no_grad()
def plain(model: TokenRewardModel, encoded: list[Encoded]) -> dict[str, list[float]]:
    assert model.reference is not None
    collator = Collator(0, model.model.config.vocab_size)
    found = {}
    for begin in range(0, len(encoded), BATCH):
        own = encoded[begin : begin + BATCH]
        inputs = collator([one.row for one in own])
        scores = _logprobs(model.model, inputs) - _logprobs(model.reference.model, inputs)  # [B, T - 1]
        mask = answer_mask(inputs["labels"])
        found |= {one.answer.id: of[kept].tolist() for one, of, kept in zip(own, scores, mask)}
    return found


def _logprobs(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return logits.log_softmax(-1)[:, :-1].gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]


CONTESTANTS: dict[str, Callable[[TokenRewardModel, list[Encoded]], dict[str, list[float]]]] = {
    "trimtab": ours,
    "plain": plain,
}


def memory(name: str, layers: int, rows: int) -> float:
    model, encoded = reward_model(layers), answers(rows)
    return round(peak_bytes(partial(CONTESTANTS[name], model, encoded)) / MIB, 1)


def clock(layers: int, rows: int, repeats: int, patience: float) -> dict[str, Any]:
    model, encoded = reward_model(layers), answers(rows)
    results = {name: contestant(model, encoded) for name, contestant in CONTESTANTS.items()}
    furthest = max(
        (torch.tensor(results["trimtab"][key]) - torch.tensor(scores)).abs().max().item()
        for key, scores in results["plain"].items()
    )
    if results["trimtab"].keys() != results["plain"].keys() or not furthest < TOLERANCE:
        raise Different(f"the scores of both differ by {furthest:.2g}")
    timings = alternate({n: partial(c, model, encoded) for n, c in CONTESTANTS.items()}, repeats, patience)
    return {
        "timings": {name: timing.record() for name, timing in timings.items()},
        "seconds": {name: timing.median for name, timing in timings.items()},
        "answers": len(encoded),
        "tokens": sum(len(one.row["input_ids"]) for one in encoded),
        "answer_tokens": sum(len(one.tokens) for one in encoded),
        "furthest_score": furthest,
    }


def main() -> None:
    args = parser(__doc__).parse_args()
    layers, rows = (1, 2) if args.quick else (LAYERS, ROWS)
    repeats = args.repeats or (1 if args.quick else 3)
    cells = {}
    for name in CONTESTANTS:
        tell(f"memory of {name}")
        cells[name] = {"memory_mib": in_fresh_process(memory, name, layers, rows)}
    tell("time of both")
    timed = in_fresh_process(clock, layers, rows, repeats, 0.0 if args.quick else PATIENCE)
    for name, cell in cells.items():
        cell |= {"time": timed["timings"][name], "answers_a_second": timed["answers"] / timed["seconds"][name]}
    seconds, peak = timed["seconds"], {name: cell["memory_mib"] for name, cell in cells.items()}
    targets = [
        Target("score: time over a plain loop with full logits", LIMIT, ratio(seconds["trimtab"], seconds["plain"])),
        Target("score: peak memory over the plain loop", 1.0, ratio(peak["trimtab"], peak["plain"])),
    ]
    setting = {"model": NAME, "layers": layers, "source": SOURCE, "batch": BATCH, "dtype": "float32"}
    setting |= {key: timed[key] for key in ("answers", "tokens", "answer_tokens", "furthest_score")}
    result = {"signature": signature(), "setting": setting, "cells": cells}
    path = write("score", args, result, unjudged(targets) if args.quick else targets)
    print(table(["contestant", "answers a second", "seconds", "peak MiB"], [
        [name, cell["answers_a_second"], seconds[name], cell["memory_mib"]] for name, cell in cells.items()
    ]))  # fmt: skip
    print("", *(unjudged(targets) if args.quick else targets), path.name, sep="\n")


if __name__ == "__main__":
    main()
