"""From trajectories to an agent: a recipe of stages trains the roles, the command puts them together, and they run."""

import json

import pytest
import yaml

import tiny_folder
from tiny_agent import TOOL

LORA = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def row(town):
    call = {"function": {"name": "look", "arguments": {"town": town}}}
    messages = [
        {"role": "user", "content": f"Weather in {town}?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "12 C"}, {"role": "assistant", "content": "12 C."},
    ]  # fmt: skip
    return {"tools": [TOOL], "messages": messages}


@pytest.mark.slow  # four trainings
def test_roles_are_trained_put_together_and_run(trimtab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_folder.save(tmp_path / "model", max_position_embeddings=2048)
    tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [row(town) for town in ("Bern", "Oslo", "Rome", "Lima")])
    roles = ("planner", "caller", "summarizer")
    tree = {
        "method": "sft", "models": {"policy": "model"}, "data": {"train": "rows.jsonl"}, "output": "runs/agent",
        "training": {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": 1500, "learning_rate": 0.01},
        "stages": [
            {"name": "backbone", "data": {"agent": "backbone"}},
            *({"name": r, "models": {"policy": "@backbone", "lora": LORA}, "data": {"agent": r}} for r in roles),
        ],
    }  # fmt: skip
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(tree))
    code, _, err = trimtab("train", "agent.yaml")
    assert code == 0, err
    runs = [word for role in roles for word in (f"--{role}", f"runs/agent/{role}")]
    code, said, err = trimtab("agent", "roles", "runs/agent/roles", *runs)
    assert code == 0, err
    assert f"caller: an adapter on {tmp_path / 'runs' / 'agent' / 'backbone' / 'model'}" in said
    words = ["--tools", "rows.jsonl", "--task", "Weather in Bern?", "--max-steps", "2", "--max-new-tokens", "6"]
    code, said, err = trimtab("agent", "run", "runs/agent/roles", *words, "--out", "made.jsonl")
    assert code == 0, err
    made = json.loads((tmp_path / "made.jsonl").read_text())
    assert made["ended"] == "steps"
    again = {key: value for key, value in tree.items() if key != "stages"}
    again |= {"data": {"train": "made.jsonl", "agent": "caller"}, "output": "runs/again"}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    code, said, err = trimtab("preview", "again.yaml")
    assert code == 0, err
    assert "1 trajectory gave 2 samples of the caller" in said
    code, said, err = trimtab(
        "agent", "run", "runs/agent/roles", *words[:-4], "--max-new-tokens", "6", "--max-steps", "1"
    )
    assert code == 0, err
    for role in ("backbone", "all"):
        code, _, err = trimtab("agent", "roles", f"runs/{role}", f"--{role}", "runs/agent/backbone/model")
        assert code == 0, err
        code, _, err = trimtab("agent", "run", f"runs/{role}", *words)
        assert code == 0, err
