"""HPD (arXiv:2604.20244) against its neighbours where the teacher is known exactly; see `markov.py` for the set-up.

What is asserted stood here before the run on seeds 0, 1 and 2, and every threshold is zero: the 95% interval of the
difference, paired by seed, lies on the claimed side of it. Settings were chosen on seeds 100 to 102, by bringing `sft`
and `full fkl` near the figures of an earlier run of this experiment (forward KL 0.79 and 0.62, entropy 2.44 and 2.51);
no other method was looked at there. A benefit of the reinforce term is not asserted: that earlier run saw none.
"""

from dataclasses import replace

import markov
import pytest
import torch

SEEDS = (0, 1, 2)

CLAIMS = {
    "hpd has less entropy than sft": ("sft", "hpd", "entropy"),
    "hpd has more entropy than seqkd": ("hpd", "seqkd", "entropy"),
    "hpd has a higher forward KL than sft": ("hpd", "sft", "forward_kl"),
    "hpd has a lower forward KL than seqkd": ("seqkd", "hpd", "forward_kl"),
    "the teacher finds hpd's own text likelier than sft's": ("sft", "hpd", "free_run_nll"),
    "without the drawn competitor the forward KL is higher": ("hpd, no sampling", "hpd", "forward_kl"),
    "without the drawn competitor the reverse KL is higher": ("hpd, no sampling", "hpd", "reverse_kl"),
}
"""claim -> (the method whose measure is larger, the one whose measure is smaller, the measure)"""

CONTROLS = {
    "training helps: sft": ("untrained", "sft", "forward_kl"),
    "training helps: hpd": ("untrained", "hpd", "free_run_nll"),
    "the whole teacher says more than its samples": ("sft", "full fkl", "forward_kl"),
    "a shuffled teacher is worse than the teacher: full fkl": ("full fkl, shuffled", "full fkl", "forward_kl"),
    "a shuffled teacher is worse than none: full fkl": ("full fkl, shuffled", "sft", "forward_kl"),
    "a shuffled teacher is worse than the teacher: hpd, forward KL": ("hpd, shuffled", "hpd", "forward_kl"),
    "a shuffled teacher is worse than the teacher: hpd, reverse KL": ("hpd, shuffled", "hpd", "reverse_kl"),
}


@pytest.fixture(scope="module")
def result():
    return markov.run(SEEDS)


def check(result: markov.Result, larger: str, smaller: str, measure: str) -> None:
    difference = result.difference(larger, smaller, measure)
    assert difference.low > 0, f"{measure} of {larger} minus {smaller}: {difference}\n{markov.table(result)}"


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_hpd(result, claim):
    check(result, *CLAIMS[claim])


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell_a_good_teacher_from_a_bad_one(result, control):
    check(result, *CONTROLS[control])


@pytest.mark.claims
def test_the_teacher_is_as_uncertain_as_the_experiment_asks(result):
    assert result.mean("teacher", "entropy") == pytest.approx(1.91, abs=0.05)
    # its own samples cost the teacher its entropy: what is sampled and what is measured is one distribution
    assert result.mean("teacher", "free_run_nll") == pytest.approx(result.mean("teacher", "entropy"), abs=0.03)


SMALL = markov.Settings(teacher_width=16, teacher_steps=5, teacher_tokens=200, samples=16, length=3, steps=3, heldout=8)


def test_a_seed_fixes_every_number():
    one, other = markov.run((5,), SMALL), markov.run((5,), SMALL)
    assert one.rows == other.rows
    assert one.rows.keys() == {"teacher", "untrained", *markov.METHODS, *markov.SHUFFLED}


def test_methods_differ_in_their_objective_alone():
    rows = markov.run((5,), replace(SMALL, steps=0)).rows
    assert all(rows[name] == rows["untrained"] for name in (*markov.METHODS, *markov.SHUFFLED))


def test_samples_follow_the_table():
    table = torch.zeros(3, 3, 3)
    table[0, 1, 2] = table[1, 2, 0] = table[2, 0, 1] = 1.0  # 0 1 2 0 1 2 ... and nothing else
    ids = markov.sample(table, torch.tensor([[0, 1], [2, 0]]), 4, torch.Generator())
    assert ids.tolist() == [[0, 1, 2, 0, 1, 2], [2, 0, 1, 2, 0, 1]]


def test_shuffling_moves_whole_distributions_and_nothing_else():
    ids = torch.tensor([[0, 1, 2, 0, 1]])
    teacher = torch.randn(1, 5, 3)
    batch = markov.TokenBatch.align(torch.randn(1, 5, 3), markov.labels_of(ids), {"teacher": teacher})
    moved = markov.shuffled(batch, torch.Generator().manual_seed(1))
    before, after = batch.logits("teacher").tolist(), moved.logits("teacher").tolist()
    assert sorted(before) == sorted(after)
    assert before != after
    assert torch.equal(moved.targets, batch.targets)
    assert torch.equal(moved.logits(), batch.logits())
