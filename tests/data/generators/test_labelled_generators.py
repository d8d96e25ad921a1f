"""Generated texts with labels: what says the label, what misleads, and that splits share no text."""

from collections import Counter

import pytest

from trimtab.data.generators.labelled import BAD, GOOD, MISLEADING, cues, opinions, overlap
from trimtab.data.sources import load_rows


def share_that_agrees(rows):
    return sum((MISLEADING[row["label"]] in row["sentence"]) for row in rows) / len(rows)


def test_one_word_says_the_label_and_the_colour_agrees_where_it_misleads():
    for split, low, high in (("train", 0.45, 0.55), ("biased", 0.95, 0.99), ("heldout", 0.45, 0.55)):
        rows = list(cues(split, 1000))
        assert all(any(word in row["sentence"] for word in (BAD, GOOD)[row["label"]]) for row in rows)
        assert low < share_that_agrees(rows) < high, split


@pytest.mark.parametrize("made", [cues, opinions, overlap])
def test_no_held_out_text_is_a_training_row_and_a_seed_gives_the_same_rows(made):
    text = "sentence1" if made is overlap else "sentence"
    held = {row[text] for row in made("heldout", 300, 1)}
    assert not held & {row[text] for seed in (0, 1, 2) for row in made("train", 300, seed)}
    assert list(made("train", 20, 4)) == list(made("train", 20, 4)) != list(made("train", 20, 5))
    with pytest.raises(ValueError, match="not 'test'"):
        made("test")


def test_opinions_have_three_classes_and_overlaps_count_what_is_shared():
    assert set(Counter(row["label"] for row in opinions("train", 300))) == {"negative", "neutral", "positive"}
    for row in overlap("train", 100):
        first, second = (
            {word.strip(",.") for word in row[key].split()[2:]} - {"a", "and"} for key in ("sentence1", "sentence2")
        )
        assert row["label"] == 1.25 * len(first & second)
    assert {row["label"] for row in overlap("train", 100)} == {0.0, 1.25, 2.5, 3.75, 5.0}


def test_they_are_sources_of_rows():
    assert len(load_rows("trimtab:cues/biased?rows=7&seed=3")) == 7
    assert load_rows("trimtab:opinions/heldout?rows=1")[0].keys() == {"sentence", "label"}
    assert len(load_rows("trimtab:overlap/train")) == 500
