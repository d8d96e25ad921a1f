"""Commands that load a model: its dtype, its devices and an adapter, by one function; servers that load their own."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny
import tiny_folder
from trimtab.common import fingerprint
from trimtab.evals.models import HFModel
from trimtab.models.builtin import ModelNotFound
from trimtab.models.inference import LoadOptions, load_for_inference, with_adapter
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.models.scalar_head import with_scalar_head
from trimtab.signals.reward_model import ScoreSpec

FEW = ("--limit", "2", "--max-new-tokens", "3")


def saved(folder, dtype=torch.bfloat16, **changes):
    path = tiny_folder.save(folder, max_position_embeddings=4096, initializer_range=0.3, **changes)
    load_model(path).to(dtype).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint in bfloat16."""
    return saved(tmp_path_factory.mktemp("asked") / "model")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model):
    """An adapter that names a model which lies no more where it lay."""
    folder = tmp_path_factory.mktemp("asked") / "adapter"
    torch.manual_seed(3)
    settings = LoraConfig(r=2, target_modules=["o_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(load_model(model), settings)
    adapted.peft_config["default"].base_model_name_or_path = "/where/it/lay"
    adapted.save_pretrained(folder)
    return str(folder)


def reward_model(folder):
    scorer = with_scalar_head(tiny.model(vocab_size=tiny_folder.VOCAB, eos_token_id=0, pad_token_id=0), seed=0)
    scorer.to(torch.bfloat16).save_pretrained(folder)
    tiny_folder.byte_tokenizer().save_pretrained(folder)
    ScoreSpec("scalar", "mean", 1.0, outcomes=False).write(folder)
    return str(folder)


def words_of(command, model, tmp_path):
    """A small call of each command, and a function to what it says of the dtype."""
    tasks = [{"prompt": [{"role": "user", "content": f"{i}?"}], "answer": str(i)} for i in range(2)]
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    tiny_folder.write_jsonl(tmp_path / "pairs.jsonl", pairs)
    (tmp_path / "lines.txt").write_text("hello\nyou\n")
    out = tmp_path / "out"

    def stored(path):
        return lambda _: json.loads((out / path).read_text())["signature"]["dtype"]

    match command:
        case "eval":
            return ["eval", "socialbench", *FEW, "--model", model, "--out", out], stored("socialbench/evaluation.json")
        case "collect":
            more = ["--answers", "2", "--max-new-tokens", "3", "--model", model, "--out", out]
            return ["collect", tmp_path / "tasks.jsonl", *more], stored("collection.json")
        case "score":
            place = reward_model(tmp_path / "rm")
            return ["score", tmp_path / "pairs.jsonl", "--model", place, "--out", out], lambda said: said.rpartition(
                "dtype "
            )[2].partition(";")[0]
        case "generate":
            more = ["--prompt", "hi", "--max-new-tokens", "3"]
            found = re.compile(r"; dtype (\w+);")
            return ["generate", "--model", model, *more], lambda said: found.search(said)[1]
        case "compare-decoding":
            more = ["--prompts", tmp_path / "lines.txt", "--max-new-tokens", "3", "--strategies", "greedy"]
            return [
                "compare-decoding",
                "--model",
                model,
                *more,
                "--out",
                out.with_suffix(".html"),
            ], lambda _: json.loads(out.with_suffix(".meta.json").read_text())["signature"]["dtype"]
    raise AssertionError(command)


@pytest.mark.fast("*-None")
@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("command", ["eval", "collect", "score", "generate", "compare-decoding"])
def test_every_command_loads_the_checkpoints_dtype_or_the_given_one(trimtab, model, tmp_path, command, dtype):
    words, said = words_of(command, model, tmp_path)
    code, out, err = trimtab(*words, *([] if dtype is None else ["--dtype", dtype]), "--device-map", "auto")
    assert code == 0, err
    assert said(out + err) == (dtype or "bfloat16")


def test_layers_are_spread_over_the_devices_there_are_and_answer_as_before(model):
    """One layer is read from the disk when it runs, as where memory is too small for all of them."""
    parts = ("embed_tokens", "layers.0", "layers.2", "norm", "rotary_emb")
    places = {"lm_head": "cpu", "model.layers.1": "disk", **{f"model.{part}": "cpu" for part in parts}}
    spread, whole = load_model(model, device_map=places), load_model(model)
    assert {parameter.device.type for parameter in spread.parameters()} == {"cpu", "meta"}
    assert spread.to("cpu") is spread  # it stays where it was put
    assert fingerprint.of_model(spread) == fingerprint.of_model(whole)
    tokenizer = load_tokenizer(model)
    chats = [[{"role": "user", "content": text}] for text in ("hello", "a")]
    assert HFModel(spread, tokenizer).answer(chats, 6) == HFModel(whole, tokenizer).answer(chats, 6)
    assert HFModel(spread, tokenizer).compare(chats, [["A", "B"]] * 2) == HFModel(whole, tokenizer).compare(
        chats, [["A", "B"]] * 2
    )
    assert (
        load_for_inference(model, LoadOptions("auto", "auto")).dtype
        == load_for_inference(model).dtype
        == torch.bfloat16
    )


def test_an_adapter_reaches_all_layers_of_a_model_that_is_spread(model, adapter):
    """Also those that lie elsewhere until they run."""
    parts = ("embed_tokens", "layers.0", "layers.2", "norm", "rotary_emb")
    places = {"lm_head": "cpu", "model.layers.1": "disk", **{f"model.{part}": "cpu" for part in parts}}
    name = with_adapter(model, adapter)
    wanted, ids = load_for_inference(name), torch.arange(12)[None] * 3
    for device_map in (places, "auto"):
        found = load_model(name, dtype="auto", device_map=device_map)
        assert found.to("cpu") is found
        assert fingerprint.of_model(found) == fingerprint.of_model(wanted)
        assert torch.equal(found(input_ids=ids).logits, wanted(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_an_adapter_is_put_on_the_model_that_is_named_whatever_it_names_itself(model, adapter, dtype):
    ids = torch.arange(12)[None] * 3
    from peft import PeftModel

    wanted = PeftModel.from_pretrained(load_model(model, dtype=dtype), adapter).eval()(input_ids=ids).logits
    found = load_for_inference(with_adapter(model, adapter), LoadOptions(dtype))
    close = 1e-4 if dtype == "float32" else 0.3
    torch.testing.assert_close(found(input_ids=ids).logits, wanted, rtol=close, atol=close)
    assert (
        found(input_ids=ids).logits - load_for_inference(model, LoadOptions(dtype))(input_ids=ids).logits
    ).abs().max() > 2 * close
    assert load_tokenizer(with_adapter(model, adapter)).chat_template == tiny_folder.TEMPLATE
    with pytest.raises(ModelNotFound, match="/where/it/lay"):
        load_model(adapter)


@pytest.mark.parametrize("command", ["eval", "collect", "generate", "compare-decoding"])
def test_commands_take_an_adapter(trimtab, model, adapter, tmp_path, command):
    words, _ = words_of(command, model, tmp_path)
    code, out, err = trimtab(*words, "--adapter", adapter)
    assert code == 0, err
    assert "adapter" in out + err


def test_what_is_no_adapter_is_named(trimtab, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for place, message in (
        (tmp_path / "empty", f"--adapter: the folder {tmp_path}/empty holds no adapter_config.json"),
        (model, f"--adapter: {model} is not a PEFT adapter: it has no adapter_config.json"),
        (tmp_path / "nowhere", f"--adapter: there is no folder {tmp_path}/nowhere"),
    ):
        code, _, err = trimtab("generate", "--model", model, "--adapter", place, "--prompt", "hi")
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err


# ---------------------------------------------------------------- servers


@pytest.mark.parametrize("command", ["eval", "collect"])
@pytest.mark.parametrize("more", [["--dtype", "float32"], ["--device-map", "auto"], ["--adapter", "{adapter}"]])
def test_how_to_load_a_model_is_no_word_to_a_server(trimtab, server, adapter, tmp_path, command, more):
    words, _ = words_of(command, "m", tmp_path)
    given = [word.format(adapter=adapter) for word in more]
    code, _, err = trimtab(*words, "--endpoint", server.url, *given)
    assert (code, err.count("\n")) == (2, 1), err
    assert f"{more[0]}: only for a model that is loaded here, but --endpoint names a server" in err
    assert not (tmp_path / "out").exists()
    assert not server.seen


def echoing(place):
    from evals.test_models import language

    return language(load_model(place).float(), load_tokenizer(place))


@pytest.mark.fast("False")
@pytest.mark.parametrize("templated", [True, False])
def test_options_are_compared_on_a_server_that_echoes_as_on_the_model_itself(trimtab, server, tmp_path, templated):
    place = saved(tmp_path / "model", torch.float32)
    server.complete = echoing(place)
    words = ["eval", "socialbench", "--limit", "3", "--mode", "loglikelihood"]
    how = ["--tokenizer", place] if templated else []
    code, out, err = trimtab(
        *words, "--model", "m", "--endpoint", server.url, "--out", tmp_path / "server", "--batch", "2", *how
    )
    assert (code, err) == (0, ""), err
    assert ("options are scored after plain prompts; --tokenizer m" in out) is not templated
    if not templated:
        return
    assert trimtab(*words, "--model", place, "--out", tmp_path / "own")[0] == 0
    found, wanted = (
        [json.loads(line)["p"] for line in (tmp_path / name / "socialbench/samples.jsonl").read_text().splitlines()]
        for name in ("server", "own")
    )
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_server_that_does_not_is_refused_with_the_reason_and_nothing_is_left(trimtab, server, tmp_path):
    words = ["eval", "socialbench", "--limit", "3", "--model", "m", "--endpoint", server.url, "--out", tmp_path / "out"]
    code, _, err = trimtab(*words, "--mode", "loglikelihood")
    assert (code, err.count("\n")) == (2, 1), err
    assert "cannot compare options: it refused the request (" in err
    assert "use --mode generate" in err
    assert not (tmp_path / "out").exists()
    code, _, err = trimtab(*words, "--tokenizer", "m")
    assert code == 2
    assert "--tokenizer formats the prompts for which a server scores options" in err
