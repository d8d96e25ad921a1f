"""The recipes that edit facts, run for a few updates from an untrained model."""

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from trimtab.models.builtin import builtin_folder
from trimtab.runs.parse import parse
from trimtab.runs.run import run_stages
from trimtab.runs.shipped import recipe_folder

FEW = {
    "ft_m": {"max_steps": 2},
    "locft_bf": {"num_train_epochs": 1},
    "lora": {"num_train_epochs": 1},
}
CHECKED = {"limit": 2, "max_new_tokens": 4}


def shortened(name: str, out, **of_stages):
    """The stages of a recipe behind the one that teaches the facts, with fewer updates."""
    tree = yaml.safe_load((recipe_folder() / f"{name}.yaml").read_text())
    _, *stages = tree["stages"]
    stages[0]["models"]["policy"] = "characters-1m"
    for stage in stages:
        stage["training"] |= of_stages[stage["name"]]
        stage["eval"]["suites"]["edit"] |= CHECKED
    return parse({**tree, "stages": stages, "output": str(out)}, name, name)


def changed(one, other) -> set[str]:
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return {key for key in a if not torch.equal(a[key], b[key])}


@pytest.mark.slow
def test_tiny_etcon_trains_two_layers_by_psft_and_then_all_by_grpo(tmp_path):
    few = {"tpsft": {"max_steps": 9}, "consolidate": {"max_steps": 1, "max_completion_length": 4}}
    run_stages(shortened("tiny_etcon", tmp_path, **few), console=Console(quiet=True))
    first, second = tmp_path / "tpsft/model", tmp_path / "consolidate/model"
    wanted = {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert changed(builtin_folder("characters-1m"), first) == wanted
    assert (second / "model.safetensors").is_file()
    rows = (tmp_path / "consolidate/metrics.jsonl").read_text()
    assert '"reward"' in rows


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_the_other_editors_train_what_they_say(tmp_path, name):
    run_stages(shortened(f"tiny_edit_{name}", tmp_path, edit=FEW[name]), console=Console(quiet=True))
    found = changed(builtin_folder("characters-1m"), tmp_path / "edit/model")
    if name == "lora":
        assert len(found) == 4 * 7  # all linear layers, merged
    else:
        assert found == {"model.layers.3.mlp.down_proj.weight"}
