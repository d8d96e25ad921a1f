"""`trimtab sweep`: a folder with a dial is measured, and the range goes into the export."""

import json
import math
import sys

import pytest

import tiny_dial
import tiny_folder
from trimtab import cli
from trimtab.commands.evaluate import evaluate_model
from trimtab.models.dial import read_dial
from trimtab.report.evaluation import read
from trimtab.runs.exporting import export_dial, source_of
from trimtab.runs.plain_export import export_exact


def command(capsys, monkeypatch, *words):
    """Exit code, and what stdout and stderr say."""
    monkeypatch.setattr(sys, "argv", ["trimtab", "sweep", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code or 0, said.out, said.err


def prompts(folder):
    (folder / "prompts.txt").write_text("What is rain?\nName a colour.\nAnd <you>?\n")
    return "--prompts", folder / "prompts.txt", "--max-new-tokens", "4"


def test_a_folder_is_measured_and_told_its_range(tmp_path, capsys, monkeypatch):
    folder = tiny_dial.export(tmp_path, recommended=(-1.0, 1.0))
    words = (*prompts(tmp_path), "--strengths", "2", "--tolerance", "1000")
    code, out, err = command(capsys, monkeypatch, folder, *words, "--write")
    assert code == 0, err
    assert "recommended: 0 to 2; no measured strength breaks" in out
    found = json.loads((tmp_path / "dial.sweep" / "sweep.json").read_text())
    assert [one["strength"] for one in found["strengths"]] == [0, 1, 2]
    assert "NaN" not in (tmp_path / "dial.sweep" / "sweep.json").read_text()
    assert found["strengths"][0]["kl_original"] == [0, 0, 0]
    assert found["strengths"][1]["kl_aligned"] == [0, 0, 0]
    assert read_dial(folder).recommended == (0, 2)
    assert "Recommended: 0 to 2 (warned about outside)" in (folder / "README.md").read_text()
    page = (tmp_path / "dial.sweep" / "report.html").read_text()
    assert page.count("<figure") == 5
    assert "And &lt;you&gt;?" in page

    lines = tmp_path / "dial.sweep" / "strengths.jsonl"
    before = lines.read_text()
    code, out, _ = command(capsys, monkeypatch, folder, *words, "--strengths", "0.5,2")
    assert code == 0
    assert lines.read_text().startswith(before)
    assert lines.read_text().count("\n") == 4

    assert export_dial(source_of(folder), tmp_path / "same").recommended == (0, 2)


def test_an_export_reads_the_range_beside_the_run_and_only_of_these_weights(tmp_path, capsys, monkeypatch):
    trained = tiny_dial.save(tmp_path / "trained")
    code, _, err = command(
        capsys, monkeypatch, trained, *prompts(tmp_path), "--strengths", "-1,1", "--tolerance", "1000"
    )
    assert code == 0, err
    code, out, _ = tiny_dial.command(capsys, monkeypatch, trained, tmp_path / "dial")
    assert code == 0
    assert "recommended -1 to 1" in out
    path = tmp_path / "trained.sweep" / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights": "others"}))
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, trained, tmp_path / "other")
    assert "sweep.json is of other weights" in said
    path.write_text("[]")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, trained, tmp_path / "other")
    assert "sweep.json holds no range; measure again" in said
    code, out, _ = tiny_dial.command(capsys, monkeypatch, trained, tmp_path / "other", "--range", "0,2")
    assert code == 0


def test_a_line_that_is_no_strength_is_refused(tmp_path, capsys, monkeypatch):
    trained = tiny_dial.save(tmp_path / "trained")
    words = (trained, *prompts(tmp_path), "--strengths", "1")
    assert command(capsys, monkeypatch, *words)[0] == 0
    lines = tmp_path / "trained.sweep" / "strengths.jsonl"
    lines.write_text('{"strength": 2}\n')
    code, _, err = command(capsys, monkeypatch, *words)
    assert code == 2
    assert "strengths.jsonl holds a line that is no strength; add --force to measure again" in err


def test_a_reward_of_ones_own_is_measured(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("def short(completions, **kwargs):\n    return [2.5 for _ in completions]\n")
    words = (*prompts(tmp_path), "--strengths", "1", "--measure", f"{tmp_path}/mine.py:short", "--temperature", "0.7")
    code, _, err = command(capsys, monkeypatch, tiny_dial.save(tmp_path / "trained"), *words)
    assert code == 0, err
    found = json.loads((tmp_path / "trained.sweep" / "sweep.json").read_text())
    assert found["strengths"][0]["property"] == [2.5, 2.5, 2.5]


def test_nothing_is_left_of_a_reward_that_fails(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("def bad(completions, **kwargs):\n    raise KeyError('x')\n")
    words = [*prompts(tmp_path), "--measure", f"{tmp_path}/mine.py:bad"]
    trained = tiny_dial.save(tmp_path / "trained")
    code, _, err = command(capsys, monkeypatch, trained, *words)
    assert code == 2
    assert "reward bad" in err or "mine.py:bad" in err
    assert not (tmp_path / "trained.sweep").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--strengths", "a"], "--strengths: 'a' is not a number"),
        (["--strengths", ""], "--strengths: '' is not a number"),
        (["--strengths", "nan"], "--strengths: nan is not finite"),
        (["--strengths", "0,11"], "--strengths: 11 leaves the limits of the dial, -10 to 10"),
        (["--measure", "lenght"], "there is no reward 'lenght'"),
        (["--measure", "exact"], "answer"),
        (["--write"], "trained has no dial; write a folder that has one with: trimtab export RUN FOLDER"),
        (["--prompts", "nothing.jsonl"], "nothing.jsonl"),
        (["--prompts", "nothing.txt"], "nothing.txt"),
        (["--suite", "geomrell"], "there is no suite 'geomrell'; did you mean 'geomrel'?"),
        (["--suite", "multiple_choice"], "there are no questions: name a file"),
        (["--suite", "edit"], "--suite edit: after its answers it works on with the model"),
        (["--suite", "geomrel", "geomrel.nothing=1"], "geomrel has no setting 'nothing'"),
        (["geomrel.shots=1"], "geomrel.shots is a setting of geomrel, which is not selected"),
        (["--limit", "3"], "--limit is of the items of suites"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(words, message, tmp_path, capsys, monkeypatch):
    refused(capsys, monkeypatch, tiny_dial.save(tmp_path / "trained"), words, message)


def questions(folder):
    """A file of them."""
    rows = [{"question": f"Which is {i}?", "options": ["one", "two"], "answer": i % 2} for i in range(6)]
    return tiny_folder.write_jsonl(folder / "questions.jsonl", rows)


@pytest.mark.parametrize("suite", ["multiple_choice", "geomrel"])
def test_a_suite_is_answered_at_each_strength(tmp_path, capsys, monkeypatch, suite):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tiny_dial.export(tmp_path)
    more = [f"multiple_choice.file={questions(tmp_path)}"] if suite == "multiple_choice" else ["--limit", "3"]
    words = (folder, *prompts(tmp_path), "--strengths", "0.5,1.5", "--suite", suite, *more)
    code, out, err = command(capsys, monkeypatch, *words)
    assert code == 0, err
    sweep = tmp_path / "dial.sweep"
    ((name, at),) = json.loads((sweep / "sweep.json").read_text())["suites"].items()
    assert (name, [one["strength"] for one in at]) == (suite, [0, 0.5, 1, 1.5])
    page = (sweep / "report.html").read_text()
    for one in at:
        there = read(sweep / "suites" / f"{one['strength']:g}" / suite)
        assert there.facts["signature"]["strength"] == f"{one['strength']:g}"
        known = {each.name: each.value for each in there.measures if each.group == "all"}
        assert {key: value[0] for key, value in one.items() if key != "strength"} == {
            key: None if math.isnan(value.estimate) else value.estimate for key, value in known.items()
        }
        shown = next(value for value in known.values() if value.known).shown()
        assert shown in page
        assert shown in out
        assert f'href="suites/{one["strength"]:g}/{suite}/report.html"' in page
    samples = [(sweep / "suites" / place / suite / "samples.jsonl").read_text() for place in ("0", "0.5", "1.5")]
    assert len(set(samples)) == 3

    stamps = {path: path.stat().st_mtime_ns for path in sweep.rglob("samples.jsonl")}
    code, _, err = command(capsys, monkeypatch, *words, "--strengths", "0.5,2")
    assert code == 0, err
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert (sweep / "suites" / "2" / suite / "report.html").is_file()


def test_the_ends_of_a_suite_are_those_that_eval_finds(tmp_path, capsys, monkeypatch):
    """At 1 the folder itself answers, and at 0 the original model, which export writes."""
    folder = tiny_dial.export(tmp_path)
    export_exact(source_of(folder), tmp_path / "original", 0)
    words = (*prompts(tmp_path), "--strengths", "1", "--suite", "geomrel", "--limit", "4")
    assert command(capsys, monkeypatch, folder, *words)[0] == 0
    for place, model in (("0", tmp_path / "original"), ("1", folder)):
        alone = evaluate_model(model, "geomrel", limit=4, out=tmp_path / f"alone{place}")["geomrel"]
        texts = [
            {key: row["answers"] for key, row in read(one).rows.items()}
            for one in (alone, tmp_path / "dial.sweep" / "suites" / place / "geomrel")
        ]
        assert texts[0] == texts[1]


def test_few_prompts_are_said_to_decide_nothing(tmp_path, capsys, monkeypatch):
    folder = tiny_dial.export(tmp_path)
    code, out, _ = command(
        capsys, monkeypatch, folder, *prompts(tmp_path), "--strengths", "1.5,2", "--tolerance", "1000"
    )
    said = "; 3 prompts cannot decide it at 1.5 and 2: measure more with --number"
    assert (code, said in out) == (0, True)
    assert said in (tmp_path / "dial.sweep" / "report.html").read_text()
    code, out, _ = command(capsys, monkeypatch, folder, *prompts(tmp_path), "--strengths", "0.5")
    assert (code, "cannot decide" in out) == (0, False)


def test_a_model_without_a_dial_cannot_be_measured(tmp_path, capsys, monkeypatch):
    tiny_folder.save(tmp_path / "plain")
    refused(capsys, monkeypatch, tmp_path / "plain", [], "plain has no dial: no layer was inserted into its model")


def refused(capsys, monkeypatch, folder, words, message):
    before = sorted(folder.parent.iterdir())
    capsys.readouterr()
    code, out, err = command(capsys, monkeypatch, folder, *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.slow
def test_a_trained_run_is_measured_and_exported(tmp_path, capsys, monkeypatch):
    run = tiny_dial.trained_run(tmp_path)
    code, _, err = command(capsys, monkeypatch, run, *prompts(tmp_path), "--strengths", "0.5,1.5", "--tolerance", "9")
    assert code == 0, err
    code, _, _ = tiny_dial.command(capsys, monkeypatch, run, tmp_path / "dial")
    assert code == 0
    assert read_dial(tmp_path / "dial").recommended == (0, 1.5)
