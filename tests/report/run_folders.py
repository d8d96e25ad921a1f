"""Run folders written by hand."""

import json
from pathlib import Path
from typing import Any

import yaml

METHOD = {
    "name": "hpd",
    "paper": "arXiv:2604.20244",
    "claim": "Keeps entropy where SFT loses it.",
    "equation": "L = -( w* log q(y) + w log q(a) )",
    "summary": "Pulls the student up or pushes it down, token by token.",
}


def event(kind: str, step: int, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "step": step, "time": 1000.0 + step, **fields}


def heldout(step: int, row_id: int, tokens: int, nll: float, **fields: Any) -> dict[str, Any]:
    return {"kind": "heldout", "step": step, "row_id": row_id, "tokens": tokens, "nll": nll, **fields}


def rows(step: int, nll: float, num_rows: int = 4, tokens: int = 10, **means: float) -> list[dict[str, Any]]:
    """Equal held-out rows: the given means per token."""
    sums = {key: mean * tokens for key, mean in means.items()}
    return [heldout(step, row_id, tokens, nll * tokens, **sums) for row_id in range(num_rows)]


METRICS = [
    event("start", 0, method=METHOD, data={"train": {"rows": 100}, "heldout": {"rows": 4}}),
    event("eval", 0, rows=4, tokens=40, nll=2.0, perplexity=7.389, forward_kl=1.5),
    event("train", 1, loss=3.0, learning_rate=1e-4, pull=0.5),
    event("train", 2, loss=2.0, learning_rate=5e-5, pull=0.6),
    event("eval", 2, rows=4, tokens=40, nll=1.0, perplexity=2.718, forward_kl=0.5),
    event("finished", 2, seconds=12.5, tokens=800),
]
WITH_TEACHER_BEFORE = {"entropy": 3.0, "top1": 0.2, "forward_kl": 1.5, "reverse_kl": 1.0, "agreement": 0.3}
WITH_TEACHER_AFTER = {"entropy": 2.0, "top1": 0.5, "forward_kl": 0.5, "reverse_kl": 0.25, "agreement": 0.6}
SAMPLES = [
    *rows(0, nll=2.0, teacher_nll=0.5, **WITH_TEACHER_BEFORE),
    {"kind": "generation", "step": 0, "prompt": "Name a colour.", "text": "the the the"},
    *rows(2, nll=1.0, teacher_nll=0.5, **WITH_TEACHER_AFTER),
    {"kind": "generation", "step": 2, "prompt": "Name a colour.", "text": "Blue."},
]
RECIPE = {"method": "hpd", "models": {"policy": "tiny", "teacher": "smollm2-135m"}, "seed": 0, "output": "runs/a"}
SIGNATURE = {
    "method": "hpd",
    "policy": "tiny 9ba1684f9789bbcb",
    "teacher": "smollm2-135m dda532c3410d532c",
    "training data": "train.jsonl 956a81a95802b677",
    "held-out data": "heldout.jsonl 3c083eb8ea60f257",
    "seed": "0",
}


def write_run(
    folder: Path,
    metrics: list[dict[str, Any]] | None = None,
    samples: list[dict[str, Any]] | None = None,
    recipe: dict[str, Any] | None = None,
    signature: dict[str, str] | None = None,
) -> Path:
    """A run folder; by default two trained steps, four held-out rows, a teacher, one prompt."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe or RECIPE, sort_keys=False))
    (folder / "signature.txt").write_text("".join(f"{k}: {v}\n" for k, v in (signature or SIGNATURE).items()))
    for name, lines in (("metrics", METRICS if metrics is None else metrics), ("samples", samples)):
        lines = SAMPLES if lines is None else lines
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
