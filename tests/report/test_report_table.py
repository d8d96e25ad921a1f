import io

import pytest
from rich.console import Console
from run_folders import METRICS, SIGNATURE, event, rows, write_run

from trimtab.report import load, table


def text_of(runs, width=160):
    out = io.StringIO()
    Console(file=out, width=width).print(table(runs, width))
    return out.getvalue()


def cells(runs):
    """{first cell: the other cells}, of the table itself."""
    columns = [[str(cell) for cell in column.cells] for column in table(runs).columns]
    return {row[0]: list(row[1:]) for row in zip(*columns, strict=True)}


def test_the_table_shows_student_run_and_teacher(tmp_path):
    assert cells([load(write_run(tmp_path / "a"))]) == {
        "initial policy": [
            "7.39\n[7.39, 7.39]",
            "1.50\n[1.50, 1.50]",
            "1.00\n[1.00, 1.00]",
            "3.00\n[3.00, 3.00]",
            "30.0%\n[30.0, 30.0]",
            "–",
            "0",
        ],
        "a": [
            "2.72\n[2.72, 2.72]",
            "0.500\n[0.500, 0.500]",
            "0.250\n[0.250, 0.250]",
            "2.00\n[2.00, 2.00]",
            "60.0%\n[60.0, 60.0]",
            "12.5",
            "2",
        ],
        "teacher": ["1.65\n[1.65, 1.65]", "0", "0", "–", "100.0%", "–", "–"],
    }


def test_what_was_not_measured_is_a_dash(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("train", 3, loss=1.0), event("eval", 3, nll=1.0)]
    run = load(write_run(tmp_path / "a", metrics, [*rows(0, nll=2.0), *rows(3, nll=1.0)]))
    found = cells([run, load(write_run(tmp_path / "b"))])
    assert found["a"] == ["2.72\n[2.72, 2.72]", "–", "–", "–", "–", "–", "3"]


def test_what_no_run_measured_has_no_column_and_what_one_measured_has(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("train", 3, loss=1.0), event("eval", 3, nll=1.0, answer_length=12.5)]
    samples = [*rows(0, nll=2.0, kl_to_initial=0.0), *rows(3, nll=1.0, kl_to_initial=0.25)]
    assert cells([load(write_run(tmp_path / "a", metrics, samples))]) == {
        "initial policy": ["7.39\n[7.39, 7.39]", "0\n[0, 0]", "–", "–", "0"],
        "a": ["2.72\n[2.72, 2.72]", "0.250\n[0.250, 0.250]", "12.5", "–", "3"],
    }


def test_a_measurement_that_is_no_number_says_so(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("eval", 3, nll=None, perplexity=None)]
    assert cells([load(write_run(tmp_path / "a", metrics, []))])["a"][0] == "not a number"


def test_a_run_that_was_never_measured_has_a_line(tmp_path):
    assert cells([load(write_run(tmp_path / "a", [event("train", 4, loss=1.0)], []))])["a"] == ["–", "4"]


def test_runs_from_different_students_have_a_line_for_each(tmp_path):
    one = load(write_run(tmp_path / "a"))
    other = load(write_run(tmp_path / "b", samples=[*rows(0, nll=2.5), *rows(2, nll=1.0)]))
    assert list(cells([one, other])) == ["initial policy of a", "initial policy of b", "a", "b", "teacher"]


@pytest.mark.parametrize(
    "key, said", [("held-out data", "b cannot be compared with a"), ("teacher", "b, against the teacher,")]
)
def test_the_caption_names_runs_that_cannot_be_compared(tmp_path, key, said):
    one = load(write_run(tmp_path / "a"))
    other = load(write_run(tmp_path / "b", signature={**SIGNATURE, key: "x 0000000000000000"}))
    assert said in str(table([one, other]).caption)
    assert "cannot be compared" not in str(table([one, one]).caption)


def test_a_name_that_looks_like_markup_is_printed_as_it_is(tmp_path):
    assert "[bold]x" in text_of([load(write_run(tmp_path / "[bold]x", METRICS))])


def test_the_heads_are_whole_on_a_narrow_terminal(tmp_path):
    text = text_of([load(write_run(tmp_path / "a"))], width=80)
    assert "…" not in text
    assert "perplexity" in text
    assert max(map(len, text.splitlines())) <= 80


def test_measures_with_long_names_leave_room_for_seconds_and_steps(tmp_path):
    named = ("correct", "cross_entropy", "map_cosine", "attribution_loss", "soft_loss")
    metrics = [event("eval", 0), event("train", 189, loss=1.0), event("eval", 189)]
    samples = [row for step in (0, 189) for row in rows(step, **dict.fromkeys(named, 0.0068), nll=1.0)]
    run = load(write_run(tmp_path / "a", metrics, samples))
    narrow = text_of([run], width=80)
    assert "steps" in narrow
    assert " 189" in narrow
    assert "[0.00680," in narrow
    assert "no room here for soft loss" in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert "no room" not in text_of([run])


def test_a_narrow_terminal_leaves_measures_out_and_says_which(tmp_path):
    metrics = [event("eval", 0, nll=2.0), event("train", 3, loss=1.0), event("eval", 3, nll=1.0, answer_length=12.5)]
    samples = [*rows(0, nll=2.0, kl_to_initial=0.0, entropy=1.0), *rows(3, nll=1.0, kl_to_initial=0.25, entropy=1.0)]
    run = load(write_run(tmp_path / "a", metrics, samples))
    assert "no room" not in text_of([run])
    narrow = text_of([run], width=50)
    assert "no room here for" in narrow
    assert "answer length" in narrow.partition("no room here for")[2]
    assert "2.72" in narrow


def test_numbers_of_an_earlier_step_say_so_beside_the_steps_and_name_the_run_that_was_stopped(tmp_path):
    trained = [event("start", 0, command="trimtab train my.yaml training.max_steps=9 --resume"), METRICS[1]]
    trained += [event("train", step, loss=1.0) for step in range(1, 7)]
    killed = load(write_run(tmp_path / "killed", trained, rows(0, nll=2.0)))
    stopped = load(write_run(tmp_path / "stopped", [*trained, event("interrupted", 6)], rows(0, nll=2.0)))
    shown = cells([killed, stopped, load(write_run(tmp_path / "done"))])
    assert [shown[name][-1] for name in ("killed", "stopped", "done")] == ["6\nmeasured at 0", "6\nmeasured at 0", "2"]
    caption = str(table([killed, stopped]).caption)
    assert "killed has not finished (last logged step: 6); its numbers were measured at step 0" in caption
    assert "stopped was interrupted after step 6; its numbers were measured at step 0" in caption


def test_the_command_that_goes_on_is_the_one_that_was_given_or_reads_the_run(trimtab, tmp_path):
    said = event("start", 0, command="trimtab train my.yaml training.max_steps=9 --resume")
    write_run(tmp_path / "one", [said, METRICS[1], event("interrupted", 6)], rows(0, nll=2.0))
    write_run(tmp_path / "other", METRICS[:3], rows(0, nll=2.0))
    code, out, err = trimtab("report", tmp_path / "one", tmp_path / "other")
    assert code == 0, err
    assert "\nTo continue one: trimtab train my.yaml training.max_steps=9 --resume\n" in out
    assert f"\nTo continue other: trimtab train {tmp_path}/other/recipe.yaml --resume\n" in out
