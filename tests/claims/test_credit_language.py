"""What the experiment on a language model that can compute makes of scores and answers, by hand."""

import numpy as np
import pytest
from credit_language import distinct, picked, summary, votes

RIGHT = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def test_the_highest_score_picks_and_ties_count_by_their_mean():
    scores = np.array([[0.1, 0.9, 0.9, 0.9], [-3.0, -2.0, -4.0, -1.0]])
    assert picked(scores, RIGHT).tolist() == [1 / 3, 1.0]


def test_a_vote_counts_equal_results_and_nothing_is_no_result():
    assert votes([["8", "7", "8", "8"], ["None", "None", "None", "5"]]).tolist() == [[3, 1, 3, 3], [0, 0, 0, 1]]


def test_claims_are_differences_paired_by_seed(capsys):
    def of(auc, pick):
        return {"q_rm": {"token AUC": auc}, "orm": {"token AUC": 0.5}}, {
            "random": [0.5, 0.5],
            "distinct": [0.25, 0.5],
            "majority": [0.5, 0.5],
            "q_rm": pick,
        }

    found = summary({0: of(0.7, [1.0, 0.0]), 1: of(0.8, [1.0, 1.0]), 2: of(0.9, [1.0, 1.0])})
    verdict, estimate, low, high = found["claims"]["token AUC: q_rm over orm"]
    assert verdict == "shown"
    np.testing.assert_allclose(
        [estimate, high - estimate, estimate - low], [0.3, 0.2484, 0.2484], atol=1e-4
    )  # t = 4.303
    assert found["best of 8"]["q_rm"]["over majority"].estimate == 5 / 6 - 0.5
    assert found["best of 8"]["q_rm"]["over distinct"].estimate == pytest.approx(5 / 6 - 0.375)
    assert "| q_rm |  | 0.800 ± 0.100 |" in capsys.readouterr().out


def test_equal_texts_count_once_where_nothing_is_known():
    rows = [{"completion": [{"content": text}]} for text in ("a", "a", "a", "b", "c", "d", "c", "d")]
    right = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])
    assert distinct(rows, right) == pytest.approx([1 / 2, 1 / 2])
