"""The experiment on edits of a toy: its measures by hand, and the script in a few updates."""

import json

import edit_toy
import pytest
from edit_toy import EDITED, FACTS, World, boxed, said, value_of
from language import where_first

from trimtab.rewards.edit import parts


def test_a_seed_fixes_the_world_and_every_edit_says_something_new():
    world = World.of(3)
    assert world == World.of(3)
    assert world != World.of(4)
    assert len(world.new) == EDITED
    assert all(world.values[subject] != value for subject, value in world.new.items())
    assert len(world.rows(4, 3)) == FACTS * 6 * 4


def test_what_is_said_is_what_the_reward_edit_takes():
    reply = said(2, 7).strip()
    assert (reply, value_of(reply)) == ("why2 <answer> \\boxed{v7} </answer>", boxed(7))
    assert parts(reply, "v7").reward == 1.0
    assert value_of(f"{reply} {reply}") is None
    assert value_of("why2 </answer>") is None
    ids = edit_toy.tokenizer()(reply)["input_ids"]
    assert len(ids) == 4
    assert edit_toy.tokenizer().decode(ids) == reply


def test_editors_are_compared_on_the_line_to_the_first_measurement_that_is_reliable_enough():
    path = [{"reliability": r, "locality": one} for r, one in ((0.0, 1.0), (0.5, 0.8), (1.0, 0.4), (0.5, 0.0))]
    assert where_first(path, "reliability", 0.75) == pytest.approx({"reliability": 0.75, "locality": 0.6})
    assert where_first(path, "reliability", 0.25) == pytest.approx({"reliability": 0.25, "locality": 0.9})
    assert where_first(path[:2], "reliability", 0.75) is None


@pytest.mark.slow
def test_the_script_writes_paths_stages_and_claims(tmp_path):
    edit_toy.main(["--smoke", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    (one,) = found["seeds"]
    assert [row["step"] for row in one["paths"]["tpsft"]] == [0, 2, 4]
    assert one["paths"]["tpsft"][0]["locality"] == 1.0
    assert abs(one["paths"]["tpsft"][0]["drift"]) < 1e-6
    assert set(one["stages"]) == {"edited", "consolidated", "grpo alone"}
    assert one["stages"]["edited"]["locality"] == one["paths"]["tpsft"][1]["locality"]
    assert "reliability: consolidated minus grpo alone" in found["claims"]
