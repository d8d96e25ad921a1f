"""What Clean-Eval (arXiv:2311.09154) claims, where contamination is made on purpose; see `clean_eval.py`.

Sizes were chosen on seed 100, where a score of .90 on the test set became .56 on the clean one, with .59 before the
contamination, and then the contamination was made a third longer. A first design failed on seeds 0 to 2 (see there);
what is asserted of this one stood here before its run on seeds 3 to 5.
"""

import pytest
from clean_eval import EXPERIMENT  # noqa: F401 (the fixture reads it)

SEEDS = (3, 4, 5)


def by_seed(result, who: str, measure: str) -> list[float]:
    return result.rows[who][measure]


@pytest.mark.claims
def test_contamination_opens_a_gap_on_the_test_items_alone(result):
    for before, after in zip(
        by_seed(result, "uncontaminated", "original"), by_seed(result, "contaminated", "original")
    ):
        assert after > before + 0.25, result.table()
    for before, after in zip(by_seed(result, "uncontaminated", "control"), by_seed(result, "contaminated", "control")):
        assert after < before + 0.1, result.table()


@pytest.mark.claims
def test_on_the_clean_set_the_score_is_that_of_before(result):
    for before, after in zip(by_seed(result, "uncontaminated", "original"), by_seed(result, "contaminated", "clean")):
        assert abs(after - before) < 0.15, result.table()
    assert min(by_seed(result, "contaminated", "clean: recovery")) > 0.7, result.table()


@pytest.mark.claims
def test_with_near_copies_more_than_half_the_gap_stays(result):
    assert max(by_seed(result, "contaminated", "near copies: recovery")) < 0.5, result.table()


@pytest.mark.claims
def test_a_rewriter_that_breaks_labels_falls_below_and_the_detector_sees_it(result):
    for before, after in zip(
        by_seed(result, "uncontaminated", "original"), by_seed(result, "contaminated", "broken labels")
    ):
        assert after < before - 0.2, result.table()
    assert by_seed(result, "contaminated", "broken, detected: rewritten") == [0, 0, 0]
