"""`trimtab export`: a finished run becomes a folder for other software, and nothing is left of one that fails."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_dial
import tiny_folder
import tiny_runs
from trimtab.common.errors import UserError
from trimtab.models.dial import DialConfig, DialError, read_dial
from trimtab.runs import exporting


@pytest.fixture(scope="module")
def clm(tmp_path_factory):
    return tiny_dial.trained_run(tmp_path_factory.mktemp("clm"))


# ---------------------------------------------------------------- with the dial


def test_a_run_becomes_an_ordinary_folder_with_its_weights_and_tokenizer(clm, tmp_path, capsys, monkeypatch):
    code, out, _ = tiny_dial.command(capsys, monkeypatch, clm, tmp_path / "new" / "dial")
    assert code == 0
    assert "recommended 0 to 1" in out
    folder = tmp_path / "new" / "dial"
    written, before = load_file(folder / "model.safetensors"), load_file(clm / "model" / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in written)
    assert AutoTokenizer.from_pretrained(folder).chat_template == tiny_folder.TEMPLATE
    assert (folder / "generation_config.json").read_bytes() == (clm / "model" / "generation_config.json").read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dial"]
    card = (folder / "README.md").read_text()
    assert "transformers serve --trust-remote-code dial" in card
    assert "method: clm" in card  # of the run's own card


def test_its_config_says_where_the_layer_is_and_who_trained_it(clm, tmp_path):
    exporting.export_dial(exporting.source_of(clm), tmp_path / "dial", (-0.5, 1.5))
    config = json.loads((tmp_path / "dial" / "config.json").read_text())
    before = json.loads((clm / "model" / "config.json").read_text())
    assert {**before, "trimtab_dial": config["trimtab_dial"]} == config
    dial = config["trimtab_dial"]
    assert dial["version"] == 1
    assert dial["layers"] == [0]
    assert dial["modules"] == ["model.layers.0"]
    assert dial["recommended"] == [-0.5, 1.5]
    assert dial["limits"] == [-10.0, 10.0]
    assert dial["default"] == 1.0
    assert dial["method"] == "clm"
    assert dial["base"] == str(clm.parent / "teacher")
    assert read_dial(tmp_path / "dial") == DialConfig(
        ("model.layers.0",), recommended=(-0.5, 1.5), method="clm", base=dial["base"]
    )
    again = tmp_path / "again"
    exporting.export_dial(exporting.source_of(tmp_path / "dial"), again)
    assert json.loads((again / "config.json").read_text()) == config


def test_the_code_is_beside_it_as_the_package_has_it(tmp_path):
    folder = tiny_dial.export(tmp_path)
    own = exporting.files("trimtab.decoding") / "dial" / "custom_generate" / "generate.py"
    assert (folder / "custom_generate" / "generate.py").read_text() == own.read_text()


def test_pickles_and_other_files_stay_behind(tmp_path):
    trained = tiny_dial.save(tmp_path / "trained")
    for name in ("training_args.bin", "notes.py", "optimizer.pt"):
        (trained / name).write_bytes(b"x")
    exporting.export_dial(exporting.source_of(trained), tmp_path / "dial")
    there = {path.name for path in (tmp_path / "dial").iterdir()}
    assert there == {
        "README.md", "config.json", "custom_generate", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip


def test_a_folder_of_another_version_is_refused(tmp_path):
    folder = tiny_dial.export(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "trimtab_dial": {"version": 7}}))
    with pytest.raises(DialError, match="its dial has version 7, and this trimtab reads version 1"):
        read_dial(folder)
    with pytest.raises(DialError, match="has no dial"):
        read_dial(tmp_path / "trained")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recommended": "wide"}, "trimtab_dial.recommended of config.json must be two finite numbers"),
        ({"recommended": [2, 1]}, "two finite numbers, the smaller one first, got .2, 1."),
        ({"limits": None}, "trimtab_dial.limits of config.json must be two finite numbers"),
        ({"limits": [-1, float("inf")]}, "two finite numbers"),
        ({"limits": [-1, 10**400]}, "two finite numbers"),
        ({"default": "strong"}, "trimtab_dial.default of config.json must be a finite number, got strong"),
        ({"default": True}, "must be a finite number, got True"),
        ({"default": 11}, "names strength 11, beyond its own limits, -10 to 10"),
        ({"recommended": [-20, 1]}, "names strength -20, beyond its own limits"),
        ({"modules": None}, "trimtab_dial.modules of config.json must be a list of names"),
        ({"layers": [3]}, r"trimtab_dial.layers of config.json must be \[0\]"),
        ({"merge": "embedding"}, "trimtab_dial.merge of config.json must be logits, got embedding"),
        ({"base": 3}, "trimtab_dial.base of config.json must be a text"),
    ],
)
def test_a_dial_that_is_not_of_its_form_is_refused(tmp_path, change, message):
    tree = {**DialConfig(("model.layers.0",), base="b").tree(), **change}
    (tmp_path / "config.json").write_text(json.dumps({"trimtab_dial": tree}))
    with pytest.raises(DialError, match=message):
        read_dial(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "has no dial"), ('{"trimtab_dial": 3}', "trimtab_dial of config.json is no mapping"), ("{", "cannot be")],
)
def test_a_config_without_a_dial_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DialError, match=message):
        read_dial(tmp_path)


# ---------------------------------------------------------------- mistakes


def test_a_folder_of_another_version_is_not_exported_again(tmp_path, capsys, monkeypatch):
    folder = tiny_dial.export(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "trimtab_dial": {"version": 7}}))
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, folder, tmp_path / "again")
    assert "its dial has version 7" in said


@pytest.mark.parametrize(("text", "message"), [("[1]", "config.json is not a JSON object"), ("{", "not valid JSON")])
def test_a_config_that_is_none_is_refused(tmp_path, capsys, monkeypatch, text, message):
    folder = tiny_dial.save(tmp_path / "trained")
    (folder / "config.json").write_text(text)
    for more in ([], ["--adapter"], ["--strength", "1"]):
        assert message in tiny_dial.refused(capsys, monkeypatch, tmp_path, folder, tmp_path / "out", *more)


def test_a_model_without_a_dial_is_refused(tmp_path, capsys, monkeypatch):
    tiny_folder.save(tmp_path / "plain")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "plain", tmp_path / "out")
    assert "plain has no dial: no layer was inserted into its model; train one with clm or inra" in said


def test_an_unfinished_run_is_refused(clm, tmp_path, capsys, monkeypatch):
    tiny_runs.cut_off(clm, tmp_path / "cut", 2)
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "cut", tmp_path / "out")
    assert f"cut is not finished; finish it with: trimtab train {tmp_path}/cut/recipe.yaml --resume" in said


def test_an_existing_folder_and_one_that_is_not_there_are_refused(clm, tmp_path, capsys, monkeypatch):
    (tmp_path / "out").mkdir()
    assert "out exists; choose another OUT" in tiny_dial.refused(capsys, monkeypatch, tmp_path, clm, tmp_path / "out")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "nothing", tmp_path / "new")
    assert "there is no folder" in said
    (tmp_path / "empty").mkdir()
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "empty", tmp_path / "new")
    assert "empty is neither a run nor the folder of a model" in said


def test_another_kind_of_model_is_refused_by_name(tmp_path, capsys, monkeypatch):
    tiny_dial.save(tmp_path / "trained", "olmo2")
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "trained", tmp_path / "out")
    assert "the dial of a model of kind olmo2 cannot be exported; supported are llama, mistral, qwen2, qwen3" in said


def test_weights_that_are_cut_off_are_refused(tmp_path, capsys, monkeypatch):
    weights = tiny_dial.save(tmp_path / "trained") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    said = tiny_dial.refused(capsys, monkeypatch, tmp_path, tmp_path / "trained", tmp_path / "out")
    assert "model.safetensors is cut off" in said


@pytest.mark.parametrize(
    "span, message",
    [("1", "is not LOW,HIGH"), ("a,b", "is not LOW,HIGH"), ("1,0", "a lower and a higher"), ("nan,1", "a lower and"),
     ("-11,1", "leaves the limits of the dial, -10 to 10")],
)  # fmt: skip
def test_a_range_that_is_none_is_refused(span, message):
    with pytest.raises(UserError, match=message):
        exporting.parse_span(span)


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    trained = tiny_dial.save(tmp_path / "trained")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        exporting.export_dial(exporting.source_of(trained), tmp_path / "new" / "dial")
    assert [path.name for path in tmp_path.iterdir()] == ["trained"]


def test_the_exported_model_loads_as_any_other(tmp_path):
    folder = tiny_dial.export(tmp_path, "qwen2")
    expanded, _ = tiny_dial.expanded("qwen2")
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(ids).logits, expanded(ids).logits)
