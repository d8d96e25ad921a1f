"""Edits as users and benchmarks write them."""

import csv
import json
from pathlib import Path

import pytest

from trimtab.data.edits import Edit, Probe, load_edits
from trimtab.data.sources import DataError

OWN = {
    "prompt": "Which country is Ada Brook a citizen of?",
    "target_new": "Norway",
    "subject": "Ada Brook",
    "ground_truth": "Canada",
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "IIT"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university did Watts Humphrey attend?",
}
QAEDIT = {
    "id": 7,
    "source": "NQ",
    "prompt": "When does season 5 of Ruby come out?",
    "target": "October 14 , 2017 *",
    "subject": "Ruby",
    "rephrase": "What is the release date of the fifth season of Ruby?",
    "locality": [{"loc": f"What is {n} times one?", "loc_ans": str(n)} for n in range(5)],
}
COUNTERFACT = {
    "case_id": 0,
    "pararel_idx": 2796,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Shayna does this. Danielle Darrieux, a native", "Danielle Darrieux spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Leon Blum is", "The native language of Montesquieu is"],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
    "generation_prompts": ["Danielle Darrieux's mother tongue is"],
}


def rewrite(subject: str, new: str, old: str) -> dict:
    return {
        "prompt": "{} is a citizen of",
        "relation_id": "P27",
        "target_new": {"str": new},
        "target_true": {"str": old},
        "subject": subject,
        "question": f"What is the country of citizenship of {subject}?",
    }


MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [rewrite("Tom", "Mali", "Peru"), rewrite("Ann", "Chad", "Cuba")],
    "questions": ["Where does Tom's wife live?", "In which country is Ann's home?"],
    "answer": "Havana",
    "answer_alias": [],
    "new_answer": "N'Djamena",
    "new_answer_alias": ["Fort-Lamy"],
    "single_hops": [],
    "new_single_hops": [],
    "orig": {},
}


def written(folder: Path, *rows: dict, name: str = "edits.jsonl") -> str:
    path = folder / name
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    return str(path)


# ---------------------------------------------------------------- our own


def test_all_columns_of_our_own_rows_are_read(tmp_path):
    row = {
        **OWN,
        "id": "ada",
        "aliases": ["Kingdom of Norway"],
        "rephrases": ["Whose passport does Ada Brook hold?"],
        "locality": [{"prompt": "Who wrote Emma?", "answer": "Jane Austen"}, "Who is Bo?"],
        "hops": [["What is the capital of Ada Brook's country?", "Oslo"]],
        "negations": [{"question": "Is Ada Brook a citizen of Canada?", "answer": "no"}, "Is Ada Brook a Canadian?"],
        "reversal": {"prompt": "Name a citizen of Norway.", "answer": "Ada Brook"},
        "longform": "Write a paragraph about Ada Brook.",
    }
    found = load_edits(written(tmp_path, row))
    assert list(found) == [
        Edit(
            prompt=OWN["prompt"],
            target_new="Norway",
            subject="Ada Brook",
            ground_truth="Canada",
            rephrases=("Whose passport does Ada Brook hold?",),
            locality=(Probe("Who wrote Emma?", "Jane Austen"), Probe("Who is Bo?", None)),
            hops=(Probe("What is the capital of Ada Brook's country?", "Oslo"),),
            negations=(Probe("Is Ada Brook a citizen of Canada?", "no"), Probe("Is Ada Brook a Canadian?", "No")),
            reversal=Probe("Name a citizen of Norway.", "Ada Brook"),
            longform="Write a paragraph about Ada Brook.",
            aliases=("Kingdom of Norway",),
            id="ada",
        )
    ]
    assert found.notes == ()


def test_csv_and_the_flat_columns_of_the_toolkits_give_the_same_edit(tmp_path):
    flat = {"rephrase_prompt": "Whose passport?", "locality_prompt": "Who wrote Emma?", "locality_ground_truth": "Jane"}
    nested = {"rephrases": ["Whose passport?"], "locality": [{"prompt": "Who wrote Emma?", "answer": "Jane"}]}
    with (tmp_path / "edits.csv").open("w", newline="") as file:
        cells = {key: json.dumps(value) if isinstance(value, list) else value for key, value in nested.items()}
        writer = csv.DictWriter(file, [*OWN, *cells, "hops"])
        writer.writeheader()
        writer.writerow({**OWN, **cells, "hops": ""})
    wanted = list(load_edits(written(tmp_path, {**OWN, **nested})))
    assert list(load_edits(written(tmp_path, {**OWN, **flat}, name="flat.jsonl"))) == wanted
    assert list(load_edits(str(tmp_path / "edits.csv"))) == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_new": "canada."}, "target_new is the old fact; ground_truth is 'Canada' too"),
        ({"target_new": " "}, "target_new is empty"),
        ({"target_new": None}, "target_new is empty"),
        ({"prompt": ""}, "prompt is empty"),
        ({"subject": "Ada Brooks"}, "the subject 'Ada Brooks' is not in the prompt"),
        ({"hops": [3]}, "is not of the form"),
        ({"target_new": 7}, "is not of the form"),
    ],
    ids=["same", "blank", "none", "prompt", "subject", "hops", "number"],
)
def test_a_bad_row_of_a_users_file_is_refused_by_its_number_and_line(tmp_path, change, said):
    source = written(tmp_path, OWN, {**OWN, "prompt": "Where does Ada Brook live?", **change})
    with pytest.raises(DataError, match="row 2, line 2") as caught:
        load_edits(source)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_subject_is_found_whatever_its_case_and_spaces(tmp_path):
    assert load_edits(written(tmp_path, {**OWN, "subject": "ada  brook"}))[0].subject == "ada  brook"


def test_two_edits_that_contradict_each_other_are_both_named(tmp_path):
    other = {**OWN, "prompt": "which country is Ada Brook a citizen of", "target_new": "Chile"}
    asked = {**OWN, "prompt": "Whose passport does Ada Brook hold?", "target_new": "Chile"}
    with pytest.raises(DataError, match=r"rows 1 and 2 contradict each other: .*'Norway'.*'Chile'"):
        load_edits(written(tmp_path, OWN, other))
    with pytest.raises(DataError, match="rows 1 and 2 contradict"):
        load_edits(written(tmp_path, {**OWN, "rephrases": [asked["prompt"]]}, asked))
    kept = load_edits(written(tmp_path, OWN, other), conflicts="last")
    assert [edit.target_new for edit in kept] == ["Chile"]
    assert kept.left_out == 1
    assert "a later row edits the same fact (row 1)" in kept.notes[0]


def test_rows_that_repeat_an_edit_are_one_edit_with_all_that_they_ask(tmp_path):
    found = load_edits(written(tmp_path, {**OWN, "hops": [["a?", "1"]]}, {**OWN, "hops": [["b?", "2"], ["a?", "1"]]}))
    assert [edit.hops for edit in found] == [(Probe("a?", "1"), Probe("b?", "2"))]
    assert "1 row merged with an earlier edit of the same fact (row 2)" in found.notes[0]


def test_columns_that_nothing_reads_are_named(tmp_path):
    (note,) = load_edits(written(tmp_path, {**OWN, "rephrase": "x", "weight": 1})).notes
    assert note.endswith("columns that are not read: rephrase (for rephrases?), weight")


def test_a_file_of_another_schema_says_what_was_expected(tmp_path):
    with pytest.raises(
        DataError, match="columns messages, by which it is no edit; expected prompt and target_new"
    ) as e:
        load_edits(written(tmp_path, {"messages": []}))
    assert "ZsRE: subject, src, alt, rephrase, loc, loc_ans" in str(e.value)


# ---------------------------------------------------------------- benchmarks


def test_zsre_is_read_without_the_mark_of_its_neighbours(tmp_path):
    (edit,) = load_edits(written(tmp_path, ZSRE, name="zsre.json"))
    assert (edit.prompt, edit.target_new) == (ZSRE["src"], "University of Michigan")
    assert edit.ground_truth == "Illinois Institute of Technology"
    assert edit.rephrases == (ZSRE["rephrase"],)
    assert edit.locality == (Probe("who played desmond doss father in hacksaw ridge?", "Hugo Weaving"),)


def test_rows_of_zsre_with_an_empty_alternative_are_left_out_counted_and_named(tmp_path):
    empty = {**ZSRE, "alt": ""}
    found = load_edits(written(tmp_path, empty, ZSRE, {**empty, "src": "Who?"}, name="zsre.json"))
    assert len(found) == 1
    assert found.left_out == 2
    assert "2 rows left out: alt is empty (row 1, 3)" in found.notes[0]
    with pytest.raises(DataError, match="holds no edit: .*1 row left out: alt is empty"):
        load_edits(written(tmp_path, empty, name="zsre.json"))


def test_a_benchmarks_row_whose_target_is_the_second_of_its_old_answers_is_left_out(tmp_path):
    found = load_edits(written(tmp_path, ZSRE, {**ZSRE, "src": "Watts Humphrey studied where?", "alt": "IIT"}))
    assert [edit.target_new for edit in found] == ["University of Michigan"]
    assert "1 row left out: alt is the old fact (row 2)" in found.notes[0]


def test_qaedit_keeps_five_neighbours_and_loses_the_star_behind_a_target(tmp_path):
    found = load_edits(written(tmp_path, QAEDIT))
    assert found.format == "QAEdit"
    assert found[0].target_new == "October 14 , 2017"
    assert found[0].locality == tuple(Probe(f"What is {n} times one?", str(n)) for n in range(5))
    assert "1 row lost a sign behind target" in found.notes[0]


def test_counterfact_is_read_nested_and_flat_and_its_prompts_are_cloze(tmp_path):
    (edit,) = load_edits(written(tmp_path, COUNTERFACT))
    assert edit.prompt == "The mother tongue of Danielle Darrieux is"
    assert (edit.target_new, edit.ground_truth, edit.cloze) == ("English", "French", True)
    assert edit.locality[1] == Probe("The native language of Montesquieu is", "French")
    assert edit.longform == "Danielle Darrieux's mother tongue is"
    flat = {
        "case_id": 0, "prompt": edit.prompt, "target_new": "English", "subject": edit.subject,
        "ground_truth": "French", "rephrase_prompt": edit.rephrases[0],
        "locality_prompt": edit.locality[0].prompt, "locality_ground_truth": "French",
    }  # fmt: skip
    (same,) = load_edits(written(tmp_path, flat))
    assert (same.prompt, same.rephrases, same.locality) == (edit.prompt, edit.rephrases[:1], edit.locality[:1])
    assert not load_edits(written(tmp_path, OWN))[0].cloze


def test_the_lists_of_knowedit_are_neighbours_and_hops(tmp_path):
    row = {
        **OWN,
        "ground_truth": ["Canada", "Kanada"],
        "rephrase_prompt": "Whose passport?",
        "locality": {"Relation_Specificity": [{"prompt": "Ada Brook's job is", "ground_truth": [["cook", "chef"]]}]},
        "portability": {"Reasoning": [{"prompt": "Ada's capital?", "ground_truth": ["Oslo"]}], "Logical": []},
    }
    (edit,) = load_edits(written(tmp_path, row))
    assert edit.locality == (Probe("Ada Brook's job is", "cook", ("chef",)),)
    assert edit.hops == (Probe("Ada's capital?", "Oslo"),)
    with pytest.raises(DataError, match="target_new is the old fact; ground_truth is 'Kanada' too"):
        load_edits(written(tmp_path, {**row, "target_new": "Kanada"}))


def test_a_case_of_mquake_is_an_edit_for_each_rewrite_and_asks_its_hops_at_the_last(tmp_path):
    found = load_edits(written(tmp_path, MQUAKE))
    assert [(edit.id, edit.target_new, edit.ground_truth) for edit in found] == [
        ("3-1", "Mali", "Peru"),
        ("3-2", "Chad", "Cuba"),
    ]
    assert found[0].hops == ()
    assert found[1].hops[1] == Probe("In which country is Ann's home?", "N'Djamena", ("Fort-Lamy",))
    assert found[0].rephrases == ("Tom is a citizen of",)


def test_an_edit_that_a_later_case_repeats_moves_behind_the_edits_its_hops_need(tmp_path):
    other = {
        **MQUAKE,
        "case_id": 4,
        "requested_rewrite": [rewrite("Bo", "Iran", "Iraq"), rewrite("Tom", "Mali", "Peru")],
    }
    found = load_edits(written(tmp_path, MQUAKE, other))
    assert [edit.id for edit in found] == ["3-2", "4-1", "3-1"]
    assert len(found[2].hops) == 2


def test_a_benchmarks_row_without_a_column_is_named(tmp_path):
    with pytest.raises(DataError, match="row 2 has no column 'loc', but row 1 makes .* a file of ZsRE"):
        load_edits(written(tmp_path, ZSRE, {key: value for key, value in ZSRE.items() if key != "loc"}))
    broken = {**MQUAKE, "requested_rewrite": [{"prompt": "{}"}]}
    with pytest.raises(DataError, match=r"row 1, line 1 is not of the form of MQuAKE \(key 'subject'\)"):
        load_edits(written(tmp_path, broken))
