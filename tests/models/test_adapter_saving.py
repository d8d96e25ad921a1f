"""Adapters as they are saved: without looking for their base, which may have a name of trimtab's alone."""

import json
import warnings

import pytest
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny_folder
from trimtab.models.adapter_saving import CONFIG, WEIGHTS, save


@pytest.mark.parametrize("target, stored", [("q_proj", False), ("embed_tokens", True)])
def test_the_base_is_not_looked_for_and_an_adapted_embedding_is_stored(tmp_path, target, stored):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder.save(tmp_path / "base"))
    policy = get_peft_model(model, LoraConfig(r=2, target_modules=[target], task_type="CAUSAL_LM"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save(policy, tmp_path / "adapter", "pieces-3m")
    assert not [str(one.message) for one in said if "config" in str(one.message)]
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["base_model_name_or_path"] == "pieces-3m"
    assert any("embed_tokens" in name for name in load_file(tmp_path / "adapter" / WEIGHTS)) == stored
