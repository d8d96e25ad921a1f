"""Rows with labels: the forms of GLUE, kinds of labels, and what is refused by its row."""

import pytest
import torch

import tiny_classifier
from trimtab.core import Labels
from trimtab.data.labelled import (
    LabelledCollator,
    form_of,
    labels_from,
    labels_of,
    missing_classes,
    numbered,
    task_of,
    tokenised,
)
from trimtab.data.sources import DataError, load_rows


def read(labels, source="rows.jsonl", task="auto", known=None):
    """The labels of rows as a run reads them."""
    found = labels_of([{"label": label} for label in labels], source)
    regression = task_of(found, source, task, known)
    names = known or labels_from(found, source, regression)
    return numbered(found, source, names), names


@pytest.mark.parametrize(
    "columns",
    [
        ("sentence1", "sentence2"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("premise", "hypothesis"),
        ("sentence",),
        ("text",),
    ],
)
def test_the_forms_of_glue_are_recognised(columns):
    rows = [{**dict.fromkeys(columns, "w1 w2"), "label": i, "idx": i} for i in range(2)]
    assert form_of(rows, "x") == columns
    ids = tokenised(rows, [0, 1], tiny_classifier.word_tokenizer(), "x", 10).rows[0]["input_ids"]
    assert ids == ([2, 5, 6, 3, 5, 6, 3] if len(columns) == 2 else [2, 5, 6, 3])


def test_a_row_without_a_text_is_named():
    with pytest.raises(DataError, match="row 2 has nothing as its sentence; it must be a text"):
        form_of([{"sentence": "a"}, {"sentence": None}], "x")
    with pytest.raises(DataError, match="row 1 has the columns prompt, label, and a text is looked for in: sentence1"):
        form_of([{"prompt": "a", "label": 1}], "x")


def test_numbers_are_classes_names_are_sorted_and_floats_are_a_regression():
    assert read([0, 2, 1]) == ([0, 2, 1], Labels(("LABEL_0", "LABEL_1", "LABEL_2")))
    assert read([True, False]) == ([1, 0], Labels(("LABEL_0", "LABEL_1")))
    assert read(["yes", "no", "yes"]) == ([1, 0, 1], Labels(("no", "yes")))
    assert read([1, 2.5]) == ([1.0, 2.5], Labels())
    assert read([1, 2, 3], task="regression") == ([1.0, 2.0, 3.0], Labels())


def test_cells_of_csv_that_are_numbers_are_numbers(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("sentence,label\na,1\nb,2.5\n")
    rows = load_rows(str(path))
    found = labels_of(rows, str(path))
    assert found == [1, 2.5]
    assert task_of(found, str(path), "auto", None)
    assert labels_of([{"label": "1"}], "rows.jsonl") == ["1"]


def test_labels_of_a_regression_that_are_texts_are_refused_with_the_row_and_the_way_out():
    with pytest.raises(DataError, match=r"row 1 has the label '3.5', a text, .* numbers; write 3.5 without quotes"):
        read(["3.5", "1"])
    with pytest.raises(DataError, match=r"row 2 has the label 'high', a text, .*options.task: classification"):
        read([1.5, "high"])
    assert read(["3.5", "1"], task="classification")[1] == Labels(("1", "3.5"))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, None], "row 2 has no label"),
        ([0, [1]], r"row 2 has the label \[1\]"),
        ([0, -1], r"row 2 has the label -1 \(GLUE's test rows have -1, which is none\); classes are numbered from 0"),
        ([0, "yes"], "row 1 has the label 0, but others are texts; use one kind"),
        ([1, 1], "every row has the label 1; at least two classes"),
        ([0, 4711], "row 2 has the label 4711, but only 2 different labels occur"),
        ([0.5, float("nan")], "row 2 has the label nan"),
    ],
)
def test_labels_that_say_nothing_are_refused_by_their_row(labels, said):
    with pytest.raises(DataError, match=said):
        read(labels)


def test_labels_that_a_model_does_not_know_are_refused_by_their_row():
    known = Labels(("no", "yes"))
    assert read(["yes", "no"], known=known)[0] == [1, 0]
    assert read([1, 0], known=known)[0] == [1, 0]
    with pytest.raises(DataError, match=r"row 2 has the label 2, which is none of the model's: no, yes \(0 to 1\)"):
        read([1, 2], known=known)
    with pytest.raises(DataError, match="row 1 has the label 'maybe', which is none of the model's: no, yes"):
        read(["maybe"], known=known)
    with pytest.raises(DataError, match="options.task is regression, but the model's labels are: no, yes"):
        read([1], known=known, task="regression")


def test_classes_without_a_training_row_are_said():
    known = Labels(("a", "b", "c"))
    assert missing_classes([0, 2], known, "x") == "x: no row has the label b; the model cannot learn to choose it"
    assert missing_classes([0, 1, 2], known, "x") is None


def test_long_rows_are_cut_to_the_limit_and_counted_and_padding_is_masked():
    rows = [{"sentence": "w1 w2 w3 w4 w5 w6"}, {"sentence": "w1"}]
    made = tokenised(rows, [1, 0], tiny_classifier.word_tokenizer(), "x", 5)
    assert made.rows[0]["input_ids"] == [2, 5, 6, 7, 3]
    assert (made.counts.truncated, made.counts.first, made.counts.longest) == (1, {"truncated": 1}, 5)
    batch = LabelledCollator(0)(made.rows)
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert LabelledCollator(0, True)(made.rows)["labels"].dtype == torch.float32


def test_the_second_text_has_the_second_type():
    rows = [{"sentence1": "w1", "sentence2": "w2 w3"}, {"sentence1": "w1", "sentence2": "w2"}]
    made = tokenised(rows, [1, 0], tiny_classifier.word_tokenizer(), "x", 20)
    assert LabelledCollator(0)(made.rows)["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]
