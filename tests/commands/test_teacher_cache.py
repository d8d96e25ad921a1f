"""A teacher is asked once: a run that reads the cache is the run with the live teacher, and a cache that does not fit
is refused before anything is trained."""

import json
import math
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
import torch
import yaml
from rich.console import Console
from transformers import BertConfig, BertLMHeadModel

import tiny
import tiny_folder
from tiny_runs import events, weights
from trimtab.common.errors import FailedOutside, UserError
from trimtab.core import TokenBatch
from trimtab.core.topk import top_k
from trimtab.data.collate import Collator
from trimtab.models import loading
from trimtab.models.forward import resolve_head
from trimtab.models.stored_head import load_head, store_head
from trimtab.runs.cached_teacher import cache_facts, open_cache
from trimtab.runs.parse import parse
from trimtab.runs.policy import policy_tokenizer
from trimtab.runs.rows import prepare_source
from trimtab.runs.run import run
from trimtab.runs.teacher_pass import cache_teacher
from trimtab.signals import row_store
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore, write_tensors

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.save(folder / "student", seed=5, num_hidden_layers=1)
    return folder


def tree(files: Path, output: Path, method: str = "kd", teacher: str | None = None, **changes) -> dict:
    made = tiny_folder.recipe(files, method, output=str(output), eval={"prompts": []}, **changes)
    made["models"] = {"policy": str(files / "student"), "teacher": teacher or str(files / "teacher")}
    return made


def parsed(files, output, method="kd", teacher=None, **changes):
    return parse(tree(files, output, method, teacher, **changes), "test", "run")


@pytest.fixture(scope="module")
def caches(files, tmp_path_factory) -> Path:
    """Folders hidden, bfloat16 and topk; whoever writes to one copies it."""
    folder = tmp_path_factory.mktemp("caches")
    made = parsed(files, folder / "never")
    cache_teacher(made, folder / "hidden", "hidden", console=QUIET)
    cache_teacher(made, folder / "bfloat16", "hidden", dtype="bfloat16", console=QUIET)
    cache_teacher(made, folder / "topk", "topk", k=16, console=QUIET)
    return folder


def batch_of(made, which="train"):
    tokenizer = policy_tokenizer(made)
    return Collator(0, tiny_folder.VOCAB)(prepare_source(made, which, tokenizer).rows)


@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_a_run_from_hidden_states_is_the_run_with_the_live_teacher(files, caches, tmp_path, method):
    live = run(parsed(files, tmp_path / "live", method), console=QUIET).folder
    alone = tmp_path / "elsewhere"
    shutil.copytree(files, alone)
    shutil.rmtree(alone / "teacher")  # the model is gone: nothing can load it
    cached = run(parsed(alone, tmp_path / "cached", method, f"cache:{caches / 'hidden'}"), console=QUIET).folder
    for event in ("train", "eval"):
        for one, other in zip(events(live, event), events(cached, event), strict=True):
            for key in one.keys() & {"loss", "forward_kl", "reverse_kl", "agreement", "teacher_nll", "grad_norm"}:
                assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), (event, key)
    assert tiny.relative_error(weights(cached), weights(live)) < 1e-3
    signature = (cached / "signature.txt").read_text()
    assert f"teacher: cache:{caches / 'hidden'} (hidden, float32) " in signature


LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
WAYS = {
    "packs": {"training": {"packing": True, "max_steps": 3, "learning_rate": 1e-3}},
    "an adapter": {"models": {"lora": LORA}},
    "micro-batches of one": {"training": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}},
    "three epochs": {"training": {"max_steps": -1, "num_train_epochs": 3}},
}


@pytest.mark.fast("*-packs", "kd-three epochs", "kd-an adapter")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_in_every_way_to_train_a_cached_teacher_gives_the_live_ones_losses(files, caches, tmp_path, method, way):
    found = []
    for name, teacher in (("live", None), ("cached", f"cache:{caches / 'hidden'}")):
        made = tree(files, tmp_path / name, method, teacher, training=WAYS[way].get("training", {}))
        made["models"] |= WAYS[way].get("models", {})
        made["training"]["learning_rate"] = 1e-3
        found.append([one["loss"] for one in events(run(parse(made, "test", "run"), console=QUIET).folder, "train")])
    assert len(found[0]) >= (12 if way == "three epochs" else 3)
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_loss_and_gradient_from_hidden_states_equal_the_live_teachers(files, caches, method):
    from trimtab.methods import hpd, kd
    from trimtab.models.forward import add_objective_forward
    from trimtab.signals.base import call_plan

    made = parsed(files, caches / "never", method, f"cache:{caches / 'hidden'}")
    inputs = batch_of(made)
    live = FrozenModel(loading.load_model(str(files / "teacher")))
    cached = open_cache(cache_facts(made))
    found = []
    for teacher in (live, cached):
        policy = loading.load_model(str(files / "student"))
        add_objective_forward(policy)
        module = {"kd": kd, "hpd": hpd}[method]
        out = call_plan(module.build(module.Config(), policy, teacher), policy, inputs)
        out.loss.backward()
        found.append((out.loss.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[0][1].norm()


def test_top_k_of_the_cache_is_that_of_the_live_teacher(files, caches):
    made = parsed(files, caches / "never", teacher=f"cache:{caches / 'topk'}")
    inputs = batch_of(made)
    live = FrozenModel(loading.load_model(str(files / "teacher")))(None, inputs)["teacher"].compute()
    expected = top_k(live, 16, TokenBatch.from_labels(inputs["labels"]).targets)
    found = open_cache(cache_facts(made))(None, inputs)["teacher"]
    assert torch.equal(found.ids, expected.ids)
    for name in ("logprobs", "rest", "label_logprobs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_a_run_from_the_most_likely_tokens_trains_and_says_what_it_knows(files, caches, tmp_path):
    folder = run(parsed(files, tmp_path / "run", "kd", f"cache:{caches / 'topk'}"), console=QUIET).folder
    live = run(parsed(files, tmp_path / "live"), console=QUIET).folder
    for one, other in zip(events(folder, "eval"), events(live, "eval"), strict=True):
        assert 0 < one["forward_kl"] <= other["forward_kl"] + 1e-2
        if one["step"] == 0:
            assert one["forward_kl"] <= other["forward_kl"]
            assert one["agreement"] == pytest.approx(other["agreement"])
            assert one["teacher_nll"] == pytest.approx(other["teacher_nll"], rel=1e-5)
    assert "known by its 16 most likely tokens, 0." in (folder / "metrics.jsonl").read_text()


def test_what_the_tokens_cost_is_measured_on_the_rows_and_stated_by_the_command_and_the_run(files, caches, tmp_path):
    made = parsed(files, tmp_path / "run", teacher=f"cache:{caches / 'topk'}")
    live, masses, lost = FrozenModel(loading.load_model(str(files / "teacher"))), [], []
    for which in ("train", "heldout"):
        p = live(None, batch_of(made, which))["teacher"].compute().softmax(-1).double()
        rest = p.sort(descending=True).values[:, 16:]
        mass = rest.sum(-1)
        entropy = -torch.special.xlogy(rest / mass[:, None], rest / mass[:, None]).sum(-1)
        masses.append(1 - mass)
        lost.append(mass * (math.log(tiny_folder.VOCAB - 16) - entropy))
    covered, left = (float(torch.cat(one).mean()) for one in (masses, lost))
    written = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "cache", "topk", k=16, console=QUIET)
    assert (written.covered, written.left_out) == (pytest.approx(covered, abs=1e-5), pytest.approx(left, abs=1e-5))
    assert f"a lower bound, {left:.4f} nats a token below" in written.said()
    folder = run(made, console=QUIET).folder
    for said in (written.said(), (folder / "metrics.jsonl").read_text(), (folder / "report.html").read_text()):
        assert f"off by at most {2 * (1 - covered):.4f} in sum over all others" in said


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [("hpd", {}, "HPD reads log-probabilities of any token"), ("kd", {"temperature": 2.0}, "at temperature 2")],
)
def test_what_k_tokens_cannot_give_is_refused_before_training(files, caches, tmp_path, method, options, said):
    made = parsed(files, tmp_path / "run", method, f"cache:{caches / 'topk'}", options=options)
    with pytest.raises(UserError, match=f"method {method} .*{said} .*--teacher hidden"):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_cache_beside_a_cache_in_memory_is_harmless_and_said(files, caches, tmp_path):
    made = tree(files, tmp_path / "run", "kd", f"cache:{caches / 'hidden'}", training={"max_steps": 1})
    made["models"]["teacher_cache"] = "disk"
    folder = run(parse(made, "test", "run"), console=QUIET).folder
    assert "models.teacher_cache=disk keeps nothing: the teacher is a cache" in (folder / "metrics.jsonl").read_text()
    assert not (folder / "teacher_cache").exists()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_completions_do_not_pile_up_in_a_cache(files, tmp_path, where, monkeypatch):
    tasks = tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": f"{i}+1=", "answer": "2"} for i in range(4)])
    made = tree(files, tmp_path / "run", "opd", reward="exact", data={"train": tasks, "heldout": tasks})
    made["training"] = {"max_steps": 2, "per_device_train_batch_size": 8, "max_completion_length": 4}
    made["models"]["teacher_cache"] = where
    monkeypatch.setattr(RowStore, "put", lambda *args, **counted: pytest.fail("a completion was kept"))
    folder = run(parse(made, "test", "run"), console=QUIET).folder
    assert f"models.teacher_cache={where} keeps nothing with method opd" in (folder / "metrics.jsonl").read_text()
    assert not (folder / "teacher_cache").exists()


def test_rollouts_cannot_be_read_from_a_cache(files, caches, tmp_path):
    made = tree(files, tmp_path / "run", "opd", f"cache:{caches / 'hidden'}", reward="exact")
    made["data"] = {"train": tiny_folder.write_jsonl(tmp_path / "t.jsonl", [{"prompt": "1+1=", "answer": "2"}] * 4)}
    made["training"] = {"max_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 4}
    with pytest.raises(UserError, match="opd samples new completions, and a cache only holds what"):
        parse(made, "test", "run")


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


def test_a_cache_of_another_tokenizer_or_template_is_refused_with_the_first_difference(files, caches, tmp_path):
    for what in ("tokenizer", "chat template"):
        student = tmp_path / what.replace(" ", "_")
        shutil.copytree(files / "student", student)
        tokenizer = tiny_folder.byte_tokenizer(tiny_folder.TEMPLATE + (" " if what == "chat template" else ""))
        if what == "tokenizer":
            tokenizer.add_special_tokens({"sep_token": "<|user|>"})
        tokenizer.save_pretrained(student)
        made = tree(files, tmp_path / "run", teacher=f"cache:{caches / 'hidden'}")
        made["models"]["policy"] = str(student)
        with pytest.raises(UserError, match=f"was made with a different {what} .* there, .* here"):
            run(parse(made, "test", "run"), console=QUIET)


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


def test_more_tokens_than_the_vocabulary_are_refused(files, tmp_path):
    with pytest.raises(UserError, match=r"--k 400: the vocabulary has 259 tokens"):
        cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "cache", "topk", k=400, console=QUIET)
    assert not (tmp_path / "cache").exists()


def test_little_covered_mass_is_warned_about(files, tmp_path, capsys):
    out = Console(width=400)
    made = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "cache", "topk", k=2, console=out)
    assert made.covered < 0.9
    assert f"warning: the 2 most likely tokens have {made.covered:.2f}" in capsys.readouterr().out
    all_of_it = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "all", "topk", k=259, console=out)
    assert all_of_it.covered == pytest.approx(1)
    assert "warning" not in capsys.readouterr().out


def bert() -> BertLMHeadModel:
    """Its head is a layer, a norm and a table."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    return BertLMHeadModel(BertConfig(vocab_size=tiny.VOCAB, is_decoder=True, **sizes))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "phi", "bert"])
def test_heads_of_every_shape_are_read_back_to_the_bit(kind, tmp_path):
    teacher = FrozenModel(bert() if kind == "bert" else tiny.model(kind, seed=3))
    store_head(teacher.model, tmp_path, write_tensors)
    hidden = teacher.hidden(tiny.rows().inputs())
    assert torch.equal(load_head(tmp_path)(hidden), resolve_head(teacher.model)(hidden))


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
