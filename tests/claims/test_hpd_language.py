"""HPD and its neighbours on the builtin language model; see `hpd_language.py` for the set-up.

What is asserted stood here before the first full run, and nothing was tuned: the settings are those of the recipe
`tiny_hpd`, with fewer steps. The two claims of the paper are not asserted in the same way:
20 minutes of training are far from its 2,000 updates of 256 sequences, so where one of them does not show, the test
says so with the numbers ("did not reproduce") as an expected failure, and nothing is tuned until it does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import hpd_language
import numpy as np
import pytest
import torch

from trimtab.core import LazyLogits

ASSERTED = {
    "kd learns": ("untrained", "kd", "forward_kl", 3.0),
    "hpd learns": ("untrained", "hpd", "forward_kl", 3.0),
    "the whole teacher says more than its samples": ("sft", "kd", "forward_kl", 0.0),
    "a shuffled teacher is clearly worse than the teacher": ("kd, shuffled", "kd", "forward_kl", 0.5),
    "a shuffled teacher is worse than none": ("kd, shuffled", "sft", "forward_kl", 0.0),
}
"""statement -> (method whose measure is larger, method whose measure is smaller, measure, nats that the lower end of
the 95% interval of the difference must exceed)"""


@pytest.fixture(scope="module")
def result():
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield hpd_language.run()
    torch.set_num_threads(before)


@pytest.mark.claims
@pytest.mark.parametrize("statement", ASSERTED)
def test_the_experiment_can_tell_a_good_teacher_from_a_bad_one(result, statement):
    larger, smaller, measure, margin = ASSERTED[statement]
    difference = result.interval(larger, measure, minus=smaller)
    assert difference.low > margin, (
        f"{measure} of {larger} minus {smaller}: {difference}\n{hpd_language.tables(result)}"
    )


@pytest.mark.claims
@pytest.mark.parametrize("claim", hpd_language.CLAIMS)
def test_what_the_paper_claims_of_hpd(result, claim):
    verdict, difference = result.verdicts()[claim]
    if verdict != "reproduced":
        pytest.xfail(f"did not reproduce: {claim} (difference {difference})")


@pytest.mark.slow
def test_the_script_runs_from_end_to_end(tmp_path):
    script = Path(hpd_language.__file__)
    out = tmp_path / "result.json"
    command = [sys.executable, str(script), "--smoke", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| hpd - sft |" in done.stdout
    assert done.stdout.count("reproduce") == len(hpd_language.CLAIMS)
    written = json.loads(out.read_text())
    assert written["means"].keys() == {"teacher", "untrained", *hpd_language.METHODS}
    teacher, hpd = written["per_seed"]["teacher"], written["per_seed"]["hpd"]
    assert teacher["forward_kl"] == pytest.approx([0, 0], abs=1e-6)
    assert hpd["forward_kl"][0] != hpd["forward_kl"][1]  # seeds differ
    assert "seed" not in written["signature"]
    assert "versions" in written["signature"]


def test_shuffling_permutes_the_teacher_within_the_batch_by_its_seed():
    class Teacher:
        provides = frozenset({"teacher"})

        def __call__(self, policy, inputs):
            return {"teacher": LazyLogits(torch.arange(24.0).view(12, 2), torch.nn.Linear(2, 3), 3)}

    def hidden(signal):
        return signal(None, {})["teacher"].hidden.tolist()

    one, same, other = (hpd_language.Shuffled(Teacher(), seed) for seed in (0, 0, 1))
    first, again = hidden(one), hidden(one)
    assert sorted(first) == sorted(again) == hidden(Teacher())
    assert first != again != hidden(Teacher())
    assert [hidden(same), hidden(same)] == [first, again]
    assert hidden(other) != first


def numbers(estimate: float) -> hpd_language.Result:
    """A result in which sft measures `estimate` above hpd in everything, on every row of every seed."""
    counts = np.array([2.0, 5.0])
    measures = ("forward_kl", "reverse_kl", "nll", "entropy", "agreement")
    sums = {"sft": (1 + estimate) * counts, "hpd": counts}
    tables = {name: {m: np.tile(row, (3, 1)) for m in measures} for name, row in sums.items()}
    return hpd_language.Result(hpd_language.Budget(), {}, counts, tables, 0.0)


def test_a_verdict_goes_by_the_interval_and_its_side():
    higher, lower = numbers(0.5).verdicts(), numbers(-0.5).verdicts()
    kl, entropy = "hpd has a lower forward KL to the teacher than sft", "hpd keeps more entropy than sft"
    assert (higher[kl][0], higher[entropy][0]) == ("reproduced", "did not reproduce")
    assert (lower[kl][0], lower[entropy][0]) == ("did not reproduce", "reproduced")
    assert numbers(0.0).verdicts()[kl][0] == "did not reproduce"
