"""GeomRel as a suite: items, parsers, reward, drawings, the authors' files, and the split of its rows."""

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_table import table
from trimtab.data.generators.geometry import items, wording
from trimtab.data.generators.geometry.official_rows import load
from trimtab.data.generators.geometry.oracle import answer_of
from trimtab.data.generators.geometry.questions import CANNOT, QUESTIONS
from trimtab.data.generators.geometry.scenes import Undecided
from trimtab.data.sources import DataError, load_rows
from trimtab.evals import suites
from trimtab.evals.suite import SuiteError, baselines
from trimtab.evals.suites import geomrel
from trimtab.evals.suites.geomrel import GeomRelOptions, draw, make, official, score
from trimtab.rewards import verifiable as rewards
from trimtab.rewards.parsing import letter_of

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "generators" / "geometry"))

from scenes import Claim, label_of, typed

LINES = {"A": "Parallel", "B": "Perpendicular", "C": "Intersecting but not perpendicular", "D": "Cannot be inferred"}


# ---------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def bundled():
    return load_rows("trimtab:geomrel/test")


def fresh(seed, number, depths=(1, 2), keep=lambda question: not wording.is_test(question)):
    return list(islice(items.generate(seed, depths, keep), number))


@pytest.fixture(scope="module")
def train():
    return fresh(3, 100)


def test_two_thousand_test_rows_with_the_official_keys_and_ours(bundled):
    assert len(bundled) == 2000
    for row in bundled:
        assert {"question", "answer", "relation"} <= row.keys()
        assert {"messages", "level", "depth", "scene", "options", "seed", "evidence"} <= row.keys()
        assert row["answer"] in row["options"]
        assert row["messages"][0]["content"] == row["question"]
        assert row["messages"][1]["content"] == f"Answer: {row['answer']}."
        assert (row["level"] == "basic") == (row["depth"] == 1)


@pytest.mark.slow
def test_bundled_rows_are_those_of_their_seed_byte_for_byte(bundled):
    for row, made in zip(bundled, fresh(0, 40, items.DEPTHS, wording.is_test)):
        assert json.dumps(row, sort_keys=True) == json.dumps(made, sort_keys=True)


def test_depths_are_equally_many_and_groups_within_them(bundled):
    assert set(Counter(row["depth"] for row in bundled).values()) == {400}
    for depth in range(1, 6):
        relations = Counter(row["relation"] for row in bundled if row["depth"] == depth)
        lines = [number for code, number in relations.items() if code.startswith("LL_")]
        assert len(lines) == 4
        assert max(lines) - min(lines) <= 8


def test_all_relations_of_the_table_occur(bundled):
    codes = {code for question in QUESTIONS.values() for code in question.codes.values()}
    assert {row["relation"] for row in bundled} == codes


def test_no_training_question_is_a_test_question_under_any_names(bundled, train):
    test = {wording.normal(row["question"]) for row in bundled}
    assert not test & {wording.normal(row["question"]) for row in train}
    assert all(wording.is_test(row["question"]) for row in bundled)
    assert not any(wording.is_test(row["question"]) for row in train)


def test_the_normal_form_forgets_letters_and_options_and_nothing_else():
    one = "QRS is a square. Is R on QS?\nAnswer choices: A. Yes B. No"
    assert wording.normal(one) == wording.normal("MAB is a square. Is A on MB?\nAnswer choices: A. No B. Yes")
    assert wording.normal(one) == "ABC is a square. Is B on AC?"
    assert wording.normal(one) != wording.normal("QRS is a square. Is R on SQ?")


def test_a_question_is_in_one_split_whatever_its_points_are_called(train):
    for row in train:
        letters = sorted(row["scene"]["points"])
        renamed = str.maketrans("".join(letters), "".join(letters[1:] + letters[:1]))
        text, _, options = row["question"].partition("\n")
        for word in set(re.findall(r"\b[A-Z]+\b", text)):
            text = re.sub(rf"\b{word}\b", word.translate(renamed).lower() + "#", text)
        again = re.sub(r"\b([a-z]+)#", lambda found: found[1].upper(), text) + "\n" + options
        assert again != row["question"]
        assert not wording.is_test(again)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(train):
    assert fresh(3, 20) == train[:20]
    other = fresh(4, 20)
    assert not {row["question"] for row in other} & {row["question"] for row in train}


def test_no_question_comes_twice(bundled, train):
    for rows in (bundled, train):
        assert len({row["question"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_rows_of_all_depths_are_made_for_training(bundled):
    rows = load_rows("trimtab:geomrel/train?rows=250&seed=1")
    assert Counter(row["depth"] for row in rows) == dict.fromkeys(range(1, 6), 50)
    assert not any(wording.is_test(row["question"]) for row in rows)
    assert not {wording.normal(row["question"]) for row in rows} & {wording.normal(row["question"]) for row in bundled}


def test_no_row_is_deeper_than_wanted(bundled):
    rows = load_rows("trimtab:geomrel/train?rows=20&deepest=2")
    assert Counter(row["depth"] for row in rows) == {1: 10, 2: 10}
    shallow = load_rows("trimtab:geomrel/test?rows=30&deepest=1")
    assert [row["question"] for row in shallow] == [row["question"] for row in bundled if row["depth"] == 1][:30]


def test_evidence_of_what_cannot_be_inferred_is_two_realisations(bundled):
    for row in bundled:
        witnesses = row["evidence"]["witnesses"]
        if row["relation"].endswith("_UN"):
            assert row["evidence"]["kind"] == "counterexample"
            assert len({witness["answer"] for witness in witnesses}) == 2
            assert all(witness["points"].keys() == row["scene"]["points"].keys() for witness in witnesses)
        else:
            assert row["evidence"]["kind"] in ("identity", "exhaustion")
            assert not witnesses
            assert row["evidence"]["realisations"] >= 8


def claimed(row):
    asked = row["scene"]["query"]
    steps = tuple(map(tuple, row["scene"]["steps"]))
    return Claim(steps, asked["kind"], tuple(asked["arguments"]), row["relation"], tuple(asked["offered"]))


def test_bundled_labels_are_those_of_the_oracle(bundled):
    for row in bundled[::40]:
        assert label_of(claimed(row)) == row["relation"], row["question"]


@pytest.mark.slow
def test_four_hundred_further_realisations_agree_with_every_bundled_label(bundled):
    """They found wrong labels of earlier versions, up to one in a hundred."""
    for row in bundled:
        if row["evidence"]["kind"] == "counterexample":
            continue
        scene, query = typed(claimed(row))
        for found in map(scene.realisation, range(20_000, 20_400)):
            if found is not None:
                answer = answer_of(scene, query, found.points)
                assert QUESTIONS[query.kind].codes[answer] == row["relation"], row["question"]


@pytest.mark.parametrize(
    "source, message",
    [
        ("trimtab:geomrel/heldout", "splits are train and test, not 'heldout'"),
        ("trimtab:geomrel/test?seed=3", "the test rows are fixed"),
        ("trimtab:geomrel/train?deepest=6", "deepest is 1 to 5, not 6"),
        ("trimtab:geomrel/test?deepest=0", "deepest is 1 to 5, not 0"),
        ("trimtab:geomerl/test", "did you mean 'trimtab:geomrel'"),
    ],
)
def test_a_mistake_in_the_source_is_explained(source, message):
    with pytest.raises(DataError, match=message):
        load_rows(source)


def test_a_depth_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"depths are 1 to 5, not \[6\]"):
        next(items.generate(depths=(6,)))


# ---------------------------------------------------------------- suite


def test_default_items_are_the_bundled_rows(bundled):
    found = make(GeomRelOptions())
    assert len(found) == 2000
    assert found == make(GeomRelOptions())
    for item, row in zip(found, bundled):
        assert item.target == (row["answer"],)
        assert item.options == row["options"]
        assert wording.CHOICES not in item.text
        assert item.groups == {"relation": row["relation"], "level": row["level"], "depth": str(row["depth"])}
    assert len({item.id for item in found}) == 2000


@pytest.mark.slow
def test_filters_and_sizes():
    assert len(make(GeomRelOptions(rows=30))) == 30
    assert {item.groups["depth"] for item in make(GeomRelOptions(depths=(2, 3)))} == {"2", "3"}
    assert {item.groups["depth"] for item in make(GeomRelOptions(level="basic"))} == {"1"}
    new = make(GeomRelOptions(seed=5, rows=12, depths=(1, 2), level="advanced"))
    assert len(new) == 12
    assert {item.groups["depth"] for item in new} == {"2"}
    assert not {item.text for item in new} & {item.text for item in make(GeomRelOptions())}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"depths": (7,)}, "depths are 1 to 5"),
        ({"level": "basic", "depths": (2,)}, "no row has level basic and depths"),
        ({"folder": ".", "seed": 1}, "folder cannot go with seed or depths"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(SuiteError, match=message):
        make(GeomRelOptions(**options))


def test_an_unknown_setting_is_named():
    with pytest.raises(SuiteError, match="did you mean 'depths'"):
        suites.check("geomrel", {"depht": 2})


def test_it_is_found_and_the_robust_parser_gives_the_headline():
    suite = suites.load("geomrel")
    assert suites.summary("geomrel").startswith("GeomRel")
    item = make(GeomRelOptions(rows=1))[0]
    assert list(suite.score(item, "")) == ["robust", "official"]
    right = suite.score(item, f"Answer: {item.target[0]}")["robust"]
    assert right == (item.target[0], 1.0)
    assert suite.score(item, "no idea")["robust"] == (None, None)


def test_the_bare_prompt_asks_as_the_rows_do(bundled):
    (ask,) = suites.load("geomrel").prompts["bare"]
    for item, row in zip(make(GeomRelOptions(rows=200)), bundled):
        assert ask(item, ()) == [{"role": "user", "content": row["question"]}]


@pytest.mark.slow
def test_majority_is_far_below_one():
    found = baselines(suites.load("geomrel"), make(GeomRelOptions()))
    assert 0.25 < found["random"] < 0.35
    assert found["majority answer"] < 0.5


# ---------------------------------------------------------------- parsers


@table(
    "text, ours, theirs",
    [
        ("Answer: B.", "B", "B"),
        ("B", "B", None),
        ("(B)", "B", None),
        ("**Answer: C**", "C", None),
        (r"so \boxed{D}", "D", None),
        (r"\boxed{\text{A}}. The answer is B.", "A", "B"),
        ("The answer is A. No, the correct answer is C.", "C", "C"),
        ("the answer is b", "B", None),
        ("The answer is a right angle", None, None),
        ("The answer is a question of taste.\nB. Perpendicular", "B", "B"),
        ("Look at line AB.", None, "B"),
        ("Let M be point M. Hence they are perpendicular.", "B", "M"),
        ("They are intersecting but not perpendicular.", "C", None),
        ("They could be parallel or perpendicular.", None, None),
        ("Answer: E.", None, "E"),
        ("The answer cannot be inferred.", "D", None),
        ("", None, None),
        ("D) Cannot be inferred", "D", None),
        ("Option C is right", "C", None),
        ("A line AB is given.", None, None),
        ("My choice is (A), since AB and CD never meet.", "A", None),
    ],
)
def test_both_parsers_on_answers_as_models_write_them(text, ours, theirs):
    assert (letter_of(text, LINES), official(text)) == (ours, theirs)


PIECES = st.sampled_from(
    ["answer", "Answer:", "is", "A", "B", "(C)", "D.", "E", "Z.", r"\boxed{", "}", "B}", "choice", "**", "\n", " ", ".",
     "parallel", "Perpendicular", "Cannot be inferred", "not", "option", "a", "ä", "\x00", "🙂", "[", "\\"]
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=25).map(" ".join), st.lists(PIECES, max_size=25).map("".join))


def fuzz(text):
    for options in (LINES, {"A": "Yes", "B": "No", "C": "Cannot be inferred"}, {}):
        found = letter_of(text, options)
        assert found is None or found in options
    found = official(text)
    assert found is None or (len(found) == 1 and found in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_no_text_makes_a_parser_fail_or_leave_the_options(text):
    fuzz(text)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(TEXTS)
def test_no_text_of_ten_thousand_makes_a_parser_fail(text):
    fuzz(text)


# ---------------------------------------------------------------- reward


def test_options_that_a_table_filled_up_are_not_offered():
    options = {"A": "Yes", "B": "No", "C": "Cannot be inferred", "D": None, "E": None}
    assert rewarded(["Answer: D", "No"], answer=["A", "B"], options=[options] * 2) == [0.0, 1.0]


def test_rewards_of_the_rows_own_answers_are_one(train):
    completions = [row["messages"][1]["content"] for row in train]
    columns = {key: [row[key] for row in train] for key in ("answer", "options", "relation")}
    assert rewarded(completions, **columns) == [1.0] * len(train)


def rewarded(completions, **columns):
    return rewards.load("choice")(["?"] * len(completions), completions, **columns)


# ---------------------------------------------------------------- drawings


def test_a_drawing_shows_each_point_once_at_its_place():
    for item in make(GeomRelOptions(rows=40)):
        root = ElementTree.fromstring(draw(item))
        letters = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
        assert sorted(letters) == sorted(item.data["scene"]["points"])
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for node in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert -1 <= float(node.attrib["cx"]) <= width + 1
            assert -1 <= float(node.attrib["cy"]) <= height + 1


def test_a_square_is_drawn_as_a_square():
    points = {"A": ["0", "0"], "B": ["1", "0"], "C": ["1", "1"], "D": ["0", "1"]}
    query = {"kind": "line-line", "arguments": ["AB", "CD"], "offered": []}
    scene = {"steps": [["square", "ABCD"]], "unit": 1, "points": points, "query": query}
    item = geomrel.Item("x", "1 < 2 & more", data={"scene": scene})
    text = draw(item)
    assert "&lt; 2 &amp; more" in text
    corners = re.search(r'points="([^"]+)"', text)[1].split()
    assert corners == ["24.0,236.0", "236.0,236.0", "236.0,24.0", "24.0,24.0", "24.0,236.0"]


def test_an_official_row_has_no_drawing():
    assert "no scene" in draw(geomrel.Item("x", "text"))


# ---------------------------------------------------------------- the authors' files

ROW = {
    "question": "PQRS is a square, T is the midpoint of PR. What is the relationship between line QT and line PR?\n"
    "Answer choices: A. Parallel B. Perpendicular C. Intersecting but not perpendicular D. Cannot be inferred",
    "answer": "B",
    "relation": "LL_PE",
}


def official_files(folder, **rows):
    for name, found in rows.items():
        path = folder / name.replace("__", "/")
        path = path.with_suffix(".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def test_rows_of_the_authors_are_read_under_all_their_names(tmp_path):
    problem = {
        "relation": "LP_CO",
        "answer": "A",
        "problem": "E is on AC. Collinear?\nAnswer choices:A. Yes B. No C. ?.",
    }
    tuned = {"prompt": ROW["question"] + ".", "source": "linesbase", "gold": "B. Perpendicular", "relation": "LL_PE"}
    official_files(tmp_path, basic__linesbase=[ROW], advanced__lines=[problem], ft__test=[tuned])
    found = {row["source"]: row for row in load(tmp_path)}
    assert len(load(tmp_path)) == 3
    assert found["lines"]["options"] == {"A": "Yes", "B": "No", "C": "?"}
    assert found["lines"]["text"] == "E is on AC. Collinear?"
    assert found["lines"]["level"] == "advanced"
    for row in load(tmp_path):
        if row["source"] == "linesbase":
            assert row["options"] == LINES
            assert (row["answer"], row["level"]) == ("B", "basic")
    got = make(GeomRelOptions(folder=tmp_path, level="basic"))
    assert [item.groups["relation"] for item in got] == ["LL_PE", "LL_PE"]
    assert got[0].groups["depth"] == "unknown"
    assert wording.CHOICES not in got[0].text
    assert score(got[0], "Answer: B")["robust"].value == 1.0


@pytest.mark.parametrize(
    "row, message",
    [
        (
            {"text": "x", "answer": "A"},
            "row 1 has no text under question, problem or prompt, but the keys text, answer",
        ),
        ({"question": "x", "answer": "A"}, 'question has no options after "Answer choices:"'),
        ({**ROW, "answer": "E"}, "answer is 'E', which is none of the options A, B, C, D"),
        ({**ROW, "answer": None}, "answer is None"),
    ],
)
def test_a_row_that_is_not_as_expected_is_named_with_the_way_out(tmp_path, row, message):
    official_files(tmp_path, linesbase=[row])
    with pytest.raises(DataError, match=re.escape(message)) as raised:
        load(tmp_path)
    assert "linesbase.jsonl" in str(raised.value)
    assert "clone the authors' repository" in str(raised.value)


def test_a_folder_without_files_says_how_to_get_them(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="holds no .jsonl file of GeomRel; clone the authors'"):
            load(folder)


# ---------------------------------------------------------------- labels of the authors

FLAWS = [  # (claim as the official pools have it, what the oracle says)
    # perpendicular, but in the pool of parallel lines
    (
        Claim((("triangle", "ABE"), ("perpendicular through P", "ABEF")), "line-line", ("AB", "EF"), "LL_PA"),
        "LL_PE",
    ),
    # one line is named and another asked about
    (
        Claim((("triangle", "ABP"), ("parallel through P", "ABPC"), ("some point", "ABE"), ("some point", "ABF")),
              "line-line", ("AB", "EF"), "LL_PA"),
        "LL_UN",
    ),
    # a radius is inside its circle
    (Claim((("chord", "PQO"),), "segment-shape", ("OP", "OP"), "SL_UN"), "SL_IN"),
    # a point between the ends of an interior segment is inside
    (Claim((("triangle with median", "ABCM"), ("between", "CMP")), "point-shape", ("P", "ABC"), "SP_UN"), "SP_IN"),
    # angles at one crossing do not depend on the other line
    (
        Claim((("crossing lines", "ABEFG"), ("second line, sides unknown", "ABEFGCDH")), "angles at a transversal",
              ("AGE", "BGF", "ABEFGCDH"), "AA_UN"),
        "AA_VER",
    ),
    # the foot of an altitude may lie outside
    (Claim((("triangle with altitude", "ABCH"),), "segment-shape", ("CH", "ABC"), "SL_IN"), "SL_UN"),
    # a scalene triangle may have a right angle
    (Claim((("scalene triangle", "ABC"),), "line-line", ("AB", "BC"), "LL_INT"), "LL_UN"),
    # segments named as diagonals that are sides
    (Claim((("quadrilateral", "WXYZ"),), "diagonal", ("WZ", "WXYZ"), "SL_YSP"), "SL_NSP"),
]  # fmt: skip


@pytest.mark.parametrize("claim, wanted", FLAWS)
def test_the_flaws_that_were_seen_in_the_official_pools_have_other_labels(claim, wanted):
    assert label_of(claim) == wanted != claim.relation


def test_premises_that_contradict_each_other_have_no_label():
    claim = Claim((("square", "ABCD"), ("meeting point", "ABCDS")), "line-line", ("AS", "BC"), "LL_PE")
    with pytest.raises(Undecided, match="no realisation"):
        label_of(claim)


def test_coordinates_are_exact():
    row = next(items.generate(1, (2,)))
    for x, y in row["scene"]["points"].values():
        assert str(Fraction(x)) == x
        assert str(Fraction(y)) == y


def test_answers_are_written_in_the_official_order():
    for row in islice(items.generate(2, (1, 2)), 40):
        kind = row["scene"]["query"]["kind"]
        texts = list(row["options"].values())
        if kind not in wording.SHUFFLED and texts[0] != "Inside":
            offered = [QUESTIONS[kind].answers[name] for name in (*QUESTIONS[kind].answers,)]
            assert texts == offered
        assert texts[-1] == QUESTIONS[kind].answers[CANNOT]
