"""Runs on completions from a server, from the command line to the report."""

import pytest
import yaml
from transformers import AutoModelForCausalLM

import tiny_rollout_runs
from fake_engine import serving


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_rollout_runs.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture
def engine(tmp_path, files):
    with serving(AutoModelForCausalLM.from_pretrained(files / "other"), tmp_path / "weights") as one:
        yield one


def written(files, folder, server: str, weights, **changes) -> str:
    rollouts = {"engine": "vllm", "server": server, "weights_folder": str(weights), "wait": 0}
    made = tiny_rollout_runs.tree(files, folder / "run", rollouts=rollouts, **changes)
    (folder / "mine.yaml").write_text(yaml.safe_dump(made))
    return str(folder / "mine.yaml")


def test_a_run_says_what_sampled_for_it_and_is_resumed(trimtab, tmp_path, files, engine):
    mine = written(files, tmp_path, engine.url, engine.folder, training={"lr_scheduler_type": "constant"})
    code, _, err = trimtab("train", mine, "training.max_steps=4")
    assert code == 0, err
    before = len(engine.sent)
    engine.restart()  # with other weights, as after a crash of both
    code, _, err = trimtab("train", mine, "--resume")
    assert code == 0, err
    assert len(engine.sent) == before + 1  # one batch of rollouts for the last two steps
    run = tmp_path / "run"
    assert "engine: vllm in float32, correction sequence_mask, no bound to 3" in (run / "signature.txt").read_text()
    page = (run / "report.html").read_text()
    for said in ("by the vLLM server at", "importance ratio", "nats apart", "sending weights to the engine"):
        assert said in page, said
    steps = [one for one in tiny_rollout_runs.lines(run / "metrics.jsonl") if one["event"] == "train"]
    assert max(one.get("engine_logprob_difference", 0) for one in steps) < 1e-4
    assert [one["step"] for one in steps if "seconds_sync" in one] == [1, 3, 5]


def test_without_a_server_there_is_one_line_and_no_folder(trimtab, tmp_path, files):
    (tmp_path / "weights").mkdir()
    code, _, err = trimtab("train", written(files, tmp_path, "http://127.0.0.1:9", tmp_path / "weights"))
    assert code == 2
    assert "no server is up at http://127.0.0.1:9" in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_a_server_whose_rows_are_too_short_is_refused_with_the_longest(trimtab, tmp_path, files, engine):
    engine.config["max_model_len"] = 12
    code, _, err = trimtab("train", written(files, tmp_path, engine.url, engine.folder))
    said = " ".join(err.split())
    assert code == 2
    assert (
        "--max-model-len is 12, and prompt and completion have up to 20" in said
    )  # 12 of a chat with "count 10", and 8 new ones
    assert not (tmp_path / "run").exists()
