"""SocialBench: parsing, scoring, prompts and numbers worked by hand, the authors' format, and our own rows."""

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_table import table
from trimtab.data.sources import DataError
from trimtab.evals import suites
from trimtab.evals.suite import Answered, Item, SuiteError, Verdict, accuracy, argmax
from trimtab.evals.suites._roles import prompt
from trimtab.evals.suites.socialbench import (
    CATEGORIES,
    DIMENSIONS,
    FILES,
    SUITE,
    SocialBenchOptions,
    floor,
    items,
    measures,
    official_letters,
    read,
    recall,
    score,
)

ROOT = Path(__file__).parents[2]
STYLE, SITUATION, EMOTION, HUMOR, MEMORY, GROUP = (
    "Individual-SA-RoleStyle",
    "Individual-EP-SituationUnderstanding",
    "Individual-EP-DialogueEmotionDetect",
    "Individual-EP-HumorSarcasmDetect",
    "Individual-MEM",
    "Group-SAP-Neutral",
)
FOUR = {"A": "oak", "B": "elm", "C": "ash", "D": "fir"}


def row(category=STYLE, turns=3, label=("A",), choices=None, lang="en", **meta):
    speakers = ("User", "Mira")
    return {
        "dialogue": [{"from": speakers[i % 2], "value": f"turn {i}"} for i in range(turns)],
        "instruction": "",
        "choices": ({} if category == MEMORY else FOUR) if choices is None else choices,
        "label": list(label),
        "meta": {"lang": lang, "category": category, "name": "Mira", "profile": {"Mira": "Mira bakes."}, **meta},
    }


def stored(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def loaded(folder, *rows, **options):
    return items(SocialBenchOptions(path=stored(folder, *rows), **options))


def item(category=STYLE, target=("A",), options=None, dimension="SA Style", **data):
    level = "group" if dimension.startswith("SP") else "individual"
    return Item(
        id="x",
        text="",
        options=({} if category == MEMORY else FOUR) if options is None else options,
        target=tuple(target),
        groups={"dimension": dimension, "level": level, "lang": "en"},
        data={"category": category, "last_user": "", **data},
    )


@pytest.fixture(scope="module")
def own():
    return items(SocialBenchOptions())


# ---------------------------------------------------------------- parsing and scoring


@table(
    "text, expected",
    {
        "": "",
        "b": "",
        "AC": "AC",
        "ABCDEFGH": "ABC",
        "A baker would pick B": "AB",
        "A good choice is C": "AC",
        "(C)": "C",
        "C.": "C",
        "Ｃ": "",
        "C, A, C": "CA",
        "选A": "A",
        "答案是B和D吧": "B",
        "选A和C": "A",
        "选A、C": "AC",
        "H": "H",
        "I": "",
        "AE": "E",
        "EA": "E",
        "Apple": "",
        "B_2": "",
    }.items(),
)
def test_official_letters_stand_alone_or_beside_a_to_d(text, expected):
    assert "".join(official_letters(text)) == expected


@pytest.mark.parametrize(
    "reply, target, robust, official",
    [
        ("", "C", None, None),
        ("c", "C", 1, None),
        ("C", "C", 1, 1),
        ("CA", "C", None, 1),
        ("AC", "A", None, 1),
        ("A. wrong\nB. wrong\nC. fits", "C", 1, 0),
        ("A good choice is C", "C", 1, 0),
        ("B, no: the answer is C", "C", 1, 0),
        ("C. Options A and B do not fit", "C", 1, 1),
        ("H", "C", None, 0),
        ("选C", "C", 1, 1),
    ],
)
def test_a_single_choice_is_one_or_nothing(reply, target, robust, official):
    verdicts = score(item(target=target), reply)
    assert list(verdicts) == ["robust", "official"]
    assert (verdicts["robust"].value, verdicts["official"].value) == (robust, official)
    assert all((verdict.parsed is None) == (verdict.value is None) for verdict in verdicts.values())


@pytest.mark.parametrize(
    "reply, target, robust, official",
    [
        ("A, C", "AC", 1, 1),
        ("C", "AC", 0.5, 0.5),
        ("A, C, C", "AC", 1, 1),
        ("A, B", "AC", 0, 0),
        ("A, C, H", "AC", 1, 0),
        ("B", "BCD", 1 / 3, 1 / 3),
        ("A, C", "A", 0, 1),
        ("none", "A", None, None),
    ],
)
def test_several_correct_letters_give_their_share_and_an_incorrect_one_costs_all(reply, target, robust, official):
    verdicts = score(item(SITUATION, target, dimension="EP Situ."), reply)
    assert (verdicts["robust"].value, verdicts["official"].value) == (robust, official)


@pytest.mark.parametrize(
    "reply, keywords, value",
    [
        ("", ["Paris"], None),
        (" \n", ["Paris"], None),
        ("PARIS!", ["Paris", "rain"], 0.5),
        ("In paris, the rain.", ["Paris", "Rain"], 1),
        ("A Parisian", ["paris"], 1),
        ("rain-coat", ["raincoat"], 0),
        ("我住在北京。", ["北京", "上海"], 0.5),
        ("Nothing", ["Paris"], 0),
    ],
)
def test_recall_is_the_share_of_keywords_that_are_substrings(reply, keywords, value):
    assert recall(reply, keywords).value == value


def test_robust_memory_reads_no_reasoning_and_plain_letters():
    one = item(MEMORY, ["Paris"], dimension="CM Short")
    hidden = score(one, "<think>Paris</think>No idea")
    assert (hidden["robust"].value, hidden["official"].value) == (0, 1)
    assert score(one, "<think>Paris")["robust"].value is None
    assert score(one, "Ｐａｒｉｓ")["robust"].value == 1


def test_the_likeliest_of_several_right_letters_earns_its_share():
    one = item(SITUATION, "AC", dimension="EP Situ.")
    assert read(one, {"A": 0.1, "B": 0.2, "C": 0.6, "D": 0.1}) == Verdict(("C",), 0.5)
    assert SUITE.score_options(one, {"A": 0.1, "B": 0.2, "C": 0.6, "D": 0.1}).value == 0.5
    assert read(one, {"A": 0.1, "B": 0.9, "C": 0, "D": 0}).value == 0
    single = item(target="B")
    assert read(single, {"A": 0.4, "B": 0.6}).value == argmax(single, {"A": 0.4, "B": 0.6}).value == 1


PIECES = st.sampled_from(
    [*"ABCDEFGHabch .,()\n、和选", "answer is ", " not ", "答案", "<think>", "</think>", "Paris", "paris"]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=30).map("".join))
KINDS = st.sampled_from(
    [
        item(target="B", options={"A": "x", "B": "y", "C": "z"}),
        item(SITUATION, "AC", dimension="EP Situ."),
        item(MEMORY, ["Paris", "rain"], dimension="CM Long"),
    ]
)


def holds(one, text):
    verdicts = score(one, text)
    for verdict in verdicts.values():
        assert (verdict.parsed is None) == (verdict.value is None)
        assert verdict.value is None or 0 <= verdict.value <= 1
    if one.options:
        assert set(verdicts["robust"].parsed or ()) <= set(one.options)
        assert set(verdicts["official"].parsed or ()) <= set("ABCDEFGH")


@settings(max_examples=500, deadline=None)
@given(KINDS, TEXTS)
def test_any_reply_has_a_value_from_0_to_1_or_none(one, text):
    holds(one, text)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(KINDS, TEXTS)
def test_ten_thousand_replies_have_a_value_from_0_to_1_or_none(one, text):
    holds(one, text)


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize("turns, dimension", [(1, "CM Short"), (39, "CM Short"), (40, "CM Long"), (41, "CM Long")])
def test_a_dialogue_is_long_from_forty_turns_on(tmp_path, turns, dimension):
    (one,) = loaded(tmp_path, row(MEMORY, turns, ["bread"]))
    assert one.groups == {"dimension": dimension, "level": "individual", "lang": "en"}


def test_each_category_has_its_dimension_and_level(tmp_path):
    found = loaded(tmp_path, *[row(category) for category in CATEGORIES])
    assert [one.groups["dimension"] for one in found] == [
        "SA Style", "SA Know.", "EP Situ.", "EP Emo.", "EP Emo.", "CM Short", "SP Pos.", "SP Neu.", "SP Neg.",
    ]  # fmt: skip
    assert [one.groups["level"] for one in found] == ["individual"] * 6 + ["group"] * 3
    assert [bool(one.options) for one in found] == [category != MEMORY for category in CATEGORIES]


def folder_of_the_authors(tmp_path):
    by_file = {
        "self_awareness.json": [row(STYLE), row("Individual-SA-RoleKnowledge", lang="zh")],
        "emotional_perception.json": [row(EMOTION, name=None, profile=None)],
        "conversation_memory.json": [row(MEMORY, label=["bread"]), row(MEMORY, 50, ["salt"])],
        "social_preference.json": [row(GROUP)],
    }
    for name, rows in by_file.items():
        (tmp_path / name).write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def test_the_authors_folder_is_read_by_file_dimension_language_and_number(tmp_path):
    path = folder_of_the_authors(tmp_path)
    assert [one.id for one in items(SocialBenchOptions(path=path))] == [
        "self_awareness-1", "self_awareness-2", "emotional_perception-1", "conversation_memory-1",
        "conversation_memory-2", "social_preference-1",
    ]  # fmt: skip
    assert [one.id for one in items(SocialBenchOptions(path=path, lang="zh"))] == ["self_awareness-2"]
    (path / "self_awareness.json").unlink()
    assert len(items(SocialBenchOptions(path=path, dimensions=("CM Short", "CM Long")))) == 2
    with pytest.raises(DataError, match=r"no file self_awareness\.json, needed for SA Style and SA Know\..*X-PLUG"):
        items(SocialBenchOptions(path=path))


def test_the_files_cover_the_nine_dimensions():
    assert [one for some in FILES.values() for one in some] == list(DIMENSIONS)


def test_a_number_is_of_each_dimension(tmp_path):
    found = loaded(tmp_path, row(), row(), row(GROUP), row(), row(GROUP), number=2)
    assert [one.id for one in found] == ["rows-1", "rows-2", "rows-3", "rows-5"]


def test_a_file_that_was_cut_short_is_named_with_where_it_comes_from(tmp_path):
    path = folder_of_the_authors(tmp_path) / "social_preference.json"
    path.write_text(path.read_text()[:-40])
    with pytest.raises(
        DataError, match=r"social_preference\.json: line 1 is not valid JSON.*cut short.*github\.com/X-PLUG"
    ):
        items(SocialBenchOptions(path=tmp_path))


def without(key):
    return {name: value for name, value in row().items() if name != key}


@pytest.mark.parametrize(
    "bad, message",
    [
        (without("dialogue"), "row 2: dialogue is missing"),
        (without("label"), "row 2: label is missing"),
        (without("meta"), "row 2: meta is missing"),
        (row() | {"dialogue": [{"from": "User"}]}, r"row 2: dialogue\.0\.value is missing"),
        (row() | {"dialogue": []}, "row 2: dialogue"),
        (row(label=[]), "row 2: label"),
        (row(lang="fr"), r"row 2: meta\.lang"),
        (row("Group-SAP-Odd"), "row 2: meta.category is 'Group-SAP-Odd'; known are Individual-SA-RoleStyle"),
        (row(label=["E"]), "row 2: label 'E' is not among the choices A, B, C, D"),
        (row(label=["a"]), "row 2: label 'a' is not among"),
        (row(choices={}), "row 2: choices has the letters of no option"),
        (row(choices={"A": "x", "1": "y"}), "row 2: choices has the letters A, 1"),
        (row(name=None), r"row 2: meta\.name is missing"),
        (row(name="Tom"), "row 2: meta.profile has no profile of 'Tom'"),
        (row(MEMORY, label=[""]), "row 2: label has an empty keyword"),
        (row(GROUP, profile={}), "row 2: meta.profile has no profile"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_key(tmp_path, bad, message):
    with pytest.raises(DataError, match=message):
        loaded(tmp_path, row(), bad)


def test_what_is_not_there_is_reported_with_a_way_out(tmp_path):
    with pytest.raises(DataError, match="no folder .*nowhere.*X-PLUG/SocialBench.*without path"):
        items(SocialBenchOptions(path=tmp_path / "nowhere"))
    with pytest.raises(SuiteError, match="trimtab's own rows: there is no row of SA Style, .* language zh; they are"):
        items(SocialBenchOptions(lang="zh"))
    with pytest.raises(SuiteError, match="dimensions"):
        suites.check("socialbench", {"dimensions": ["SA Stile"]})
    assert "socialbench" in suites.names()
    assert suites.summary("socialbench").startswith("SocialBench: ")


# ---------------------------------------------------------------- prompts

PROFILES = {"Mira": "\n\n".join(f"mira {i}" for i in range(12)), "Bo": "bo fishes", "Cy": "cy sings"}


def asked(tmp_path, category, lang="en", **options):
    (one,) = loaded(tmp_path, row(category, lang=lang, profile=PROFILES), **options)
    messages = prompt(one)
    assert [message["role"] for message in messages] == ["user"]
    return messages[0]["content"]


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("category", CATEGORIES)
def test_a_prompt_holds_what_its_category_shows_and_nothing_else(tmp_path, category, lang):
    text = asked(tmp_path, category, lang)
    group, alone = category.startswith("Group"), "-SA-" in category or category == MEMORY
    assert "User: turn 0\nMira: turn 1\nUser: turn 2" in text
    assert ("A. oak\nB. elm\nC. ash\nD. fir" in text) == (category != MEMORY)
    assert ("mira 0" in text) == (group or alone)
    assert ("bo fishes" in text) == group
    assert ('"turn 2"' in text or "“turn 2”" in text) == (category == EMOTION)
    if category in (SITUATION, HUMOR):
        assert text == "User: turn 0\nMira: turn 1\nUser: turn 2\n\nA. oak\nB. elm\nC. ash\nD. fir"
    else:
        assert ("你就是" in text or "【" in text) == (lang == "zh")
    if category == MEMORY:
        assert text.endswith("\n\nAssistant:")
    if "-SA-" in category or category == EMOTION:
        assert text.endswith({"en": "Answer:", "zh": "答案："}[lang])
    if group:
        assert text.endswith({"en": "letter alone.", "zh": "只回复一个字母。"}[lang])


def test_profiles_of_a_group_are_cut_to_ten_lines_and_parted_by_two_blank_lines(tmp_path):
    text = asked(tmp_path, GROUP)
    assert "mira 8\nmira 9\n\n\nbo fishes\n\n\ncy sings\n" in text
    assert "mira 10" not in text
    assert "mira 11\n\n\nbo fishes" in asked(tmp_path, GROUP, truncate_profiles=False)
    other = asked(tmp_path, GROUP, leave_out_own=True)
    assert "mira 0" not in other
    assert "bo fishes\n\n\ncy sings" in other
    assert "mira 11" in asked(tmp_path, STYLE)


def test_the_options_are_named_as_they_are(tmp_path):
    (one,) = loaded(tmp_path, row(choices={"A": "oak", "B": "elm", "C": "ash"}))
    assert "Which of A, B, C is" in prompt(one)[0]["content"]


def test_braces_in_a_row_are_text(tmp_path):
    (one,) = loaded(tmp_path, row(profile={"Mira": "{name} {0} }{"}))
    assert "{name} {0} }{" in prompt(one)[0]["content"]


def test_an_unknown_category_has_no_prompt():
    with pytest.raises(KeyError, match="Group-SAP-Odd"):
        prompt(item("Group-SAP-Odd"))


# ---------------------------------------------------------------- numbers


def answered(dimension, *values, parser="official", reply="four"):
    """Items of a dimension with these values."""
    category = MEMORY if dimension.startswith("CM") else STYLE
    return [
        Answered(item(category, dimension=dimension), (reply,), {parser: Verdict(None if v is None else "A", v)})
        for v in values
    ]


def value(found, name, group="all"):
    (one,) = [measure for measure in found if (measure.name, measure.group) == (name, group)]
    return one.value.estimate


def test_nulls_leave_the_official_mean_and_count_nothing_in_the_strict_one():
    found = measures(answered("SA Style", 1, None, 0, None) + answered("SP Neg.", 0.5, None, None, None))
    assert value(found, "official Avg answered") == pytest.approx((1 / 2 + 0.5) / 2)
    assert value(found, "official Avg strict") == pytest.approx((1 / 4 + 0.5 / 4) / 2)
    assert value(found, "official Avg unparsed") == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert value(found, "official Avg strict", "level=individual") == 0.25
    assert value(found, "official Avg answered", "level=group") == 0.5
    assert value(found, "official individual - group answered") == 0
    assert value(found, "official individual - group strict") == pytest.approx(1 / 4 - 0.5 / 4)


def test_the_average_is_that_of_dimensions_and_not_of_rows():
    found = measures(answered("SA Style", *[1] * 9) + answered("SA Know.", 0) + answered("SP Pos.", 0.5))
    assert value(found, "official Avg strict") == 0.5
    assert value(found, "official individual - group strict") == pytest.approx(0.5 - 0.5)
    assert value(found, "official Avg strict", "level=individual") == 0.5


@pytest.mark.parametrize(
    "scores, average",
    [
        ((48.76, 51.23, 31.23, 28.91, 25.38, 21.89, 44.98, 24.19, 27.67), 33.80),
        ((83.87, 90.64, 53.10, 52.89, 83.29, 73.15, 91.53, 73.44, 63.82), 73.97),
        ((84.57, 93.11, 56.48, 53.05, 81.39, 80.11, 89.73, 81.69, 75.10), 77.25),
    ],
)
def test_nine_published_scores_have_the_published_average(scores, average):
    rows = [one for name, of_it in zip(DIMENSIONS, scores) for one in answered(name, of_it)]
    assert value(measures(rows), "official Avg answered") == pytest.approx(average, abs=0.006)


def test_intervals_are_over_rows_within_dimensions():
    sure = measures(answered("SA Style", 1, 1, 1) + answered("SP Neu.", 0, 0, 0))
    (average,) = [one for one in sure if (one.name, one.group) == ("official Avg strict", "all")]
    assert average.value == (0.5, 0.5, 0.5)  # drawn across dimensions it would have a width
    assert average.number == 6
    mixed = measures(answered("SA Style", 1, 0, 1, 0) + answered("SP Neu.", 0, 0, 0))
    (average,) = [one for one in mixed if (one.name, one.group) == ("official Avg strict", "all")]
    assert average.value == (0.25, 0.0, 0.5)


def test_errors_count_nowhere_and_no_answers_give_no_measures():
    rows = answered("SA Style", 1, 1)
    lost = [replace(one, error="timeout") for one in answered("SA Style", 0)]
    assert value(measures(rows + lost), "official Avg strict") == 1
    assert measures([]) == measures(lost) == []


def test_memory_reports_the_length_of_replies():
    found = measures(answered("CM Long", 1, 0, reply="four") + answered("CM Long", 1, reply="a"))
    assert value(found, "reply length", "dimension=CM Long") == 3


def test_floors_are_a_drawn_letter_and_the_last_turn_of_the_user_repeated():
    assert floor(item()) == 0.25
    assert floor(item(SITUATION, "AC")) == pytest.approx(
        sum(0.5 for letter in "AC") / 4
    )  # a right letter is worth half
    assert floor(item(MEMORY, ["bread", "salt"], last_user="Where is the salt?")) == 0.5
    assert floor(item(MEMORY, ["bread"], last_user="")) == 0
    found = measures(answered("SA Style", 1, 1))
    assert value(found, "floor", "dimension=SA Style") == value(found, "floor Avg") == 0.25


def test_the_last_turn_of_the_user_is_found_behind_those_of_the_role(tmp_path):
    first, second = loaded(tmp_path, row(MEMORY, 4, ["x"]), row(MEMORY, 3, ["x"]))
    assert (first.data["last_user"], second.data["last_user"]) == ("turn 2", "turn 2")


def test_permuting_options_together_with_labels_changes_no_score(tmp_path, own):
    rows = [json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines()]
    rows = [one for one in rows if one["choices"]]
    generator = random.Random(3)
    permuted = []
    for one in rows:
        texts = list(one["choices"].values())
        generator.shuffle(texts)
        choices = dict(zip("ABCDEFGH", texts))
        right = {one["choices"][letter] for letter in one["label"]}
        label = [letter for letter, text in choices.items() if text in right]
        permuted.append({**one, "choices": choices, "label": label})

    def by_content(found):
        """Names the options whose text has an even number of vowels, or else the shortest."""
        scores = []
        for one in found:
            even = [k for k, text in one.options.items() if sum(text.count(v) for v in "aeiou") % 2 == 0]
            shortest = min(one.options, key=lambda k: (len(one.options[k]), one.options[k]))
            several = one.data["category"] == SITUATION
            reply = ", ".join(even) if several else shortest
            scores.append({name: verdict.value for name, verdict in score(one, reply).items()})
        return scores

    plain, moved = by_content(loaded(tmp_path, *rows)), by_content(loaded(tmp_path, *permuted))
    assert len({one["robust"] for one in plain}) > 1
    for one, before, after in zip(rows, plain, moved):
        if one["meta"]["category"] == SITUATION and len(one["label"]) == 1:
            del before["official"], after["official"]  # looks at the first of several letters alone
        assert before == after


# ---------------------------------------------------------------- our own rows

OWN = ROOT / "src" / "trimtab" / "data" / "bundled" / "socialbench.jsonl"


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines()]


def test_each_dimension_has_a_dozen_of_our_rows(own):
    counts = Counter(one.groups["dimension"] for one in own)
    assert set(counts) == set(DIMENSIONS)
    assert min(counts.values()) >= 12
    kinds = Counter(one.data["category"] for one in own)
    assert kinds[EMOTION] >= 8
    assert kinds[HUMOR] >= 6


def test_right_letters_are_spread_evenly(own):
    for dimension in DIMENSIONS:
        some = [one for one in own if one.groups["dimension"] == dimension and one.options]
        counts = Counter(letter for one in some for letter in one.target)
        if some:
            assert max(counts[letter] for letter in "ABCD") - min(counts[letter] for letter in "ABCD") <= 1


def test_right_answers_are_not_given_away_by_their_length(own):
    for category in CATEGORIES:
        some = [one for one in own if one.data["category"] == category and len(one.target) == 1]
        for extreme in (max, min):
            guessed = [
                extreme(one.options, key=lambda k, one=one: len(one.options[k])) in one.target
                for one in some
                if one.options
            ]
            assert not guessed or np.mean(guessed) < 0.5, (category, extreme)
    choices = [one for one in own if one.options and len(one.target) == 1]
    for extreme in (max, min):
        guessed = [extreme(one.options, key=lambda k, one=one: len(one.options[k])) in one.target for one in choices]
        assert np.mean(guessed) < 0.3


def test_our_rows_have_distinct_roles_and_texts(own, rows):
    names = Counter(one["meta"]["name"] for one in rows if "-EP-" not in one["meta"]["category"])
    assert max(names.values()) == 1
    assert len({one.text for one in own}) == len(own)
    assert all(len(set(one.options.values())) == len(one.options) for one in own)
    assert [one.id for one in own] == [f"socialbench-{number}" for number in range(1, len(own) + 1)]


def test_options_are_of_the_number_their_category_has(own):
    by_category = {EMOTION: {8}, HUMOR: {3, 4}, SITUATION: {4, 5}, MEMORY: {0}}
    for category in CATEGORIES:
        sizes = {len(one.options) for one in own if one.data["category"] == category}
        assert sizes == by_category.get(category, {4})
    several = Counter(len(one.target) for one in own if one.data["category"] == SITUATION)
    assert several[1] >= 3
    assert several[2] >= 3
    assert several[3] >= 1


def test_group_scenes_have_three_profiles_and_more_and_the_role_does_not_speak_last(rows):
    for one in rows:
        if one["meta"]["category"].startswith("Group"):
            assert len(one["meta"]["profile"]) >= 3
            assert one["dialogue"][-1]["from"] in set(one["meta"]["profile"]) - {one["meta"]["name"]}
            assert {turn["from"] for turn in one["dialogue"]} <= set(one["meta"]["profile"])
            assert all(name.split()[-1] in text for name, text in one["meta"]["profile"].items())


def test_keywords_came_before_and_not_in_the_question(rows):
    for one in rows:
        if one["meta"]["category"] == MEMORY:
            *before, last = [turn["value"].lower() for turn in one["dialogue"]]
            assert one["dialogue"][-1]["from"] == "User"
            for keyword in one["label"]:
                assert keyword.lower() not in last
                assert sum(keyword.lower() in turn for turn in before) in (1, 2, 3), keyword
                assert max(n for n, turn in enumerate(before) if keyword.lower() in turn) < 8, keyword
                assert len(keyword) >= 4


def test_repeating_the_user_scores_nothing_and_every_letter_alike_a_fourth(own):
    assert {floor(one) for one in own if not one.options} == {0.0}
    replies = [Answered(one, ("A",), score(one, "A")) for one in own if len(one.options) == 4 and len(one.target) == 1]
    (overall,) = [m for m in accuracy(replies) if (m.name, m.group) == ("robust strict", "all")]
    assert overall.value.estimate == pytest.approx(0.25, abs=0.03)


def test_the_right_answers_score_one(own):
    for one in own:
        reply = ", ".join(one.target)
        assert {verdict.value for verdict in score(one, reply).values()} == {1.0}, one.id


def test_memory_rows_are_what_their_script_writes(tmp_path):
    copy = tmp_path / "scripts" / "socialbench_memory.py"
    target = tmp_path / "src" / "trimtab" / "data" / "bundled" / "socialbench.jsonl"
    for path in (copy, target):
        path.parent.mkdir(parents=True)
    copy.write_text((ROOT / "scripts" / "socialbench_memory.py").read_text(encoding="utf-8"), encoding="utf-8")
    target.write_bytes(OWN.read_bytes())
    subprocess.run([sys.executable, copy], check=True, capture_output=True)
    assert target.read_bytes() == OWN.read_bytes()


def test_the_suite_has_one_prompt_a_limit_and_the_paper():
    assert SUITE.paper == "arXiv:2403.13679"
    assert list(SUITE.prompts) == ["zero_shot"]
    assert SUITE.max_new_tokens == 32
    of_kind = {(bool(item.options), item.max_new_tokens) for item in SUITE.items(SocialBenchOptions())}
    assert of_kind == {(True, None), (False, 512)}
