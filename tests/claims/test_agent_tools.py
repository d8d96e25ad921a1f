"""The comparison of GLPFT with its baselines: equal updates, paired differences, and the script in a few updates."""

import json

import agent_tools
import pytest
from agent_tools import ARMS, GLPFT, ROLES, SPLITS, compared, shares, stages


@pytest.mark.parametrize("updates", [10, 90, 101])
def test_each_arm_makes_as_many_updates(updates):
    steps = {one["name"]: one["training"]["max_steps"] for one in stages(updates, "model")}
    of_arms = {arm: sum(steps[stage] for stage in set(names.values())) for arm, names in ARMS.items()}
    of_arms[GLPFT] += steps["backbone"]
    assert set(of_arms.values()) == {updates}
    assert sum(shares(updates, (0.4, 0.4, 0.2))) == updates


def test_roles_of_glpft_start_from_the_backbone_and_the_others_from_the_original():
    starts = {one["name"]: one["models"]["policy"] for one in stages(90, "model")}
    assert {name for name, start in starts.items() if start == "@backbone"} == {f"glpft_{role}" for role in ROLES}
    assert set(starts.values()) == {"@backbone", "model"}
    assert all("lora" in one["models"] for one in stages(90, "model"))
    assert not any("lora" in one["models"] for one in stages(90, "model", None))


def test_differences_are_paired_by_seed_and_left_out_where_one_was_not_measured():
    values = {"single": 0.25, "one stage": 0.5, "multi-task": 0.125, GLPFT: 0.75}
    seed = {arm: {split: {"plan accuracy": values[arm]} for split in ("all", *SPLITS)} for arm in ARMS}
    higher = {
        arm: {split: {"plan accuracy": value + 0.125} for split in ("all", *SPLITS)} for arm, value in values.items()
    }
    higher[GLPFT]["all"] = {"plan accuracy": 0.75 + 0.125, "ROUGE-L": 1.0}
    claims = compared([seed, higher])
    assert claims["plan accuracy, all: GLPFT minus single"][0] == 0.5
    assert claims["plan accuracy, heldout: one stage minus single"][0] == 0.25
    assert not [name for name in claims if name.startswith("ROUGE-L")]


@pytest.mark.slow  # eight trainings
def test_the_script_runs_from_end_to_end(tmp_path, capsys):
    out = tmp_path / "out.json"
    agent_tools.main(["--smoke", "--out", str(out)])
    found = json.loads(out.read_text())
    assert list(found["seeds"][0]) == list(ARMS)
    assert all("plan accuracy" in found["seeds"][0][arm][split] for arm in ARMS for split in SPLITS)
    assert "task success" in capsys.readouterr().out
