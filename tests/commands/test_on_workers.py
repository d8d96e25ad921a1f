"""`--ray`: what workers of Ray compute is what one process computes, also when one of them is killed in the middle."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

import tiny_caches
import tiny_folder
from trimtab.common import on_ray
from trimtab.models.loading import load_model
from trimtab.models.scalar_head import with_scalar_head
from trimtab.signals.reward_model import ScoreSpec
from trimtab.signals.row_store import RowStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not on_ray.installed(), reason="ray is not installed: pip install 'trimtab[ray]' in an environment of its own"
    ),
]
NUM_PAIRS = 60


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_caches.lay_out(tmp_path_factory.mktemp("files"))
    for seed, name in enumerate(("weak_reference", "weak_aligned"), start=3):
        tiny_folder.save(folder / name, seed=seed, num_hidden_layers=1)
    with_scalar_head(load_model(folder / "teacher"), seed=0).save_pretrained(folder / "rm")
    ScoreSpec("scalar", "mean", 1.0, False, method="q_rm").write(folder / "rm")
    tiny_folder.byte_tokenizer().save_pretrained(folder / "rm")
    tiny_folder.write_jsonl(folder / "pairs.jsonl", tiny_folder.pair_rows(NUM_PAIRS))
    tiny_folder.write_jsonl(folder / "tasks.jsonl", [{"prompt": f"{i}+1?", "answer": str(i + 1)} for i in range(6)])
    return folder


@pytest.fixture(scope="module")
def ray():
    """Two workers on this machine."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def workers() -> list[psutil.Process]:
    """The processes of Ray that have a model."""
    below = psutil.Process().children(recursive=True)
    return [one for one in below if "MapWorker" in " ".join(one.cmdline())]


class Killer(threading.Thread):
    """Kills a worker as soon as a file has lines."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self.path, self.lines_then = path, -1

    def run(self) -> None:
        while not self.path.is_file() or not self.path.stat().st_size:
            time.sleep(0.002)
        self.lines_then = self.path.read_bytes().count(b"\n")
        workers()[0].kill()


def test_scores_are_those_of_one_process_to_the_byte_though_a_worker_is_killed(files, tmp_path, trimtab, ray):
    words = ["score", files / "pairs.jsonl", "--model", files / "rm", "--batch-size", 1]
    assert trimtab(*words, "--out", tmp_path / "one")[0] == 0
    killer = Killer(tmp_path / "two" / "scores.jsonl")
    killer.start()
    code, _, said = trimtab(*words, "--out", tmp_path / "two", "--ray")
    assert code == 0, said
    assert 0 < killer.lines_then < 2 * NUM_PAIRS
    for name in ("scores.jsonl", "measures.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_what_one_process_has_begun_workers_go_on_with(files, tmp_path, trimtab, ray):
    words = ["score", files / "pairs.jsonl", "--model", files / "rm", "--batch-size", 4]
    assert trimtab(*words, "--out", tmp_path / "one")[0] == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    path = tmp_path / "two" / "scores.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:40]))
    code, out, said = trimtab(*words, "--out", tmp_path / "two", "--ray")
    assert code == 0, said
    assert f"40 of {2 * NUM_PAIRS} answers are already scored" in out
    assert path.read_bytes() == (tmp_path / "one" / "scores.jsonl").read_bytes()


def test_samples_are_those_of_one_process_to_the_byte(files, tmp_path, trimtab, ray):
    words = ["collect", files / "tasks.jsonl", "--model", files / "teacher", "--answers", 3, "--batch", 2]
    words += ["--max-new-tokens", 6, "--write", "completions"]
    assert trimtab(*words, "--out", tmp_path / "one")[0] == 0
    code, _, said = trimtab(*words, "--out", tmp_path / "two", "--ray")
    assert code == 0, said
    for name in ("samples.jsonl", "train.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_columns_are_those_of_one_process_to_the_byte(files, tmp_path, trimtab, ray):
    made = tiny_folder.recipe(files, "wspo", output=str(tmp_path / "never"), eval={"batch_size": 2, "prompts": []})
    made["models"] = {"policy": str(files / "teacher")}
    made["models"] |= {role: str(files / role) for role in ("weak_reference", "weak_aligned")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(made))
    for name, more in (("one", []), ("two", ["--ray"])):
        code, _, said = trimtab("precompute", tmp_path / "recipe.yaml", "--out", tmp_path / f"{name}.jsonl", *more)
        assert code == 0, said
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert "weak_delta" in json.loads((tmp_path / "two.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("kind", ["hidden", "topk"])
def test_a_teacher_cache_holds_what_one_process_writes(files, tmp_path, trimtab, ray, kind):
    tree = tiny_caches.tree(files, tmp_path / "never")
    tree["eval"]["batch_size"] = 2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    for name, more in (("one", []), ("two", ["--ray"])):
        words = ["precompute", tmp_path / "recipe.yaml", "--teacher", kind, "--out", tmp_path / name, *more]
        words += ["--k", 16] if kind == "topk" else []
        code, _, said = trimtab(*words)
        assert code == 0, said
    one, two = (RowStore(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) > 0
    for key in one._places:  # a slow call ends a shard early, so that files may differ
        for name, value in one.get(key).items():
            torch.testing.assert_close(two.get(key)[name], value, rtol=0, atol=0)
