"""KD between tokenizers: a student with few rows ends below its SFT baseline on held-out rows."""

import pytest
from kd_tokenizers import measured, parser


@pytest.mark.claims
@pytest.mark.slow
def test_a_student_of_another_tokenizer_ends_below_its_sft_baseline(tmp_path):
    found, difference = measured(parser().parse_args([]), tmp_path)
    assert difference.low > 0, found


@pytest.mark.slow
def test_the_claim_runs_from_end_to_end(tmp_path):
    short = ["--seeds", "0", "1", "--steps", "2", "--teacher-steps", "2", "--held", "4"]
    found, difference = measured(parser().parse_args(short), tmp_path)
    assert {name: len(own) for name, own in found.items()} == {"sft": 2, "kd": 2, "matched": 2}
    assert all(0 < share < 1 for share in found["matched"])
    assert difference.low < difference.estimate < difference.high
