"""Two tokenizers on one answer: common segments, where vocabularies can be compared, and tokens as bytes."""

import itertools

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import tiny
import tiny_folder
from tiny_tokenizers import LLAMA, TEXTS, aligned, byte_level, chat, metaspace, side
from trimtab.core import IGNORE
from trimtab.data.alignment import OUTSIDE, Pieces, align, common_tokens, token_bytes
from trimtab.data.rows import prepare
from trimtab.data.sources import DataError
from trimtab.data.two_tokenizers import TextSide, tokens_of_both, with_teacher
from trimtab.models.ends import end_tokens


def texts_of(row, student, teacher):
    """Of each segment, its text on both sides."""
    ours, theirs = {}, {}
    for token, s in zip(row["input_ids"], row["segment"]):
        ours.setdefault(s, []).append(token)
    for token, s in zip(row["teacher_input_ids"], row["teacher_segment"]):
        theirs.setdefault(s, []).append(token)
    assert (ours.keys() | {OUTSIDE}) == (theirs.keys() | {OUTSIDE})
    return [(student.decode(ours[s]), teacher.decode(theirs[s])) for s in sorted(ours) if s != OUTSIDE]


# ---------------------------------------------------------------- segments


def test_segments_are_the_common_refinement_of_both_tokenizations():
    ours = Pieces([(0, 3), (3, 5), (5, 9)], [0, 3, 5])
    theirs = Pieces([(0, 2), (2, 5), (5, 6), (6, 9)], [0, 2, 5, 6])
    found = align(ours, theirs)
    assert found.student == [0, 0, 1]
    assert found.teacher == [0, 0, 1, 1]
    assert found.compared == [True, True]


def test_parts_of_a_character_and_tokens_without_width_belong_to_one_segment():
    ours = Pieces([(0, 1), (1, 5), (1, 5), (1, 5), (5, 6)], [0, 1, None, None, 5])
    theirs = Pieces([(0, 0), (0, 1), (1, 5), (5, 6)], [None, 0, 1, 5])
    found = align(ours, theirs)
    assert found.student == [0, 1, 1, 1, 2]
    assert found.teacher == [0, 0, 1, 2]
    assert found.compared == [False, True, True]


def test_where_one_side_drops_a_space_any_byte_of_it_is_the_boundary():
    ours = Pieces([(0, 1), (2, 3)], [0, 2])
    theirs = Pieces([(0, 1), (1, 3)], [0, 1])
    found = align(ours, theirs)
    assert found.student == found.teacher == [0, 1]
    assert found.compared == [True, False]  # " b" on one side, "b" on the other
    theirs = Pieces([(0, 2), (2, 3)], [0, 2])
    assert align(ours, theirs) == align(theirs, ours)
    assert align(ours, theirs).student == [0, 1]
    assert align(ours, theirs).compared == [True, True]


def test_tokenizations_without_a_common_boundary_are_one_segment():
    found = align(Pieces([(0, 2), (2, 4), (4, 6)], [0, 2, 4]), Pieces([(0, 3), (3, 6)], [0, 3]))
    assert (found.student, found.teacher) == ([0, 0, 0], [0, 0])
    assert align(Pieces([], []), Pieces([(0, 1)], [0])).teacher == [OUTSIDE]


@pytest.mark.parametrize("seed", range(20))
def test_segments_of_random_tokenizations_join_as_few_tokens_as_they_can(seed):
    import random

    draw = random.Random(seed)

    def cuts():
        inner = sorted(draw.sample(range(1, 30), draw.randint(0, 20)))
        return [0, *inner, 30]

    a, b = cuts(), cuts()
    found = align(Pieces(list(itertools.pairwise(a)), list(a[:-1])), Pieces(list(itertools.pairwise(b)), list(b[:-1])))
    common = sorted(set(a) & set(b))
    number = {byte: i for i, (begin, end) in enumerate(itertools.pairwise(common)) for byte in range(begin, end)}
    assert found.student == [number[begin] for begin in a[:-1]]
    assert found.teacher == [number[begin] for begin in b[:-1]]
    assert all(found.compared)


# ---------------------------------------------------------------- rows


def test_one_tokenizer_on_both_sides_aligns_each_token_with_itself():
    tokenizer = byte_level()
    row = aligned(chat(TEXTS[0]), tokenizer, tokenizer)
    assert row["teacher_input_ids"] == row["input_ids"]
    assert row["teacher_labels"] == row["labels"]
    assert row["segment"] == row["teacher_segment"]
    answer = [s for s in row["segment"] if s != OUTSIDE]
    assert answer == list(range(len(answer)))
    assert row["starts"] == [int(label != IGNORE) for label in row["labels"]]


def test_metaspace_against_byte_level_with_a_begin_token_on_one_side_only():
    student, teacher = byte_level(), metaspace()
    row = aligned(chat(TEXTS[0]), student, teacher)
    assert row["teacher_input_ids"][0] == teacher.bos_token_id
    assert row["teacher_input_ids"].count(teacher.bos_token_id) == 1
    segments = texts_of(row, student, teacher)
    assert len(segments) > 6  # and not one group of everything
    for ours, theirs in segments[:-1]:
        assert ours.strip() == theirs.strip()
    assert [ours for ours, _ in segments[:-1]] == [*_split(segments)]
    assert segments[-1] == ("<|end|>", "</s>")


def _split(segments):
    text, at = TEXTS[0], 0
    for ours, _ in segments[:-1]:
        assert text.startswith(ours, at)
        yield text[at : at + len(ours)]
        at += len(ours)
    assert at == len(text)


def test_vocabularies_are_compared_where_both_begin_at_the_same_byte_and_not_at_a_space_of_the_template():
    student, teacher = byte_level(), metaspace()
    row = aligned(chat(TEXTS[0]), student, teacher)
    first = row["segment"].index(0)
    assert student.decode(row["input_ids"][first]).startswith("T")
    assert not row["starts"][first]  # "▁The" begins with the template's space, "The" without
    later = [i for i, s in enumerate(row["segment"]) if s > 0]
    numbers = [row["segment"][i] for i in later]
    assert [row["starts"][i] for i in later[:-1]] == [int(a != b) for a, b in zip(numbers, [0, *numbers])][:-1]


def test_end_tokens_of_both_are_one_segment_and_compared_where_no_white_space_parts_them_from_the_text():
    student, teacher = byte_level(), metaspace()
    row = aligned(chat(TEXTS[0]), student, teacher)
    assert row["input_ids"][-1] == student.eos_token_id
    assert row["segment"][-1] == row["teacher_segment"][-1] == max(row["segment"])
    assert not row["starts"][-1]  # this template writes a space before its end token
    tight = metaspace(LLAMA.replace(" + ' ' + eos_token", " + eos_token"))
    assert aligned(chat(TEXTS[0]), student, tight)["starts"][-1] == 1


def test_an_emoji_in_bytes_is_one_segment_with_the_characters_around_it_apart():
    student, teacher = byte_level(size=262), metaspace()
    row = aligned(chat("see 🦊!"), student, teacher)
    segments = texts_of(row, student, teacher)
    assert ("!", "!") in segments
    assert any(ours.strip() == theirs.strip() == "🦊" for ours, theirs in segments)
    emoji = next(i for i, (ours, _) in enumerate(segments) if "🦊" in ours)
    assert row["segment"].count(emoji) >= 3
    assert row["teacher_segment"].count(emoji) >= 4
    after = row["segment"].index(emoji + 1)
    assert row["starts"][after] == 1  # "!", in one vocabulary as a byte


def test_plain_texts_begin_on_both_sides_as_texts_of_their_tokenizer_do():
    student, teacher = byte_level(None), metaspace(None)
    row = aligned({"prompt": "The river", "completion": " is long and deep."}, student, teacher)
    segments = texts_of(row, student, teacher)
    assert "".join(ours for ours, _ in segments[:-1]) == " is long and deep."
    assert segments[-1] == ("<|end|>", "</s>")
    row = aligned({"text": "The river is long."}, student, teacher)
    assert row["teacher_input_ids"][0] == teacher.bos_token_id
    assert row["segment"][0] == OUTSIDE  # nothing predicts the first token of a text


def test_a_token_that_starts_the_answer_on_both_sides_is_compared():
    student, teacher = byte_level(), byte_level(size=300)
    row = aligned(chat(TEXTS[0]), student, teacher)
    first = next(i for i, label in enumerate(row["labels"]) if label != IGNORE)
    assert row["segment"][first] == 0
    assert row["starts"][first] == 1
    assert row["teacher_segment"].index(0) == next(i for i, one in enumerate(row["teacher_labels"]) if one != IGNORE)


def test_a_row_that_is_cut_on_either_side_keeps_whole_segments_alone():
    student, teacher = byte_level(), metaspace()
    whole = aligned(chat(TEXTS[0]), student, teacher)
    for how in ({"max_length": len(whole["input_ids"]) - 5}, {"limit": len(whole["teacher_input_ids"]) - 5}):
        row = aligned(chat(TEXTS[0]), student, teacher, **how)
        kept = {s for s in row["segment"] if s != OUTSIDE}
        assert kept == {s for s in row["teacher_segment"] if s != OUTSIDE}
        assert kept == set(range(len(kept)))
        assert 0 < len(kept) <= max(whole["segment"])
        for s in kept:
            assert row["segment"].count(s) == whole["segment"].count(s)
            assert row["teacher_segment"].count(s) == whole["teacher_segment"].count(s)
        assert len(row["teacher_input_ids"]) <= how.get("limit", 10**9)


def test_a_template_that_changes_the_answer_leaves_the_row_out_and_too_many_are_refused():
    student = byte_level()
    loud = metaspace(LLAMA.replace("m['content'] + ' ' + eos", "(m['content'] | upper) + ' ' + eos"))
    with pytest.raises(DataError, match="1 row of 1 left out .first: row 1.: the chat templates of policy and teacher"):
        aligned(chat("quiet words"), student, loud)


def test_a_conversation_of_two_turns_is_a_row_for_each_on_both_sides():
    student, teacher = byte_level(), metaspace()
    row = {"messages": chat("One.")["messages"] + chat("Two.", "And then?")["messages"]}
    rows = prepare([row], student, max_length=10**9, end_ids=end_tokens(student), turns="each")
    found, note = with_teacher(
        rows, [row], side(student), side(teacher, "teacher"), limit=10**9, turns="each", chat=False, max_dropped=0.0
    )
    assert not note
    assert [texts_of(one, student, teacher)[0][0][0] for one in found.rows] == ["O", "T"]


def test_a_tokenizer_without_offsets_is_refused_by_its_role():
    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="the teacher's tokenizer .Slow. tells no offsets"):
        side_of = TextSide(Slow(), "teacher", set(), None)
        side_of.read({}, "", "each", False)


# ---------------------------------------------------------------- tokens as bytes


@pytest.mark.parametrize("made", [byte_level, metaspace])
@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_tokens_are_those_of_the_text(made, text):
    tokenizer = made()
    known = token_bytes(tokenizer)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    joined = b"".join(known[i] for i in ids)
    assert joined.removeprefix(b" ") == text.encode()
    assert all(known[i] is None for i in tokenizer.all_special_ids)


def test_the_bytes_of_word_pieces_and_of_whole_words():
    pieces = Tokenizer(models.WordPiece({"[UNK]": 0, "run": 1, "##ning": 2}, unk_token="[UNK]"))
    pieces.decoder = decoders.WordPiece()
    assert token_bytes(PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]")) == [None, b" run", b"ning"]
    assert token_bytes(tiny.tokenizer(["<unk>", "run"])) == [None, b"run"]


def test_tokens_are_common_by_their_bytes_and_not_by_how_they_are_written():
    student, teacher = side(byte_level()), side(metaspace())
    common = tokens_of_both(student, teacher, len(student.tokens), len(teacher.tokens))
    assert len(set(common.student)) == len(common.student)
    assert len(set(common.teacher)) == len(common.teacher)
    ends = student.tokenizer.eos_token_id, teacher.tokenizer.eos_token_id
    assert list(zip(common.student, common.teacher))[-1] == ends
    for a, b in list(zip(common.student, common.teacher))[:-1]:
        assert student.tokens[a] == teacher.tokens[b]
    known = {student.tokens[a] for a in common.student[:-1]}
    assert {b" the", b"\n", b"."} <= known  # Ġthe and ▁the, Ċ and <0x0A>


def test_common_tokens_end_at_the_rows_of_the_models_heads():
    assert common_tokens([b"a", b"b", None], [b"b", b"a"], 3, 2) == ([0, 1], [1, 0])
    assert common_tokens([b"a", b"b", None], [b"b", b"a"], 1, 2) == ([0], [1])
    assert common_tokens([b"a", b"b", None], [b"b", b"a"], 3, 1) == ([1], [0])


def test_other_tokens_are_counted_as_the_common_one_that_they_begin_with():
    words = byte_level(size=340)
    letters = tiny_folder.byte_tokenizer()
    student, teacher = side(letters), side(words, "teacher")
    found = tokens_of_both(student, teacher, len(letters), len(words))
    assert found.student_classes[letters.eos_token_id] == found.teacher_classes[words.eos_token_id]
    first = {student.tokens[i]: place for i, place in enumerate(found.student_classes) if student.tokens[i]}
    number = len(found.student)
    longer = 0
    for i, token in enumerate(teacher.tokens):
        if token is None:
            assert found.teacher_classes[i] == (number if i != words.eos_token_id else number - 1)
            continue
        longer += len(token) > 1
        assert found.teacher_classes[i] == first[token[:1]]  # the distribution over the next byte
    assert longer > 50
    assert len(found.student_classes) == len(letters)
    assert len(found.teacher_classes) == len(words)


def test_tokens_that_only_one_side_has_are_counted_as_the_other_side_begins_them():
    one, other = byte_level(size=340), byte_level(size=290)
    student, teacher = side(one), side(other, "teacher")
    found = tokens_of_both(student, teacher, len(one), len(other) + 5)
    assert found.teacher_classes[len(other) :] == [len(found.student)] * 5  # rows of a head without a token
    for i, token in enumerate(student.tokens):
        if token is None or i in found.student:
            continue
        begin = other(token.decode(errors="replace"), add_special_tokens=False).input_ids[0]
        if b"\xef\xbf\xbd" not in token.decode(errors="replace").encode():
            assert found.student_classes[i] == found.teacher_classes[begin]
        assert token.startswith(student.tokens[found.student[found.student_classes[i]]])


def test_an_underscore_for_a_space_and_a_byte_are_no_hindrance_to_what_tokens_begin_with():
    student, teacher = side(byte_level()), side(metaspace(), "teacher")
    found = tokens_of_both(student, teacher, len(student.tokens), len(teacher.tokens))
    for own, classes, ids in (
        (student, found.student_classes, found.student), (teacher, found.teacher_classes, found.teacher)
    ):  # fmt: skip
        for i, token in enumerate(own.tokens):
            if token:
                assert classes[i] < len(ids)
                assert token.startswith(own.tokens[ids[classes[i]]])
