"""Proxy-KD (arXiv:2401.07013) on a Markov source that only gives text; see `proxy_kd_markov.py` for the set-up.

What is asserted stood here before the run of seeds 0 to 2; seeds 100 and 101 had been looked at.
"""

from dataclasses import replace

import pytest
import toys
from proxy_kd_markov import EXPERIMENT, Settings

SEEDS = (0, 1, 2)

CLAIMS = {
    "a proxy that is only warmed up beats text alone": ("text only", "warm-up only, 10", "kl", 0.0),
    "an aligned proxy beats one that is only warmed up": ("warm-up only, 10", "aligned, 10", "kl", 0.0),
    "alignment brings the proxy closer": ("proxy, warm-up only", "proxy, aligned", "kl", 0.05),
    "rows with random answers weigh less": ("clean rows", "corrupted rows", "weight", 0.2),
}
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_proxy_kd(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
def test_weighting_is_not_worse_where_rows_are_corrupted(result):
    difference = result.difference("corrupted, weighted", "corrupted, unweighted", "kl")
    if difference.high >= 0.02:
        pytest.xfail(f"did not reproduce: weighting loses less than .02 nats ({difference})")


SMALL = replace(
    Settings(), vocab=8, rows=(8, 24, 8), proxy_width=8, student_width=4, warmup=2, rounds=2, round_updates=2, steps=2
)


def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert all(0 < value < 1 for name in ("clean rows", "corrupted rows") for value in one.rows[name]["weight"])
