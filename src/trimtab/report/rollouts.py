"""Rollouts on the page: stability of training, where the time went, and sample completions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trimtab.report.reading import Run

PARTS = {"generation": "generation", "reward": "rewards", "advantages": "advantages"}
SENT = "seconds_sync"
"""part of the time of generation"""
SHOWN = 4
"""rollouts of each kind on the page at most"""


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
        "entropy": "entropy, nats per token",
        "ratio": "probability ratio to the policy that generated",
        "clip_fraction": "share of tokens clipped",
        "engine_logprob_difference": "log-probabilities of sampled tokens, engine against policy, nats apart",
        "importance_ratio": "importance ratio, policy to engine, before its bounds",
        "importance_ratio_largest": "the largest importance ratio of a batch",
        "importance_beyond": "share of importance ratios out of bounds (masked or capped)",
        "engine_check": "engine and policy after each transfer of weights, nats apart",
        "groups_without_signal": "share of groups without training signal",
        "one_outcome": "share of batches without signal for the reward model: one outcome in every group",
        "unknown_tokens": "share of sampled tokens that another model does not have, and that are masked",
        "completions/clipped_ratio": "truncation rate",
        "token_score_auc": "token scores of the reward model against outcomes (AUC, 0.5 is chance)",
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
    sync = float(_values(run, SENT).sum())
    if sync:
        sent = {
            "sending weights to the engine, and comparing": sync,
            "generation": max(0.0, spent["generation"] - sync),
        }
        spent = {**sent, **{part: value for part, value in spent.items() if part != "generation"}}
    spent["updates and everything else"] = max(0.0, whole - sum(spent.values()))
    return [
        {"part": part, "seconds": round(seconds, 1), "share": f"{seconds / whole:.0%}" if whole else "–"}
        for part, seconds in spent.items()
    ]


def shown(run: Run) -> list[tuple[str, list[dict[str, Any]]]]:
    """("best", rollouts), ("typical", ...) and ("worst", ...): by reward the highest, those nearest to the median, and
    the lowest; of equal ones the latest.

    A rollout has step, prompt, reward, and tokens as (text, advantage, its strength in [0, 1] among all that are shown,
    its side); without advantages of single tokens the strength is 0.
    """
    chosen = kinds(run.rollouts)
    largest = max(
        (abs(value) for _, rows in chosen for row in rows for value in row.get("advantages") or []), default=0.0
    )
    return [(kind, [_one(row, largest or 1.0) for row in rows]) for kind, rows in chosen]


def kinds(rollouts: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Some of each kind, none twice; of few rollouts the best and the worst come first."""
    median = float(np.median([row["reward"] for row in rollouts])) if rollouts else 0.0
    orders = {
        "best": lambda row: -row["reward"],
        "worst": lambda row: row["reward"],
        "typical": lambda row: abs(row["reward"] - median),
    }
    left = list(reversed(rollouts))
    share = min(SHOWN, max(1, len(rollouts) // len(orders)))
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, order in orders.items():
        found[kind] = sorted(left, key=order)[:share]
        left = [row for row in left if not any(row is one for one in found[kind])]
    return [(kind, found[kind]) for kind in ("best", "typical", "worst") if found[kind]]


def _one(row: dict[str, Any], largest: float) -> dict[str, Any]:
    prompt, advantages = row["prompt"], row.get("advantages") or []
    text = prompt if isinstance(prompt, str) else "\n\n".join(str(turn.get("content", "")) for turn in prompt)
    tokens = row.get("tokens") or []
    if len(advantages) != len(tokens):
        advantages = [0.0] * len(tokens)
    return {
        "step": row["step"],
        "prompt": text,
        "reward": row["reward"],
        "tokens": [
            (token, value, round(abs(value) / largest, 3), "low" if value < 0 else "high")
            for token, value in zip(tokens, advantages)
        ],
    }


def spread(rows: Sequence[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """So many rows, from the lowest reward to the highest at even distances; in their order."""
    if len(rows) <= number:
        return list(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i]["reward"])
    places = {order[round(k * (len(order) - 1) / max(1, number - 1))] for k in range(number)}
    return [rows[i] for i in sorted(places)]
