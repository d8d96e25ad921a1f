"""Questions with several rationales: forms of rows, where answers are marked, and what is counted or refused."""

import pytest
import torch

import tiny_folder
import zoo
from trimtab.core import IGNORE
from trimtab.core.batch import COMPARED
from trimtab.data.collate import Collator
from trimtab.data.rationales import draw, has_rationales, prepare_rationales
from trimtab.data.rows import REJECTED, sequences
from trimtab.data.sources import DataError, load_rows
from trimtab.rewards.places import place_of_answer
from trimtab.train.dataset import DrawnRationales

TOKENIZER = tiny_folder.byte_tokenizer()
TOM = {
    "instruction": "Tom has 3 pens and buys 4. How many pens?",
    "output": [
        "He starts with 3, adds 4. Therefore, the answer is 7",
        "3 + 4 = 7. Therefore, the answer is 7",
        "4 + 3 = 7.0. The answer is 7.0",
    ],
    "label": "7",
}


def prepared(*rows, tokenizer=TOKENIZER, **how):
    how = {"max_length": 300, "find": place_of_answer, **how}
    return prepare_rationales(rows, tokenizer, **how)


def marked(row, tokenizer=TOKENIZER):
    """Of each rationale the text of its marked tokens."""
    found, at = [], 0
    for ids, _ in sequences(row):
        marks = row[COMPARED][at : at + len(ids)]
        at += len(ids)
        found.append(tokenizer.decode([token for token, mark in zip(ids, marks) if mark >= 0]))
    return found


def test_the_authors_rows_become_a_sequence_for_each_rationale_with_the_answer_marked():
    made = prepared(TOM)
    (row,) = made.rows
    texts = [TOKENIZER.decode(ids) for ids, _ in sequences(row)]
    assert texts == [TOM["instruction"] + one + "<|end|>" for one in TOM["output"]]
    learnt = [TOKENIZER.decode([i for i, label in zip(*one) if label != IGNORE]) for one in sequences(row)]
    assert learnt == [one + "<|end|>" for one in TOM["output"]]
    assert marked(row) == ["7", "7", "7.0"]
    assert [mark for mark in row[COMPARED] if mark >= 0] == [0, 1, 2, 2, 2]
    assert made.counts.rows == made.counts.kept == 1
    assert made.counts.remarks == {"unlike": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2+2?", "rationales": ["It is 4", "So 4"], "answer": 4},
        {"prompt": "2+2?", "completions": ["It is 4", "So 4"], "answer": "4.0"},
        {"question": "2+2?", "rationales": ["It is 4", "So 4"], "label": " 4"},
        {
            "prompt": [{"role": "user", "content": "2+2?"}],
            "completions": [[{"role": "assistant", "content": one}] for one in ("It is 4", "So 4")],
            "answer": "2+2 is 4\n#### 4",
        },
    ],
)
def test_other_forms_and_forms_of_the_label_are_read(row):
    (made,) = prepared(row).rows
    assert marked(made) == ["4", "4"]


@pytest.mark.parametrize("column", ["rationales", "output", "completions"])
def test_lists_in_csv_are_read(tmp_path, column):
    path = tmp_path / "rows.csv"
    path.write_text(f'prompt,{column},answer,indices\n2+2?,"[""It is 4"", ""So 4""]",4,"[[[10, 11]], [[7, 8]]]"\n')
    (row,) = load_rows(str(path))
    assert has_rationales(row)
    (made,) = prepared(row).rows
    assert marked(made) == ["4", "4"]


def test_with_chat_texts_are_turns():
    (row,) = prepared({"prompt": "2+2?", "rationales": ["It is 4", "So 4"], "answer": 4}, chat=True).rows
    assert TOKENIZER.decode(sequences(row)[1][0]) == "<|user|>2+2?<|end|>\n<|assistant|>So 4<|end|>"
    assert marked(row) == ["4", "4"]


def test_two_sequences_become_a_pair_whose_marks_lie_where_the_answer_is():
    (row,) = prepared(TOM).rows
    pair = draw(row, 1, 0)
    batch = Collator(0, tiny_folder.VOCAB, columns=(COMPARED,))([pair])
    assert batch["row_id"].tolist() == [0, 0]
    for side, place in enumerate((1, 0)):
        learnt = batch["labels"][side] != IGNORE
        inside = batch["input_ids"][side][learnt & (batch[COMPARED][side] == place)]
        assert TOKENIZER.decode(inside) == "7"
        assert (batch[COMPARED][side][learnt] == -1).sum() == learnt.sum() - 1


def test_a_row_that_is_not_drawn_is_collated_as_its_first_two():
    (row,) = prepared(TOM).rows
    collator = Collator(0, tiny_folder.VOCAB, columns=(COMPARED,))
    drawn, plain = collator([draw(row, 0, 1)]), collator([row])
    assert all(torch.equal(drawn[name], plain[name]) for name in drawn)


def test_answers_of_other_tokens_are_not_compared():
    (row,) = prepared(TOM).rows
    for pair in (draw(row, 0, 2), draw(row, 2, 1)):
        assert set(pair[COMPARED]) == set(pair[REJECTED + COMPARED]) == {-1}
        assert len(pair[COMPARED]) == sum(label != IGNORE for label in pair["labels"])


def test_rationales_without_the_answer_are_learnt_and_counted():
    made = prepared({**TOM, "output": [*TOM["output"][:2], "I think the answer is 8"]}, TOM)
    assert marked(made.rows[0]) == ["7", "7", ""]
    assert made.counts.remarks == {"unanswered": 1, "unlike": 1}
    assert made.counts.first == {"unanswered": 1, "unlike": 2}
    assert "does not hold the answer" in " ".join(made.notes())


def test_where_no_answer_is_found_at_all_the_rows_are_refused():
    with pytest.raises(DataError, match="found in none of the rationales"):
        prepared({**TOM, "label": "9"}, source="rows.jsonl")


@pytest.mark.parametrize(
    "output, found",
    [
        (["The answer is 7"], "1 rationale,"),
        (["The answer is 7", "The answer is 7", " "], r"1 rationale \(of 3, without empty ones and copies\)"),
        ([], "has the columns|0 rationales"),
    ],
)
def test_fewer_than_two_different_rationales_are_refused_with_the_rows_number(output, found):
    with pytest.raises(DataError, match=rf"row 2 (has|.*)({found})"):
        prepared(TOM, {**TOM, "output": output})


def test_copies_and_empty_rationales_are_left_out_and_counted():
    made = prepared({**TOM, "output": [*TOM["output"][:2], TOM["output"][0], ""]})
    assert len(sequences(made.rows[0])) == 2
    assert made.counts.remarks == {"copies": 1, "blank": 1}


def test_an_answer_behind_the_limit_is_not_compared_and_truncated_rows_are_counted():
    short = "3 + 4 = 7. The answer is 7"
    made = prepared({**TOM, "output": [TOM["output"][0], short, "7"]}, max_length=41 + len(short) + 1)
    assert marked(made.rows[0]) == ["", "7", "7"]
    assert made.counts.truncated == 1
    assert made.counts.remarks == {"cut_answer": 1}
    ids = sequences(made.rows[0])
    assert [len(one) for one, _ in ids] == [68, 68, 43]


def test_a_prompt_that_fills_the_limit_drops_the_row():
    made = prepared(TOM, {"prompt": "a", "rationales": ["b 7", "c 7"], "answer": 7}, max_length=20)
    assert [row["row_id"] for row in made.rows] == [1]
    assert made.counts.prompt_too_long == 1


def spans_of(texts, prompt=TOM["instruction"]):
    return [[[len(prompt) + one.rindex("7"), len(prompt) + one.rindex("7") + 1]] for one in texts]


@pytest.mark.parametrize("flat", [False, True])
def test_indices_of_the_row_are_tokens_of_prompt_and_rationale(flat):
    """The last one is flat in the readme of the authors."""
    texts = TOM["output"][:2]
    indices = [spans[0] for spans in spans_of(texts)] if flat else spans_of(texts)
    (row,) = prepared({**TOM, "output": texts, "indices": indices}).rows
    assert marked(row) == ["7", "7"]
    (found,) = prepared({**TOM, "output": texts}).rows
    assert row[COMPARED] == found[COMPARED]


def test_several_spans_of_a_rationale_are_all_marked():
    text = TOM["output"][1]
    places = [len(TOM["instruction"]) + i for i, c in enumerate(text) if c == "7"]
    indices = [[[at, at + 1] for at in places], spans_of([TOM["output"][0]])[0]]
    (row,) = prepared({**TOM, "output": [text, TOM["output"][0]], "indices": indices}).rows
    assert marked(row) == ["77", "7"]


@pytest.mark.parametrize(
    "indices, found",
    [
        ([[[3, 4]], [[50, 51]]], "tokens outside its rationale"),
        ([[[41, 43]], [[50, 51]]], "stands for 'He'"),
        ([[[900, 901]], [[50, 51]]], "tokens outside its rationale"),
        ([[[92, 93]]], "1 entries for 2 rationales"),
        ([[[93, 92]], [[50, 51]]], "expected the tokens"),
        ("x", "expected the tokens"),
    ],
)
def test_indices_that_are_not_those_of_the_answer_are_refused(indices, found):
    with pytest.raises(DataError, match=f"row 1.*{found}"):
        prepared({**TOM, "output": TOM["output"][:2], "indices": indices})


@pytest.mark.parametrize(
    "row, found",
    [
        ({"prompt": "a", "completion": "b"}, "expected a prompt"),
        ({"prompt": "a", "rationales": "b", "answer": "c"}, "expected a list of rationales"),
        ({"prompt": "a", "rationales": ["b", 3], "answer": "c"}, "expected a list of rationales"),
        ({"prompt": "a", "rationales": ["b", "c"]}, "expected a prompt"),
        ({"prompt": "a", "rationales": ["b", "c"], "answer": [1]}, "expected a text or a number"),
        ({**TOM, "input": "more"}, "column input"),
    ],
)
def test_rows_of_no_such_form_are_refused(row, found):
    with pytest.raises(DataError, match=f"row 1.*{found}"):
        prepared(row)


def test_apart_each_rationale_is_a_row_of_its_own():
    made = prepared(TOM, TOM, apart=True)
    assert [row["row_id"] for row in made.rows] == [0, 2, 4, 1, 3, 5]
    assert [made.number(row) for row in made.rows] == [1, 1, 1, 2, 2, 2]
    assert made.counts.rows == made.counts.kept == 6
    assert all(COMPARED not in row for row in made.rows)


# ---------------------------------------------------------------- draws


def test_draws_are_uniform_over_pairs_of_different_ones_and_repeat_with_the_seed_and_the_epoch():
    row = {**TOM, "output": [f"{i} and the answer is 7" for i in range(4)]}
    rows = prepared(*[row] * 60).rows
    data = DrawnRationales(rows, seed=3)
    counts = {}

    def drawn(one):
        return tuple(TOKENIZER.decode(one[key])[41] for key in ("input_ids", f"{REJECTED}input_ids"))

    for epoch in range(20):
        data.set_epoch(epoch)
        for i in range(len(data)):
            counts[drawn(data[i])] = counts.get(drawn(data[i]), 0) + 1
    assert len(counts) == 12  # ordered pairs of different ones of four
    assert all(first != second for first, second in counts)
    assert all(60 < number < 145 for number in counts.values())  # 100 expected, deviation 9.6
    again = DrawnRationales(rows, seed=3)
    again.set_epoch(19)
    assert [drawn(again[i]) for i in range(60)] == [drawn(data[i]) for i in range(60)]
    again.set_epoch(18)
    assert [drawn(again[i]) for i in range(60)] != [drawn(data[i]) for i in range(60)]
    other = DrawnRationales(rows, seed=4)
    other.set_epoch(19)
    assert [drawn(other[i]) for i in range(60)] != [drawn(data[i]) for i in range(60)]


# ---------------------------------------------------------------- tokenizers


def trained(kind):
    """Byte-level BPE, metaspace and WordPiece, trained on the rationales, so that tokens are longer than characters."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [
        text for row in load_rows("trimtab:worked_sums/train?rows=200") for text in (row["prompt"], *row["rationales"])
    ]
    special = ["<unk>", "<end>", "<s>"]
    if kind == "bytes":
        made, trainer = (
            Tokenizer(models.BPE()),
            trainers.BpeTrainer(
                vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
            ),
        )
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    elif kind == "metaspace":
        made, trainer = (
            Tokenizer(models.BPE(unk_token="<unk>")),
            trainers.BpeTrainer(vocab_size=300, special_tokens=special),
        )
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
    else:
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special)
        made.normalizer = normalizers.Lowercase()
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>", pad_token="<end>")


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "wordpiece"])
def test_any_tokenizer_that_tells_offsets_finds_the_answer_in_every_rationale(kind):
    rows = load_rows("trimtab:worked_sums/train?rows=60&ways=3")
    tokenizer = trained(kind)
    made = prepared(*rows, tokenizer=tokenizer)
    assert "unanswered" not in made.counts.remarks
    for row, given in zip(made.rows, rows, strict=True):
        assert [text.strip() for text in marked(row, tokenizer)] == [given["answer"]] * 3
        pair = draw(row, 2, 0)
        assert max(pair[COMPARED]) == 2
        assert max(pair[REJECTED + COMPARED]) == 0


@pytest.mark.fast("qwen2_5")
@pytest.mark.zoo
@pytest.mark.parametrize("family", ["qwen2_5", "qwen3", "llama3", "deepseekv3", "mistral"])
def test_tokenizers_of_known_families_find_the_answer_behind_their_templates(family):
    """Digits alone or in threes, spaces before or inside tokens, several digits, words, options and boxes."""
    tokenizer = zoo.real(family)
    made = [
        ("Sum?", ["1200 + 34 = 1234. The answer is 1234", "It is 1234.", "So 34 more: 1234\n"], "1234"),
        ("Price?", ["So it costs $1,200.50 now", "The answer is **$1,200.50**", "#### 1,200.50"], 1200.5),
        ("Half?", [r"Thus \boxed{\frac{1}{2}}", r"We get \boxed{\frac{1}{2}}."], r"\frac{1}{2}"),
        ("Colour?", ["The answer is light blue.", "So: light blue", "It is 浅蓝? No, light blue"], "Light Blue"),
        ("Which?", ["The answer is (B).", "So B.", "I choose B"], "B"),
        ("多少?", ["一加二。答案是三。", "答案: 三"], "三"),
        ("Emoji?", ["It is 🦊.", "The answer is 🦊"], "🦊"),
    ]
    rows = [{"prompt": q, "rationales": texts, "answer": answer} for q, texts, answer in made]
    found = prepared(*rows, tokenizer=tokenizer, chat=True)
    assert "unanswered" not in found.counts.remarks
    for row, (_, texts, answer) in zip(found.rows, made, strict=True):
        said = [text.strip(" $*(.){}").replace("$", "") for text in marked(row, tokenizer)]
        wanted = "1,200.50" if answer == 1200.5 else answer
        assert [text.casefold() for text in said] == [wanted.strip("}").casefold()] * len(texts)


def test_a_tokenizer_without_offsets_is_refused_and_takes_indices():
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    with pytest.raises(
        DataError, match="only fast tokenizers tell; give the tokens of each answer in a column indices"
    ):
        prepared(TOM, tokenizer=tokenizer)
    texts = TOM["output"][:2]
    (row,) = prepared({**TOM, "output": texts, "indices": spans_of(texts)}, tokenizer=tokenizer).rows
    assert marked(row, tokenizer) == ["7", "7"]
