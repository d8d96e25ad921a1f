"""The options of a multiple-choice row, and which of them are correct."""

import pytest

from trimtab.rewards.options import OptionsError, correct, lettered


def test_answers_are_an_index_a_letter_or_a_text():
    options = lettered(["3", "4", "five"])
    assert [correct(options, answer) for answer in (2, "C", "five", "4", "1", [0, "C"])] == [
        ("C",), ("C",), ("C",), ("B",), ("B",), ("A", "C"),
    ]  # fmt: skip
    with pytest.raises(OptionsError, match="also the text of option B"):
        correct(lettered(["x", "A"]), "A")
