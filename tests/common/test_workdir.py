"""Where commands write: made, resumed, refused, and what stays when something fails."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.common import failures
from trimtab.common.count import count
from trimtab.common.errors import FailedOutside, Interrupted
from trimtab.common.files import write_atomic, write_together
from trimtab.common.workdir import Workdir, WorkdirError, command_of, read_signature
from trimtab.runs.folder import RunError, is_new


def folder(tmp_path, command="collect", **how) -> Workdir:
    return Workdir(tmp_path / "out", command, ("rows.jsonl", "facts.json"), **how)


def work(one: Workdir, signature: dict, number: int, error: BaseException | None = None) -> list[dict]:
    """Adds rows to a number, and then the facts."""
    one.check()
    with one.open():
        one.sign(signature)
        lines = one.records("rows.jsonl", "id", what="rows")
        before = list(lines.rows)
        for place in range(len(lines), number):
            lines.append([{"id": place}])
        if error is not None:
            raise error
        one.write("facts.json", json.dumps({"rows": len(lines)}))
    return before


def test_work_that_was_stopped_is_resumed_and_the_folder_says_whose_it_is(tmp_path):
    with pytest.raises(
        Interrupted, match=r"stopped; 3 rows are in .*out/rows\.jsonl: run the same command again to continue"
    ):
        work(folder(tmp_path), {"model": "m", "trimtab": "1"}, 3, KeyboardInterrupt())
    assert command_of(tmp_path / "out") == "collect"
    assert work(folder(tmp_path), {"model": "m", "trimtab": "2"}, 5) == [{"id": 0}, {"id": 1}, {"id": 2}]
    assert read_signature(tmp_path / "out") == {"command": "collect", "model": "m", "trimtab": "2"}


def test_another_signature_is_refused_by_its_line_and_force_begins_anew(tmp_path):
    work(folder(tmp_path), {"model": "m", "seed": "0"}, 2)
    before = (tmp_path / "out" / "rows.jsonl").read_bytes()
    for signature, said in (
        ({"model": "m", "seed": "1"}, "a different seed .0 there, 1 here"),
        ({"model": "m"}, "a different seed .0 there, none here"),
        ({"model": "m", "seed": "0", "verify": "math"}, "a different verify .none there, math here"),
    ):
        with pytest.raises(WorkdirError, match=f"holds results of `trimtab collect` with {said}.; add --force"):
            work(folder(tmp_path), signature, 3)
        assert (tmp_path / "out" / "rows.jsonl").read_bytes() == before
    (tmp_path / "out" / "mine.txt").write_text("kept")
    assert work(folder(tmp_path, force=True), {"model": "m", "seed": "1"}, 1) == []
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_the_workdir_of_another_command_is_refused_by_name_also_with_force(tmp_path):
    work(folder(tmp_path), {"model": "m"}, 2)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(WorkdirError, match="holds results of `trimtab collect`; choose another --out"):
        work(folder(tmp_path, "score", force=True), {"model": "m"}, 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(WorkdirError, match="holds results of `trimtab train`"):
        Workdir(tmp_path / "run", "eval").check()


def test_a_run_does_not_begin_in_the_workdir_of_another_command(tmp_path):
    work(folder(tmp_path), {"model": "m"}, 2)
    with pytest.raises(RunError, match="holds results of `trimtab collect`; choose another output=FOLDER"):
        is_new(tmp_path / "out", resume=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a fault"), WorkdirError("a mistake")])
def test_work_that_has_kept_nothing_leaves_nothing(tmp_path, error):
    with pytest.raises((Interrupted, ValueError)):
        work(folder(tmp_path), {"model": "m"}, 0, error)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_stay_where_the_folder_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows.jsonl").write_text("mine\n")
    with pytest.raises(WorkdirError, match=r"holds rows\.jsonl but no signature\.txt; add --force"):
        work(folder(tmp_path), {"model": "m"}, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("CUDA error: no device")])
def test_what_fails_outside_is_reported_with_what_is_kept(tmp_path, error):
    said = r"out: (input/output|CUDA) error.*; fix that first; 2 rows are in .*rows\.jsonl: run the same command again"
    with pytest.raises(FailedOutside, match=said) as raised:
        work(folder(tmp_path), {"model": "m"}, 2, error)
    assert failures.comes_from_outside(raised.value)
    assert raised.value.__cause__ is error


def test_a_mistake_of_the_code_stays_what_it_is_with_a_note_of_what_is_kept(tmp_path):
    with pytest.raises(ZeroDivisionError) as raised:
        work(folder(tmp_path), {"model": "m"}, 2, ZeroDivisionError())
    assert [f"{tmp_path}/out: have that fixed first; 2 rows are in" in note for note in raised.value.__notes__] == [
        True
    ]


def test_what_was_there_before_stays_when_a_resumed_work_fails(tmp_path):
    work(folder(tmp_path), {"model": "m"}, 0)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    with pytest.raises(ZeroDivisionError):
        work(folder(tmp_path), {"model": "m"}, 0, ZeroDivisionError())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before


def test_a_full_disk_leaves_whole_lines_and_reports_what_is_kept(tmp_path, monkeypatch):
    one, said = folder(tmp_path), r"out: no space left.*make room first; 2 rows are in .*the same command"
    with pytest.raises(FailedOutside, match=said), one.open():
        one.sign({"model": "m"})
        lines = one.records("rows.jsonl", "id", what="rows")
        lines.append([{"id": 0}, {"id": 1}])
        path = lines.path

        class Full:
            """A file that takes half of what it is given."""

            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, data):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        opened = Path.open
        monkeypatch.setattr(Path, "open", lambda self, *a: Full(opened(self, *a)) if self == path else opened(self, *a))
        lines.append([{"id": 2}])
    monkeypatch.undo()
    assert (tmp_path / "out" / "rows.jsonl").read_text() == '{"id": 0}\n{"id": 1}\n'
    assert work(folder(tmp_path), {"model": "m"}, 3) == [{"id": 0}, {"id": 1}]


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(WorkdirError, match="out cannot be written: .*; choose another --out"):
        folder(tmp_path).check()
    assert (tmp_path / "out").read_text() == "a file"


def test_a_folder_whose_name_holds_a_dot_is_a_folder(tmp_path):
    one = Workdir(tmp_path / "model-1.5", "eval", ("rows.jsonl",))
    with one.open():
        one.sign({"model": "m"})
        one.write("rows.jsonl", "1")
    assert (tmp_path / "model-1.5" / "rows.jsonl").read_text() == "1"


def test_two_processes_do_not_share_a_workdir(tmp_path):
    code = (
        "import sys; from pathlib import Path; from trimtab.common.workdir import Workdir\n"
        "with Workdir(Path(sys.argv[1]), 'collect').open():\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "out")]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(WorkdirError, match="is being written by another process"):
        work(folder(tmp_path), {"model": "m"}, 1)
    other.communicate("")
    assert work(folder(tmp_path), {"model": "m"}, 1) == []


def test_files_that_are_there_are_not_replaced_without_force(tmp_path):
    out = tmp_path / "rows.jsonl"
    (tmp_path / "rows.meta.json").write_text("{}")
    with pytest.raises(WorkdirError, match=r"rows\.meta\.json exists; add --force to replace it or choose another"):
        Workdir(out, "clean", (".meta.json",), is_file=True, option="another FILE.jsonl").check()
    Workdir(out, "clean", (".meta.json",), is_file=True, force=True).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.meta.json"]


def test_rows_that_were_removed_are_written_again_although_their_meta_is_there(tmp_path):
    out = tmp_path / "rows.jsonl"
    for source in ("first", "second"):
        with Workdir(out, "clean", (".meta.json",), is_file=True).open() as one:
            one.write_rows([{"id": 1}], {"source": source})
        out.unlink()
    assert json.loads((tmp_path / "rows.meta.json").read_text())["source"] == "second"


def test_a_file_of_another_command_is_refused_by_its_name_also_with_force(tmp_path):
    out = tmp_path / "rows.jsonl"
    with Workdir(out, "clean", (".meta.json",), is_file=True).open() as one:
        one.write_rows([{"id": 1}], {"source": "mine"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"rows.jsonl", "rows.meta.json"}
    for command, place in (("generate", out), ("compare-decoding", tmp_path / "rows.html")):
        other = Workdir(place, command, (".jsonl", ".meta.json"), is_file=True, force=True)
        with pytest.raises(WorkdirError, match="holds results of `trimtab clean`; choose another --out"):
            other.check()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    Workdir(out, "clean", (".meta.json",), is_file=True, force=True).check()


def test_a_write_that_fails_leaves_what_was_there_and_no_part(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "a.meta.json"
    write_together({first: ["1\n", "2\n"], second: "{}"})

    def broken():
        yield "3\n"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_together({first: broken(), second: "new"})
    with pytest.raises(ZeroDivisionError):
        write_atomic(first, broken())
    assert (first.read_text(), second.read_text()) == ("1\n2\n", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.meta.json"]


def test_one_of_a_thing_is_not_many():
    assert [count(n, "row") for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert count(2, "process", "processes") == "2 processes"
