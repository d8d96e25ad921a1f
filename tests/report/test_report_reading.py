import json

import pytest
from run_folders import METHOD, METRICS, SAMPLES, event, heldout, rows, write_run

from trimtab.report import ReportError, load
from trimtab.report.reading import distinct_names


def append(path, text):
    with path.open("ab") as file:
        file.write(text)


def test_a_run_folder_is_read_whole(tmp_path):
    run = load(write_run(tmp_path / "a"))
    assert run.name == "a"
    assert run.recipe["models"]["teacher"] == "smollm2-135m"
    assert run.signature["policy"] == "tiny 9ba1684f9789bbcb"
    assert run.method == METHOD
    assert run.data == {"train": {"rows": 100}, "heldout": {"rows": 4}}
    assert [(e["step"], e["loss"]) for e in run.train] == [(1, 3.0), (2, 2.0)]
    assert [e["step"] for e in run.evals] == [0, 2]
    assert sorted(run.heldout) == [0, 2]
    assert run.heldout[2][3]["nll"] == 10.0
    assert run.generations == {0: [("Name a colour.", "the the the")], 2: [("Name a colour.", "Blue.")]}
    assert run.finished is not None
    assert run.finished["seconds"] == 12.5
    assert (run.interrupted, run.resumes, run.steps) == (None, [], 2)


def test_steps_after_a_resume_point_are_superseded(tmp_path):
    metrics = [
        event("eval", 0, nll=2.0),
        event("train", 1, loss=1.0),
        event("train", 2, loss=2.0),
        event("train", 3, loss=3.0),
        event("eval", 3, nll=1.5),
        event("interrupted", 3),
        event("resume", 2),
        event("train", 3, loss=30.0),
        event("train", 4, loss=40.0),
        event("eval", 4, nll=1.0),
    ]
    samples = [
        heldout(0, 0, tokens=5, nll=10.0),
        heldout(3, 0, tokens=5, nll=7.5),
        {"kind": "generation", "step": 0, "prompt": "p", "text": "before"},
        {"kind": "generation", "step": 3, "prompt": "p", "text": "lost"},
        {"kind": "resume", "step": 2},
        heldout(4, 0, tokens=5, nll=5.0),
        {"kind": "generation", "step": 4, "prompt": "p", "text": "after"},
    ]
    run = load(write_run(tmp_path / "a", metrics, samples))
    assert [(e["step"], e["loss"]) for e in run.train] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert [e["step"] for e in run.evals] == [0, 4]
    assert sorted(run.heldout) == [0, 4]
    assert run.generations == {0: [("p", "before")], 4: [("p", "after")]}
    assert run.resumes == [2]
    assert run.interrupted is None


def test_the_last_table_of_a_title_counts_and_a_resume_before_it_drops_it(tmp_path):
    one, two, three = ([{"token": "a", "times": n}] for n in (1, 2, 3))
    metrics = [
        event("table", 2, title="kept", rows=one),
        event("table", 4, title="lost", rows=one),
        event("table", 4, title="again", rows=one),
        event("resume", 2),
        event("table", 4, title="again", rows=two),
        event("table", 4, title="again", rows=three),
    ]
    assert load(write_run(tmp_path / "a", metrics, [])).tables == {"kept": one, "again": three}


def test_a_run_started_again_keeps_nothing_of_the_first_attempt(tmp_path):
    metrics = [event("eval", 0, nll=9.0), event("train", 1, loss=9.0), event("resume", -1), event("eval", 0, nll=2.0)]
    samples = [heldout(0, 7, tokens=5, nll=45.0), {"kind": "resume", "step": -1}, heldout(0, 0, tokens=5, nll=10.0)]
    run = load(write_run(tmp_path / "a", metrics, samples))
    assert run.train == []
    assert [e["nll"] for e in run.evals] == [2.0]
    assert list(run.heldout[0]) == [0]


def test_an_interrupted_run_says_at_which_step(tmp_path):
    run = load(write_run(tmp_path / "a", [event("train", 1, loss=1.0), event("interrupted", 5)], []))
    assert (run.interrupted, run.finished, run.steps) == (5, None, 5)


def test_a_finished_run_that_goes_on_is_no_longer_finished(tmp_path):
    metrics = [event("train", 1, loss=1.0), event("finished", 1, seconds=1.0), event("resume", 1)]
    assert load(write_run(tmp_path / "a", metrics, [])).finished is None


def test_a_step_measured_twice_counts_with_its_last_values(tmp_path):
    metrics = [event("eval", 2, nll=1.0), event("eval", 0, nll=3.0), event("eval", 2, nll=0.5)]
    assert [(e["step"], e["nll"]) for e in load(write_run(tmp_path / "a", metrics, [])).evals] == [(0, 3.0), (2, 0.5)]


def test_rows_of_an_evaluation_cut_short_are_left_out(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("train", 1, loss=1.0)]
    run = load(write_run(tmp_path / "a", metrics, [*rows(0, nll=2.0), heldout(1, 0, tokens=10, nll=1.0)]))
    assert sorted(run.heldout) == [0]


def test_repeated_notes_appear_once(tmp_path):
    metrics = [event("note", 0, text="x"), event("note", 0, text="y"), event("note", 3, text="x")]
    assert load(write_run(tmp_path / "a", metrics, [])).notes == ["x", "y"]


@pytest.mark.parametrize("torn", [b'{"event": "train", "st', '{"event": "note", "text": "ä'.encode()[:-1], b"\0\0\0"])
def test_a_torn_last_line_is_ignored(tmp_path, torn):
    folder = write_run(tmp_path / "a")
    whole = load(folder)
    append(folder / "metrics.jsonl", torn)
    append(folder / "samples.jsonl", torn)
    assert load(folder) == whole


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_malformed_line_in_the_middle_is_named(tmp_path, name):
    folder = write_run(tmp_path / "a")
    lines = (folder / name).read_text().splitlines()
    lines[2] = lines[2][:15]
    (folder / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(ReportError, match=rf"{name}, line 3: not valid JSON"):
        load(folder)


@pytest.mark.parametrize(
    "name, line, finding",
    [
        ("metrics.jsonl", {"step": 1}, "no entry with a 'event'"),
        ("metrics.jsonl", ["train"], "no entry with a 'event'"),
        ("metrics.jsonl", {"event": "train", "loss": 1.0}, "'step' is nothing, not a whole number"),
        ("metrics.jsonl", {"event": "resume", "step": "2"}, "'step' is '2', not a whole number"),
        ("samples.jsonl", {"kind": "heldout", "step": 0, "tokens": 3}, "'row_id' is nothing"),
        (
            "samples.jsonl",
            {"kind": "generation", "step": 0, "prompt": 1, "text": ""},
            "'prompt' is 1, not a text",
        ),
    ],
)
def test_an_entry_that_lacks_something_is_named(tmp_path, name, line, finding):
    folder = write_run(tmp_path / "a")
    number = len((folder / name).read_text().splitlines()) + 1
    append(folder / name, json.dumps(line).encode() + b"\n")
    with pytest.raises(ReportError) as error:
        load(folder)
    assert f"{folder / name}, line {number}: {finding}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_event_is_passed_over(tmp_path):
    assert len(load(write_run(tmp_path / "a", [*METRICS, {"event": "checkpoint"}])).train) == 2


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere: does not exist; give the folder"):
        load(tmp_path / "nowhere")


def test_a_file_is_no_run_folder(tmp_path):
    folder = write_run(tmp_path / "a")
    with pytest.raises(ReportError, match="is a file"):
        load(folder / "recipe.yaml")


@pytest.mark.parametrize("name", ["recipe.yaml", "signature.txt", "metrics.jsonl"])
def test_a_folder_without_a_file_of_the_contract_is_no_run_folder(tmp_path, name):
    folder = write_run(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(ReportError, match=f"not a run folder, it has no {name}"):
        load(folder)


@pytest.mark.parametrize("text", ["method: [sft", "just words", ""])
def test_a_broken_recipe_is_named_in_one_line(tmp_path, text):
    folder = write_run(tmp_path / "a")
    (folder / "recipe.yaml").write_text(text)
    with pytest.raises(ReportError, match=r"recipe\.yaml: not ") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_a_broken_signature_line_is_named(tmp_path):
    folder = write_run(tmp_path / "a")
    append(folder / "signature.txt", b"seed 0\n")
    with pytest.raises(ReportError, match=r"signature\.txt, line 7: no 'key: value' but 'seed 0'"):
        load(folder)


def test_a_value_of_the_signature_may_hold_colons(tmp_path):
    signature = {"policy": "hub:org/name@main 11"}
    assert load(write_run(tmp_path / "a", signature=signature)).signature == signature


def test_a_run_without_samples_is_read(tmp_path):
    folder = write_run(tmp_path / "a", samples=SAMPLES)
    (folder / "samples.jsonl").unlink()
    assert load(folder).heldout == {}


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    folders = [write_run(tmp_path / above / "run") for above in ("x", "y")] + [write_run(tmp_path / "z")]
    assert [run.name for run in distinct_names([load(f) for f in folders])] == ["x/run", "y/run", "z"]


def test_the_same_run_twice_is_told_apart_by_a_number(tmp_path):
    run = load(write_run(tmp_path / "a"))
    first, second = distinct_names([run, run])
    assert second.name == f"{first.name} (2)"
    assert run.name == "a"  # the argument stays as it is
