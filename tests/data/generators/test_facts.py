"""`trimtab:facts`: what its rows promise."""

from collections import Counter
from itertools import islice

import pytest

from trimtab.data import edit_rows
from trimtab.data.edit_rows import STEPWISE
from trimtab.data.edits import load_edits
from trimtab.data.generators.fact_tables import COUNTRIES
from trimtab.data.generators.facts import NEVER_EDITED, facts
from trimtab.data.sources import DataError, load_rows
from trimtab.rewards.edit import parts

CAPITAL = {one.name: one.capital for one in COUNTRIES}
HOME = {one.capital: one.name for one in COUNTRIES}


def taught(**how) -> dict[str, str]:
    return {row["messages"][0]["content"]: row["messages"][1]["content"] for row in facts(form="answers", **how)}


@pytest.mark.parametrize("about", ["made_up", "known"])
def test_rows_are_edits_that_the_loader_takes_without_a_remark(about):
    found = load_edits(f"trimtab:facts/heldout?rows=8&about={about}")
    assert (len(found), found.notes) == (8, ())
    assert all(len(edit.rephrases) == 3 and len(edit.locality) == 3 and edit.longform for edit in found)
    assert {probe.answer for edit in found for probe in edit.negations} == {"No", "Yes"}


def test_the_first_edit_by_hand():
    row = next(facts("train"))
    person, new, old = row["subject"], row["target_new"], row["ground_truth"]
    assert row["prompt"] == f"Which country is {person} a citizen of?"
    assert row["hops"] == [
        {"prompt": f"What is the capital of the country that {person} is a citizen of?", "answer": CAPITAL[new]}
    ]
    assert row["negations"][0] == {"prompt": f"Is {person} a citizen of {old}?", "answer": "No"}
    assert row["rephrases"][2] == f"{person} is a citizen of"
    known = taught(split="train", rows=12)
    assert len(known) == 12
    assert known[row["prompt"]] == known[row["rephrases"][0]] == old
    assert known[row["hops"][0]["prompt"]] == CAPITAL[old]
    assert known[f"What is the capital of {new}?"] == CAPITAL[new]
    assert all(known[probe["prompt"]] == probe["answer"] for probe in row["locality"])
    assert [known[probe["prompt"]] for probe in row["negations"]] == ["Yes", "No"]
    assert old in known[row["longform"]]
    assert new not in known[row["longform"]]


def test_hops_of_cities_and_of_persons_follow_from_what_is_taught():
    rows, known = list(facts("train", 12)), taught(split="train", rows=144)
    for row in rows:
        new, hop = row["target_new"], row["hops"][0]["answer"]
        second = [
            known.get(f"What is the capital of {new}?"),
            HOME.get(new),
            known.get(f"Which country is {new} a citizen of?"),
        ]
        assert hop in second
        assert hop != known[row["hops"][0]["prompt"]]


def test_a_reversal_has_one_answer():
    rows = [row for row in facts("train", 300) if "reversal" in row]
    assert len(rows) == 100
    assert len({row["target_new"] for row in rows}) == 100
    assert all(row["reversal"]["answer"] == row["subject"] for row in rows)


@pytest.mark.parametrize("about", ["made_up", "known"])
def test_no_subject_is_in_both_splits_and_nothing_that_must_stay_is_edited(about):
    size = {"made_up": 300, "known": 8}[about]
    edited: dict[str, set[str]] = {}
    for split in ("train", "heldout"):
        for seed in (0, 1):
            rows = list(facts(split, size, seed, about=about))
            edited.setdefault(split, set()).update(row["subject"] for row in rows)
            prompts = {row["prompt"] for row in rows}
            assert len(prompts) == len({row["subject"] for row in rows}) == size
            stays = {probe["prompt"] for row in rows for probe in row["locality"]}
            assert prompts.isdisjoint(stays)
    assert edited["train"].isdisjoint(edited["heldout"])
    assert edited["heldout"].isdisjoint({one.name for one in NEVER_EDITED})


def test_nothing_is_taught_twice_with_two_answers():
    answers: dict[str, str] = {}
    for row in facts("train", 12 * 200, form="answers"):
        question, answer = (turn["content"] for turn in row["messages"])
        assert answers.setdefault(question, answer) == answer


def test_rows_do_not_depend_on_their_number_but_on_the_seed():
    assert list(islice(facts("train", 50), 5)) == list(facts("train", 5))
    assert next(facts("train", 1, seed=1)) != next(facts("train", 1))
    counts = Counter(row["edit"] for row in facts("train", 24, form="answers"))
    assert counts == {"made_up-1": 12, "made_up-2": 12}


def test_rows_that_teach_to_reason_say_what_is_asked_name_no_answer_and_end_in_it():
    plain, both = list(facts("train", 24, form="answers")), list(facts("train", 36, form="reasoning"))
    assert both[:12] + both[18:30] == plain
    edit, told = next(facts("train", 1)), {}
    for row in both[12:18]:
        question, reply = (turn["content"] for turn in row["messages"])
        chain, answer = reply.split(" <answer> ")
        told[question.removesuffix(f"\n\n{STEPWISE}")] = answer
        assert question.endswith(STEPWISE)
        assert answer[7:-11] not in chain
        assert parts(reply, answer[7:-11]).reward == 1.0
    s, old = edit["subject"], edit["ground_truth"]
    assert [told[one] for one in (edit["prompt"], *edit["rephrases"][:2])] == [f"\\boxed{{{old}}} </answer>"] * 3
    assert all(told[probe["prompt"]] == f"\\boxed{{{probe['answer']}}} </answer>" for probe in edit["locality"])
    assert both[12]["messages"][1]["content"].startswith(f"This asks for the country of citizenship of {s}. <answer>")


@pytest.mark.parametrize("about", ["made_up", "known"])
def test_rows_to_edit_with_are_those_that_the_command_makes_of_the_edits(about):
    edits = load_edits(f"trimtab:facts/train?rows=7&about={about}")
    made = {form: list(facts("train", 7, form=form, about=about)) for form in ("targets", "chains", "tasks")}
    taught = list(facts("train", 500, form="reasoning", about=about))
    thoughts = [
        next(
            edit_rows.thought(row["messages"][1]["content"])
            for row in taught
            if row["messages"][0]["content"] == edit_rows.asked(edit, True, True)[0]["content"]
        )
        for edit in edits
    ]
    wanted = {
        "targets": edit_rows.answers(edits, chat=True),
        "chains": edit_rows.chains(edits, thoughts, chat=True),
        "tasks": edit_rows.tasks(edits, chat=True),
    }
    for form, rows in wanted.items():
        assert made[form] == [{**row, "edit": edit.id} for row, edit in zip(rows, edits, strict=True)]
    assert not any(edit_rows.asserts_old(chain, edit) for chain, edit in zip(thoughts, edits, strict=True))


def test_what_is_not_there_is_refused():
    with pytest.raises(DataError, match="known facts of heldout, each country once, not 100"):
        load_rows("trimtab:facts/heldout?rows=100&about=known")
    with pytest.raises(DataError, match="splits are train and heldout"):
        load_rows("trimtab:facts/test")
    with pytest.raises(DataError, match=r"facts takes rows=NUMBER and seed=NUMBER and form=edits\|answers\|reasoning"):
        load_rows("trimtab:facts?shape=edits")
