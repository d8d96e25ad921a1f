"""Plain weights at one strength, and adapters: exact where they can be, and refused or distilled where not."""

import json
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_dial
import tiny_folder
from trimtab.commands.export import ExportSettings, export_into
from trimtab.common.errors import UserError
from trimtab.common.settings import SettingsError
from trimtab.runs import exporting, plain_export

QUIET = Console(quiet=True)
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def clm(tmp_path_factory):
    return tiny_dial.trained_run(tmp_path_factory.mktemp("clm"))


def logits(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


def test_at_0_it_is_the_original_model_with_its_tokenizer(clm, tmp_path, capsys, monkeypatch):
    code, out, _ = tiny_dial.command(capsys, monkeypatch, clm, tmp_path / "plain", "--strength", "0")
    assert code == 0
    assert "plain weights at strength 0, exact: the original model" in out
    before, written = (
        load_file(folder / "model.safetensors") for folder in (clm.parent / "teacher", tmp_path / "plain")
    )
    assert before.keys() == written.keys()
    assert all(torch.equal(before[name], written[name]) for name in before)
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert not {"trimtab_dial", "trimtab_identity_layer"} & config.keys()
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template == tiny_folder.TEMPLATE
    assert "How they were made: exact" in (tmp_path / "plain" / "README.md").read_text()


def test_at_1_it_is_the_trained_model_and_no_dial_any_more(clm, tmp_path):
    export_into(ExportSettings(run=clm, out=tmp_path / "plain", strength=1.0), QUIET)
    assert torch.equal(logits(tmp_path / "plain"), logits(clm / "model"))
    assert not torch.equal(logits(tmp_path / "plain"), logits(clm.parent / "teacher"))
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert not {"trimtab_dial", "trimtab_identity_layer"} & config.keys()
    assert not (tmp_path / "plain" / "custom_generate").exists()


def test_scaling_what_the_layer_writes_is_no_mixture_at_the_embedding():
    """Why other strengths are distilled: the MLP of the layer reads what its attention added."""
    from trimtab.models.identity_layer import blend, identity_layer

    model, _ = tiny_dial.expanded()
    with blend(model, lambda: torch.tensor([0.5])):
        mixed = model(IDS).logits
    layer = identity_layer(model)
    with torch.no_grad():
        layer.self_attn.o_proj.weight.mul_(0.5)
        layer.mlp.down_proj.weight.mul_(0.5)
    assert not torch.allclose(model(IDS).logits, mixed, atol=1e-2)


def test_another_strength_is_distilled_from_the_mixture(clm, tmp_path):
    tree = plain_export.distillation(exporting.source_of(clm), tmp_path / "half", 0.5)
    assert tree["method"] == "trra"
    assert tree["options"] == {"strength": 0.5}
    assert tree["models"]["policy"] == tree["models"]["reference"] == str(clm.parent / "teacher")
    assert tree["models"]["aligned"] == str(clm / "model")
    few = ("training.max_steps=2", "training.bf16=false")
    export_into(ExportSettings(run=clm, out=tmp_path / "half", strength=0.5, overrides=few), QUIET)
    assert {path.name for path in tmp_path.iterdir()} == {"half", "half.trra", "half.trra.yaml"}
    before, written = (
        load_file(folder / "model.safetensors") for folder in (clm.parent / "teacher", tmp_path / "half")
    )
    assert before.keys() == written.keys()
    assert not all(torch.equal(before[name], written[name]) for name in before)
    card = (tmp_path / "half" / "README.md").read_text()
    assert "How they were made: distilled by TrRa" in card
    assert "not exact" in card


def test_a_distillation_that_cannot_start_leaves_nothing(clm, tmp_path, capsys, monkeypatch):
    words = (clm, tmp_path / "half", "--strength", "0.5", "training.max_stepz=2")
    assert "max_stepz" in tiny_dial.refused(capsys, monkeypatch, tmp_path, *words)
    loose = shutil.copytree(clm / "model", tmp_path / "loose")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, loose, tmp_path / "half", "--strength", "0.5")
    assert "strength 0.5 has no plain weights and has to be distilled" in said


def test_an_adapter_is_one_that_peft_loads(tmp_path):
    from peft import PeftModel

    lora = {"r": 2, "target_modules": "all-linear"}
    run = tiny_dial.trained_run(tmp_path / "dpo", "dpo", lora=lora)
    export_into(ExportSettings(run=run, out=tmp_path / "adapter", adapter=True), QUIET)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "teacher")
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(adapted(IDS).logits, logits(run / "model"), rtol=1e-4, atol=1e-4)
    assert not (tmp_path / "adapter" / "config.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").chat_template == tiny_folder.TEMPLATE
    with pytest.raises(UserError, match="has no dial: no layer was inserted .*; add --adapter to write its adapter"):
        export_into(ExportSettings(run=run, out=tmp_path / "dial"), QUIET)


def test_an_inserted_layer_is_no_adapter(clm, tmp_path, capsys, monkeypatch):
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, clm, tmp_path / "out", "--adapter")
    assert "PEFT cannot express an inserted layer: an adapter changes modules that the base model has" in said
    tiny_folder.save(tmp_path / "plain")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "plain", tmp_path / "out", "--adapter")
    assert "has no adapter: it was trained without models.lora" in said


@pytest.mark.parametrize(
    "how, message",
    [
        ({"strength": float("nan")}, "--strength is nan; it must be a finite number"),
        ({"strength": "much"}, "--strength is 'much'; it must be a number"),
        ({"strength": 11}, "at most 10"),
        ({"adapter": True, "strength": 1.0}, "leave out --strength"),
        ({"range": "0,1", "strength": 1.0}, "leave it out with --strength"),
        ({"overrides": ("training.max_steps=2",)}, "is for a strength that is distilled"),
        ({"out": "run"}, "is the run itself"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(how, message):
    with pytest.raises(SettingsError, match=message):
        ExportSettings(**{"run": "run", "out": "out", **how})
