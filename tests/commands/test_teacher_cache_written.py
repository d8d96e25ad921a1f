"""A teacher cache is extended, resumed and mended, and one that does not fit is refused before anything is done."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import tiny_folder
from tiny_caches import QUIET, parsed, tree
from tiny_runs import cut_off
from trimtab.common.errors import FailedOutside, UserError
from trimtab.runs.parse import parse
from trimtab.runs.run import run
from trimtab.runs.teacher_pass import cache_teacher
from trimtab.signals import row_store
from trimtab.signals.row_store import RowStore


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_a_row_that_is_missing_is_refused_by_its_number_and_added_by_the_command_named(
    files, caches, tmp_path, trimtab, kind
):
    cache = tmp_path / "cache"
    shutil.copytree(caches / kind, cache)
    rows = [json.loads(line) for line in (files / "train.jsonl").read_text().splitlines()]
    rows.insert(2, tiny_folder.chat_rows(1, start=91)[0])
    train = tiny_folder.write_jsonl(tmp_path / "more.jsonl", rows)
    made = tree(files, tmp_path / "run", teacher=f"cache:{cache}", data={"train": train})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    code, shown, _ = trimtab("preview", tmp_path / "recipe.yaml")
    assert (code, "the other 1" in shown) == (0, True)
    code, _, said = trimtab("train", tmp_path / "recipe.yaml")
    assert (code, said.count("\n")) == (2, 1)
    assert f"{train}: row 3 is not in the teacher cache {cache}; add the rows: trimtab precompute RECIPE" in said
    assert not (tmp_path / "run").exists()
    before = (cache / "rows-0-00000.safetensors").read_bytes()
    words = said.partition("add the rows: trimtab ")[2].replace("RECIPE", str(tmp_path / "recipe.yaml")).split()
    assert trimtab(*words)[0] == 0
    assert (cache / "rows-0-00000.safetensors").read_bytes() == before
    assert len(RowStore(cache)) == len(RowStore(caches / kind)) + 1
    assert "the other" not in trimtab("preview", tmp_path / "recipe.yaml")[1]
    run(parse(made, "test", "run"), console=QUIET)


def test_show_says_what_a_cache_holds_and_whether_it_is_what_was_written(files, caches, tmp_path, trimtab):
    size = RowStore(caches / "topk")
    code, out, _ = trimtab("show", f"cache:{caches / 'topk'}")
    assert code == 0
    for said in (
        "the 16 most likely tokens",
        f"{size.num_tokens:,}",
        f"{files / 'teacher'} ",
        "covered mass",
        "1 shard",
    ):
        assert said in out, said
    code, out, _ = trimtab("show", f"cache:{caches / 'bfloat16'}")
    assert "last hidden states (bfloat16) and the output head" in out
    assert "covered" not in out
    head = (caches / "bfloat16" / "head.safetensors").stat().st_size
    assert f"{head / 1e6:,.1f} MB" in out
    cache = tmp_path / "cache"
    shutil.copytree(caches / "hidden", cache)
    shard = cache / "rows-0-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    code, _, said = trimtab("show", f"cache:{cache}")
    assert (code, said.count("\n")) == (2, 1)
    assert f"{shard} is damaged" in said
    assert trimtab("show", f"cache:{tmp_path}")[2].startswith(f"error: the folder {tmp_path} holds no teacher cache")


def test_a_cache_of_another_teacher_or_dtype_is_not_extended(files, caches, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "hidden", cache)
    tiny_folder.save(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="with a different teacher .*--force"):
        cache_teacher(parsed(files, tmp_path / "n", teacher=str(tmp_path / "other")), cache, "hidden", console=QUIET)
    with pytest.raises(UserError, match="with a different stored dtype"):
        cache_teacher(parsed(files, tmp_path / "n"), cache, "hidden", dtype="bfloat16", console=QUIET)
    with pytest.raises(UserError, match="with a different kind"):
        cache_teacher(parsed(files, tmp_path / "n"), cache, "topk", console=QUIET)
    made = cache_teacher(parsed(files, tmp_path / "n"), cache, "topk", k=4, force=True, console=QUIET)
    assert not (cache / "head.safetensors").exists()
    assert made.rows == len(RowStore(caches / "hidden"))


def test_a_torn_shard_is_refused_in_training_and_computed_anew_by_the_command(files, caches, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "hidden", cache)
    shard = next(cache.glob("rows-*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    made = parsed(files, tmp_path / "run", teacher=f"cache:{cache}")
    with pytest.raises(UserError, match=f"{shard.name} is torn"):
        run(made, console=QUIET)
    cache_teacher(parsed(files, tmp_path / "never"), cache, "hidden", console=QUIET)
    assert len(RowStore(cache)) == len(RowStore(caches / "hidden"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write more to a file, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_says_what_is_kept_and_the_call_goes_on(files, tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "SHARD_BYTES", 1)
    made, cache = parsed(files, tmp_path / "n"), tmp_path / "cache"
    with files_of_at_most(2500), pytest.raises(FailedOutside, match=r"large.*make room.*; \d+ rows are in .* again to"):
        cache_teacher(made, cache, "topk", k=2, console=QUIET)
    kept = len(RowStore(cache))
    assert 0 < kept < 18
    assert not list(cache.glob(".*.part"))
    assert cache_teacher(made, cache, "topk", k=2, console=QUIET).rows > kept
    with files_of_at_most(2500), pytest.raises(FailedOutside, match="head.safetensors.*nothing of .* is kept"):
        cache_teacher(made, tmp_path / "other", "hidden", console=QUIET)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["head.safetensors", "head.json", "config.json"])
def test_a_torn_head_is_refused_in_training_and_written_anew_by_the_command(files, caches, tmp_path, name):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "hidden", cache)
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[:-3] + b"\0\0\0") if name == "head.safetensors" else (cache / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is (damaged|gone).*; run the command that wrote it again"):
        run(parsed(files, tmp_path / "run", teacher=f"cache:{cache}"), console=QUIET)
    assert not (tmp_path / "run").exists()
    cache_teacher(parsed(files, tmp_path / "never"), cache, "hidden", console=QUIET)
    assert (cache / "head.safetensors").read_bytes() == (caches / "hidden" / "head.safetensors").read_bytes()
    assert (cache / name).read_bytes() == whole


def told(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_student(files: Path, folder: Path, *, template: str = "", token: str | None = None) -> str:
    shutil.copytree(files / "student", folder)
    tokenizer = tiny_folder.byte_tokenizer(tiny_folder.TEMPLATE + template)
    if token is not None:
        tokenizer.add_special_tokens({"sep_token": token})
    tokenizer.save_pretrained(folder)
    return str(folder)


def refusals(files: Path, caches: Path, folder: Path) -> dict[str, tuple[list[str], str]]:
    """What is wrong -> words of the command line, and what it says."""
    tiny_folder.save(folder / "another", seed=9)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tree(files, folder / "run")))
    for name in ("hidden", "torn"):
        shutil.copytree(caches / "hidden", folder / name)
    shard = folder / "torn" / "rows-0-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    rows = tiny_folder.write_jsonl(folder / "rows.jsonl", tiny_folder.chat_rows(3, start=50))
    write = ["precompute", str(recipe), "--out", str(folder / "hidden"), "--teacher"]
    read = ["train", str(recipe), f"models.teacher=cache:{folder / 'hidden'}"]
    template = other_student(files, folder / "template", template=" ")
    tokenizer = other_student(files, folder / "tokenizer", token="<|user|>")
    return {
        "teacher": ([*write, "hidden", f"models.teacher={folder / 'another'}"], "with a different teacher ("),
        "kind": ([*write, "topk"], "with a different kind (hidden there, topk here)"),
        "tokenizer": ([*read, f"models.student={tokenizer}"], "was made with a different tokenizer ("),
        "template": ([*read, f"models.student={template}"], "was made with a different chat template ("),
        "its tokenizer": ([*write, "hidden", f"models.student={tokenizer}"], "with a different tokenizer ("),
        "rows": ([*read, f"data.train={rows}"], f"{rows}: row 1 is not in the teacher cache"),
        "held-out rows": ([*read, f"data.heldout={rows}"], f"{rows}: row 1 is not in the teacher cache"),
        "torn": (["train", str(recipe), f"models.teacher=cache:{folder / 'torn'}"], f"{shard} is torn; run the"),
        "k": (["precompute", str(recipe), "--teacher", "topk", "--k", "300", "--out", str(folder / "new")],
              "k is 300, but the vocabulary has 259 tokens"),
        "no cache": (["train", str(recipe), f"models.teacher=cache:{folder / 'another'}"], "holds no teacher cache"),
        "nowhere": (["train", str(recipe), f"models.teacher=cache:{folder / 'new'}"], "there is no folder"),
        "another's": (["precompute", str(recipe), "--teacher", "hidden", "--out", str(folder / "another")], ""),
    }  # fmt: skip


def test_each_cache_that_does_not_fit_is_one_line_and_leaves_nothing_behind(files, caches, tmp_path, trimtab, capsys):
    cases = refusals(files, caches, tmp_path)
    (tmp_path / "another" / "signature.txt").write_text("command: eval\n")
    capsys.readouterr()  # what making the models has printed
    before, failed = told(tmp_path), []
    for name, (words, said) in cases.items():
        code, _, err = trimtab(*words)
        if (code, err.count("\n")) != (2, 1) or said not in err or told(tmp_path) != before:
            failed.append((name, code, err, sorted(told(tmp_path).keys() - before.keys())))
    assert not failed


def test_a_run_does_not_go_on_with_the_cache_of_another_teacher(files, caches, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(caches / "hidden", cache)
    whole = run(parsed(files, tmp_path / "whole", teacher=f"cache:{cache}"), console=QUIET).folder
    cut_off(whole, tmp_path / "run", 2)
    made = parsed(files, tmp_path / "run", teacher=f"cache:{cache}")
    tiny_folder.save(tmp_path / "other", seed=9)
    shutil.rmtree(cache)
    cache_teacher(parsed(files, tmp_path / "n", teacher=str(tmp_path / "other")), cache, "hidden", console=QUIET)
    with pytest.raises(UserError, match="cannot be resumed: it was started with a different teacher"):
        run(made, resume=True, console=QUIET)


QUICKLY = """
from trimtab.signals import row_store
row_store.SHARD_SECONDS = 0.05
from trimtab.cli import main
main()
"""


def command(folder: Path, *words: str, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", QUICKLY, "precompute", str(folder / "recipe.yaml"), *words],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def many(files, tmp_path) -> Path:
    """A folder with a recipe of rows enough to be stopped among."""
    rows = tiny_folder.write_jsonl(tmp_path / "many.jsonl", tiny_folder.chat_rows(150))
    made = tree(files, tmp_path / "run", data={"train": rows, "heldout": None}, training={"max_length": 64})
    made["eval"] = {"prompts": [], "batch_size": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_call_goes_on(many, stop):
    cache = many / "cache"
    first = command(many, "--teacher", "hidden", "--out", str(cache))
    until = time.monotonic() + 60
    while len(list(cache.glob("rows-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    first.send_signal(stop)
    said, _ = first.communicate(timeout=60)
    kept = len(RowStore(cache))
    assert 0 < kept < 150
    if stop == signal.SIGINT:
        assert "run the same command again to continue" in said
    again = command(many, "--teacher", "hidden", "--out", str(cache))
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "rows of an earlier call" in said
    assert "bytes a token" in said
    assert len(RowStore(cache)) == 150


@pytest.mark.slow
def test_processes_of_a_launch_write_rows_of_their_own_and_the_first_tells_the_total(many):
    cache = many / "cache"
    words = ("--teacher", "topk", "--k", "8", "--out", str(cache))
    first = command(many, *words, RANK="0", WORLD_SIZE="2")
    until = time.monotonic() + 60
    while len(list(cache.glob("rows-0-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    second = command(many, *words, RANK="1", WORLD_SIZE="2")  # begins when some rows are there: its share is the same
    said = [one.communicate(timeout=120)[0] for one in (first, second)]
    assert [one.returncode for one in (first, second)] == [0, 0], said
    assert {path.name for path in cache.glob("index*.json")} == {"index.json", "index-1.json"}
    shares = [json.loads((cache / name).read_text())["shards"] for name in ("index.json", "index-1.json")]
    assert [sum(shard["rows"] for shard in share) for share in shares] == [75, 75]
    assert len(RowStore(cache)) == 150
    assert "150 rows, " in said[0]
