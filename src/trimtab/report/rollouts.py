"""Of a run that learns from its own answers: how stable it was, where its time went, and some of the answers."""

from typing import Any

import numpy as np

from trimtab.report.reading import Run

PARTS = {"generation": "writing answers", "reward": "judging them", "credit": "credit of their tokens"}
SHOWN = 12
"""rollouts on the page at most: the first and the last ones"""


def tables(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Title -> rows; none for a run without rollouts."""
    if not any("seconds_generation" in event for event in run.train):
        return {}
    return {"Stability": _stability(run), "Where the time went": _time(run)}


def _values(run: Run, key: str) -> np.ndarray:
    found = [event[key] for event in run.train if isinstance(event.get(key), (int, float))]
    return np.array(found, dtype=np.float64)


def _stability(run: Run) -> list[dict[str, Any]]:
    names = {
        "grad_norm": "gradient norm",
        "entropy": "entropy, nats a token",
        "ratio": "probability ratio to the policy that answered",
        "clip_fraction": "share of tokens clipped",
        "groups_without_signal": "share of groups whose answers earn alike",
        "completions/clipped_ratio": "share of answers cut at the limit",
        "credit_auc": "token credits against outcomes (AUC, 0.5 is chance)",
    }
    rows = []
    for key, name in names.items():
        values = _values(run, key)
        if len(values):
            tenth = max(1, len(values) // 10)
            rows.append(
                {
                    "over the steps of training": name,
                    "first tenth": float(values[:tenth].mean()),
                    "last tenth": float(values[-tenth:].mean()),
                    "median": float(np.median(values)),
                    "95th percentile": float(np.percentile(values, 95)),
                    "largest": float(values.max()),
                }
            )
    return rows


def _time(run: Run) -> list[dict[str, Any]]:
    whole = run.train[-1].get("seconds", 0.0)
    spent = {name: float(_values(run, f"seconds_{part}").sum()) for part, name in PARTS.items()}
    spent["updates and all else"] = max(0.0, whole - sum(spent.values()))
    return [
        {"part": part, "seconds": round(seconds, 1), "share": f"{seconds / whole:.0%}" if whole else "–"}
        for part, seconds in spent.items()
    ]


def shown(run: Run) -> list[dict[str, Any]]:
    """The first and the last rollouts: step, prompt, reward, and tokens as (text, credit, its strength in [0, 1], its
    side); without credits of single tokens the completion is one token."""
    half = SHOWN // 2
    chosen = run.rollouts if len(run.rollouts) <= SHOWN else [*run.rollouts[:half], *run.rollouts[-half:]]
    return [_one(row) for row in chosen]


def _one(row: dict[str, Any]) -> dict[str, Any]:
    prompt, credits = row["prompt"], row.get("credits") or []
    text = prompt if isinstance(prompt, str) else "\n\n".join(str(turn.get("content", "")) for turn in prompt)
    largest = max((abs(value) for value in credits), default=0.0) or 1.0
    tokens = row.get("tokens") or []
    if len(credits) != len(tokens):
        credits = [0.0] * len(tokens)
    return {
        "step": row["step"],
        "prompt": text,
        "reward": row["reward"],
        "tokens": [
            (token, value, round(abs(value) / largest, 3), "low" if value < 0 else "high")
            for token, value in zip(tokens, credits)
        ],
    }
