"""Selection of rationales: similarities and orders by hand, and what becomes of each rationale."""

import pytest

from trimtab.data.rationale_selection import farthest_first, jaccard, ngrams, select, without_near_duplicates
from trimtab.data.sources import DataError

HOW = {"keep": 5, "threshold": 0.8, "ngram": 3, "least": 1}


def row(*rationales, answer="7"):
    return {"prompt": "3+4?", "rationales": list(rationales), "answer": answer}


def states(texts, task):
    return [text.endswith(task["answer"]) for text in texts]


def test_jaccard_and_ngrams_by_hand():
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard(set(), set()) == 1
    assert ngrams("a b c d", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert ngrams("a b", 3) == {("a", "b")}


def test_the_last_of_near_duplicates_stays_also_where_it_resembles_one_that_goes():
    """0 and 1 share 4 of 5 words, 1 and 2 too, 0 and 2 only 3 of 5: 0 goes by 1, and 1 by 2."""
    texts = ["a b c d e", "a b c d", "a b c d f"]
    assert jaccard(set("abcde"), set("abcdf")) < 0.8
    assert without_near_duplicates(texts, 0.8) == [2]
    assert without_near_duplicates(texts, 0.81) == [0, 1, 2]
    assert without_near_duplicates(["a b", "b a", "c"], 1.0) == [1, 2]
    assert without_near_duplicates(["a b", "a b"], 1.1) == [0, 1]


def test_words_are_what_single_spaces_part():
    assert without_near_duplicates(["a  b", "a b"], 0.8) == [0, 1]  # {a, "", b} and {a, b}


def test_the_most_different_are_found_greedily_and_keep_their_order():
    texts = ["a b c d", "a b c e", "x y z w", "a b q r"]
    assert farthest_first(texts, 2, 1) == [0, 2]
    assert farthest_first(texts, 3, 1) == [0, 2, 3]
    assert farthest_first(texts, 4, 1) == [0, 1, 2, 3]
    assert farthest_first(texts, 1, 1) == [2]


def test_every_rationale_is_kept_or_counted():
    rows = [
        row("so 7", "it is 8", "so 7", " ", "three and four 7", "count up to 7", "well then 7"),
        row("8", "9"),
        row("only 7", "6"),
    ]
    made, counts = select(rows, "rows", states, **{**HOW, "keep": 3})
    assert [len(one["rationales"]) for one in made] == [3, 1]
    assert (counts.rows, counts.rationales, counts.empty, counts.incorrect) == (3, 11, 1, 4)
    assert (counts.near_duplicates, counts.not_picked, counts.kept) == (1, 1, 4)
    assert (
        counts.rationales == counts.empty + counts.incorrect + counts.near_duplicates + counts.not_picked + counts.kept
    )
    assert (counts.rows_kept, counts.rows_without_any, counts.rows_with_one, counts.rows_too_few) == (2, 1, 1, 0)
    assert counts.first == {"rows_without_any": 2, "rows_with_one": 3}


def test_least_drops_rows_and_no_filter_keeps_what_is_incorrect():
    rows = [row("so 7", "it is 8")]
    made, counts = select(rows, "rows", states, **{**HOW, "least": 2})
    assert not made
    assert counts.rows_too_few == 1
    made, counts = select(rows, "rows", None, **{**HOW, "least": 2})
    assert made == rows
    assert counts.incorrect == 0


def test_other_columns_stay_and_indices_follow_their_rationales():
    given = {
        "instruction": "a",
        "output": ["x 7", "y 8", "z 7"],
        "label": "7",
        "id": 3,
        "indices": [[[1, 2]], [[3, 4]], [5, 6]],
    }
    made, _ = select([given], "rows", states, **HOW)
    assert made == [{**given, "output": ["x 7", "z 7"], "indices": [[[1, 2]], [5, 6]]}]


def test_completions_of_one_prompt_are_one_row():
    ask = [{"role": "user", "content": "3+4?"}]
    rows = [{"prompt": ask, "completion": [{"role": "assistant", "content": f"{i} 7"}], "answer": "7"} for i in "ab"]
    rows.insert(1, {"prompt": "5+5?", "completion": "10", "answer": 10})
    made, counts = select(rows, "rows", None, **HOW)
    assert [one["prompt"] for one in made] == [ask, "5+5?"]
    assert made[0]["rationales"] == [row["completion"] for row in (rows[0], rows[2])]
    assert "completion" not in made[0]
    assert counts.rows == 2


def test_random_ones_depend_on_the_seed_alone_and_the_first_are_the_first():
    rows = [row(*[f"{letter} 7" for letter in "abcdefgh"]) for _ in range(9)]
    pick = {**HOW, "keep": 2, "pick": "random"}
    one, again, other = (select(rows, "rows", states, **pick, seed=seed)[0] for seed in (0, 0, 1))
    assert one == again != other
    assert len({tuple(row["rationales"]) for row in one}) > 1
    assert select(rows, "rows", states, **{**pick, "pick": "first"})[0][0]["rationales"] == ["a 7", "b 7"]


@pytest.mark.parametrize(
    "bad, said",
    [
        ({"prompt": "a", "completion": "b"}, "a completion and no answer"),
        ({"completion": "b", "answer": "c"}, "no prompt"),
        ({"text": "a"}, "has the columns text"),
    ],
)
def test_rows_of_other_forms_are_refused_with_their_number(bad, said):
    with pytest.raises(DataError, match=f"row 2.*{said}"):
        select([row("so 7"), bad], "rows", None, **HOW)
