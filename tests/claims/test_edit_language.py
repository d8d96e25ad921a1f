"""The comparison of editors: what it asks and counts, and the script from end to end with tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

import edit_language
import pytest
from edit_language import TUNING_SEED, Bench, Sizes, by_edit, write_edits

import tiny_folder
from trimtab.data.edits import load_edits
from trimtab.report.evaluation import Evaluation


def test_rates_are_chosen_on_facts_that_no_seed_edits(tmp_path):
    bench = Bench(tmp_path, Sizes())
    asked = {seed: {one.prompt for one in load_edits(str(bench.edits(seed))).edits} for seed in (TUNING_SEED, 0, 1, 2)}
    assert [len(asked[seed]) for seed in asked] == [10, 20, 20, 20]
    subjects = {
        seed: {one.subject for one in load_edits(str(bench.edits(seed))).edits} for seed in (TUNING_SEED, 0, 1, 2)
    }
    assert not subjects[TUNING_SEED] & (subjects[0] | subjects[1] | subjects[2])


def test_edits_keep_a_rephrase_two_neighbours_and_their_hops(tmp_path):
    (known, made_up) = (
        write_edits(tmp_path / f"{about}.jsonl", "train", 3, 0, about) for about in ("known", "made_up")
    )
    assert {(len(one.rephrases), len(one.locality)) for one in load_edits(str(known)).edits} == {(1, 2)}
    assert {(len(one.rephrases), len(one.locality), len(one.hops)) for one in load_edits(str(made_up)).edits} == {
        (1, 1, 0)
    }


def row(edit, kind, value, known=False):
    item = {"data": {"edit": edit, "known": known}, "groups": {"probe": kind}, "target": ["x"]}
    return {"item": item, "verdicts": {"contains": {"parsed": "x", "value": value}}}


def test_what_was_said_before_counts_for_its_neighbours_alone():
    rows = [
        row("a", "reliability", 1.0),
        row("b", "reliability", 1.0, known=True),
        row("b", "locality", 0.0, known=True),
    ]
    rows += [row("a", "locality", 1.0), row("a", "locality", 0.0)]
    found = Evaluation(Path(), {}, [], dict(enumerate(rows)))
    assert by_edit(found, "reliability") == {"a": 1.0}
    assert by_edit(found, "locality") == {"a": 0.5, "b": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["methods", "curve"])
def test_the_script_runs_from_end_to_end(what, tmp_path):
    model = tiny_folder.save(tmp_path / "model", max_position_embeddings=2048)
    out = tmp_path / "result.json"
    command = [sys.executable, edit_language.__file__, what, "--smoke", str(model), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    if what == "curve":
        assert [(one["method"], one["edits"]) for one in written["curve"]] == [
            (method, edits) for method in ("locft_bf", "lora") for edits in (0, 2, 4)
        ]
        return
    assert written["rates"].keys() == edit_language.RATES.keys()
    assert written["means"].keys() == {"before", *edit_language.RATES, "etcon, stage 1"}
    assert len(written["per_seed"]) == 3 * 6


def test_runs_of_several_calls_have_one_mean_over_seeds():
    rows = [{"method": "etcon", "seed": seed, "locality": value} for seed, value in enumerate((0.2, 0.5, 0.8))]
    found = edit_language.over_all_seeds([*rows, {"method": "lora", "seed": 0, "rate": 1e-3, "locality": 1.0}])
    half = 4.302653 * 0.3 / 3**0.5  # Student's t with two degrees of freedom
    assert found["etcon"] == {"locality": pytest.approx([0.5, 0.5 - half, 0.5 + half])}
    assert found["lora"]["locality"][0] == 1.0
