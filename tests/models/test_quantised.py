"""Quantised checkpoints are read where that is possible, and never trained but beside adapters."""

import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

import tiny_folder
from trimtab.models.loading import load_model
from trimtab.models.quantised import QuantisedError, check_policy, is_quantised, keep_place

QUIET = Console(quiet=True)


@pytest.fixture
def fp8(tmp_path):
    """A folder whose linear layers are stored in 8 bits, with one scale for a block, and the values that it means."""
    tiny_folder.save(tmp_path / "fp8", "llama")
    path = tmp_path / "fp8/model.safetensors"
    stored, meant = {}, {}
    for name, value in load_file(path).items():
        stored[name] = meant[name] = value
        if name.endswith("proj.weight"):
            scale = value.abs().max() / 400
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
            meant[name] = stored[name].float() * scale
    save_file(stored, path, {"format": "pt"})
    config = tmp_path / "fp8/config.json"
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": quantised}))
    return tmp_path / "fp8", meant


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes with the packed weights")
def test_eight_bits_are_unpacked_where_there_is_no_gpu_and_the_model_is_an_ordinary_one(fp8):
    folder, meant = fp8
    model = load_model(str(folder))
    assert not is_quantised(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, meant[name], rtol=1e-2, atol=1e-4)


class Packed(torch.nn.Linear):
    """What a library of quantised layers gives: something that is not to be moved."""

    is_quantized = True

    def to(self, *_, **__):
        raise ValueError("`.to` is not supported for 8-bit models")


def packed(**quantizer):
    model = Packed(2, 2)
    model.config = type("Config", (), {"quantization_config": {"quant_method": "bitsandbytes"}})()
    model.hf_quantizer = type("Quantizer", (), {"is_trainable": True, **quantizer})()
    return model


def test_a_quantised_policy_trains_with_adapters_alone():
    check_policy(packed(), True, "m")
    with pytest.raises(QuantisedError, match=r"models\.policy: m is quantised \(bitsandbytes\).*models\.lora"):
        check_policy(packed(), False, "m")
    with pytest.raises(QuantisedError, match="does not pass gradients"):
        check_policy(packed(is_trainable=False), True, "m")
    check_policy(torch.nn.Linear(2, 2), False, "m")  # type: ignore[arg-type]


def test_a_quantised_model_stays_where_its_loader_has_put_it_and_so_does_its_copy():
    import copy

    model = packed()
    keep_place(model)
    assert model.to("cpu") is model
    twin = copy.deepcopy(model)
    assert twin.to(torch.bfloat16) is twin
