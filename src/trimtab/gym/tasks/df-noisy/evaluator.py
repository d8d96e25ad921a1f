"""Trains the fixed model on the lines that were chosen. What was handed in is read as numbers, and nothing else."""

import re
from pathlib import Path

from trimtab.gym.judging import Rejected, Submitted

MOST = 1500


def validate(submitted: Submitted) -> dict[str, list[dict[str, object]]]:
    corpus = _lines(submitted.task / "workspace" / "data" / "corpus.txt")
    kept = [corpus[number] for number in _kept(submitted, len(corpus))]
    train = submitted.module("workspace/train.py")
    model = train.trained(kept, submitted.seed)
    return {
        split: [
            {"name": "bits_per_byte", "value": train.bits_per_byte(model, _lines(submitted.hidden / f"{split}.txt"))}
        ]
        for split in ("public", "private")
    }


def _kept(submitted: Submitted, lines: int) -> list[int]:
    """The numbers of the lines that were chosen."""
    words = submitted.text("outputs/kept.txt", most=100_000).split()
    if not words:
        raise Rejected("outputs/kept.txt is empty")
    if len(words) > MOST:
        raise Rejected(f"outputs/kept.txt names {len(words):,} lines; {MOST:,} are allowed")
    for word in words:
        if not re.fullmatch("[0-9]{1,9}", word) or int(word) >= lines:
            raise Rejected(f"outputs/kept.txt: {word[:40]!r} is no number from 0 to {lines - 1}")
    kept = [int(word) for word in words]
    if len(set(kept)) < len(kept):
        raise Rejected("outputs/kept.txt names a line twice")
    return kept


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()
