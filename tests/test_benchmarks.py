"""The benchmarks at sizes that measure nothing: they run, their results are complete, their checks can fail."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import trimtab
from tiny_runs import in_child

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = (
    "head_and_loss",
    "distill_step",
    "packing",
    "teacher_cache",
    "startup",
    "ad_kd",
    "dial",
    "adapt_step",
    "decoding",
    "evaluation",
    "editing",
    "geomrel",
    "score",
    "math_verification",
    "rl_step",
    "processes",
    "engines",
    "rollouts",
    "agent",
    "gym",
)
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402


def run_quick(folder: Path) -> dict[str, tuple[dict, str]]:
    """script -> (its JSON, its stdout); all at the same time, since most of each is importing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(script: str) -> subprocess.Popen:
        words = [sys.executable, str(BENCHMARKS / f"{script}.py"), "--quick", "--results-dir", str(folder)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    results = {}
    for script, process in {script: start(script) for script in SCRIPTS}.items():
        out, err = process.communicate()
        assert process.returncode == 0, err
        results[script] = json.loads((folder / f"{script}-quick.json").read_text()), out
    return results


def check_signed(results: dict[str, tuple[dict, str]]) -> None:
    for script, (result, out) in results.items():
        assert result["benchmark"] == script
        assert result["quick"] is True
        assert {"trimtab", "commit", "command", "time", "cpu", "cores", "versions"} <= result["signature"].keys()
        assert result["signature"]["command"].startswith(f"python benchmarks/{script}.py --quick")
        assert "| ---" in out
        assert result["targets"], "what is promised stands beside what is found"
        for target in result["targets"]:
            assert target.keys() == {"what", "limit", "found", "met", "note"}
            assert target["met"] is None, "tiny sizes say nothing about a target"


@pytest.mark.slow
def test_a_quick_run_is_signed_and_checked_and_meets_no_target(tmp_path):
    """One of them, forked; the slow test runs them all."""
    results = {}
    for script in ("dial",):
        path = str(BENCHMARKS / f"{script}.py")
        code = f"import runpy, sys; sys.argv[0] = {path!r}; runpy.run_path({path!r}, run_name='__main__')"
        done = in_child(code, "--quick", "--results-dir", str(tmp_path), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        results[script] = json.loads((tmp_path / f"{script}-quick.json").read_text()), done.stdout
    check_signed(results)
    assert all(error < 1e-4 for cell in results["dial"][0]["cells"] for error in cell["same_logits"].values())


@pytest.mark.slow  # thirteen processes that import torch
def test_quick_runs_are_signed_and_checked_and_meet_no_target(tmp_path):
    """One test, so that the scripts run once however the tests are spread over processes."""
    results = run_quick(tmp_path)
    check_signed(results)
    head, step = results["head_and_loss"][0], results["distill_step"][0]
    assert head["same_loss"]["512x32"].keys() == {"forward_kl", "jsd", "hpd", "nll"}
    for compared in [step["same_loss"], *head["same_loss"]["512x32"].values()]:
        assert "trimtab" in compared
        assert all(errors["loss"] < 1e-4 and errors["gradient"] < 1e-3 for errors in compared.values())
    assert all(error < 1e-4 for cell in results["dial"][0]["cells"] for error in cell["same_logits"].values())
    for cell in [step["cells"], *(cell["contestants"] for cell in head["cells"])]:
        assert {"trimtab", "plain"} < cell.keys()
        assert all(c["memory_mib"] >= 0 and (c["time"]["seconds"] > 0 or n == "products") for n, c in cell.items())


@pytest.mark.slow  # two processes that import torch
def test_what_make_gpu_runs_works_on_the_cpu_and_is_refused_without_a_gpu(tmp_path):
    def started(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, str(BENCHMARKS / f"{script}.py"), *words, "--quick", "--results-dir", str(tmp_path)]
        return subprocess.run(whole, capture_output=True, text=True)

    assert started("head_and_loss", "--tune").returncode == 0
    assert started("gpu_steps", "--device", "cpu").returncode == 0
    for one in json.loads((tmp_path / "head_and_loss-quick.json").read_text())["tuned"]:
        assert len(one["tried"]) > 1
        assert one["best"]["seconds"] == min(each["seconds"] for each in one["tried"])
    steps = json.loads((tmp_path / "gpu_steps-quick.json").read_text())
    assert [cell["method"] for cell in steps["cells"]] == ["sft", "kd", "hpd", "grpo"]
    assert all(cell["answer_tokens"] == 2 * 16 for cell in steps["cells"])
    if not torch.cuda.is_available():
        refused = started("gpu_steps")
        assert refused.returncode == 1
        assert "torch sees no GPU here" in refused.stderr


@pytest.mark.slow  # six processes that import torch, one after the other, some beside a busy one
def test_waiting_threads_are_measured_idle_and_beside_a_busy_process(tmp_path):
    words = [sys.executable, str(BENCHMARKS / "shared_cores.py"), "--quick", "--results-dir", str(tmp_path)]
    subprocess.run(words, check=True, capture_output=True)
    result = json.loads((tmp_path / "shared_cores-quick.json").read_text())
    for by_name in result["cells"].values():
        assert {name: cell["spins"] for name, cell in by_name.items()} == {
            "trimtab": str(trimtab.SPINS),
            "spinning": "300000",
            "passive": None,
        }
        assert all(seconds > 0 for cell in by_name.values() for seconds in cell["seconds"].values())


def answer(loss: float = 2.0, scale: float = 1.0) -> common.Answer:
    return common.Answer(loss, {"hidden": torch.tensor([3.0, 4.0]) * scale})


def test_equal_answers_pass_the_check():
    errors = common.check_same({"plain": answer(), "ours": answer(2.0001, 1.0005)}, "plain")
    assert errors["ours"]["loss"] == pytest.approx(5e-5)
    assert errors["ours"]["gradient"] == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize("wrong", [answer(2.001), answer(scale=1.002), answer(float("nan")), answer(scale=-1.0)])
def test_check_refuses_another_loss_or_gradient(wrong):
    with pytest.raises(common.Different, match="ours does not compute what plain does"):
        common.check_same({"plain": answer(), "ours": wrong}, "plain")


def test_check_refuses_gradients_at_other_tensors():
    with pytest.raises(common.Different, match="head"):
        common.check_same({"plain": answer(), "ours": common.Answer(2.0, {"head": torch.ones(2)})}, "plain")


@pytest.mark.slow  # imports TRL into this process
def test_script_refuses_a_contestant_with_a_wrong_loss(monkeypatch):
    script = importlib.import_module("head_and_loss")
    monkeypatch.setitem(script.OBJECTIVES, "forward_kl", script.OBJECTIVES["jsd"])
    with pytest.raises(common.Different, match="trimtab does not compute what plain does"):
        script.check(script.Size(512, 32), ("forward_kl",), ("trimtab",))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_peak_counts_memory_that_was_given_back_and_none_from_before():
    mib = 2**20
    bytearray(300 * mib)
    assert 60 * mib < common.peak_bytes(lambda: bytearray(64 * mib)) < 100 * mib


@pytest.mark.slow
def test_alternation_times_every_contestant_equally_often_after_a_warm_up():
    calls = []
    timings = common.alternate({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2, patience=0)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert [len(timing.seconds) for timing in timings.values()] == [2, 2]


def test_what_does_not_fit_is_said_and_not_tried():
    assert common.does_not_fit(0) is None
    assert common.does_not_fit(2**60) == "does not fit: estimated 1073741824.0 GiB"


@pytest.mark.parametrize("found, verdict", [(0.9, "met"), (1.1, "NOT MET"), (None, "not measured")])
def test_target_says_plainly_if_it_was_met(found, verdict):
    assert str(common.Target("time over plain", 1.0, found)).startswith(f"{verdict}: time over plain <= 1")
