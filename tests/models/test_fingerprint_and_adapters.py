"""Fingerprints change with content and with nothing else; adapters are drawn from their seed."""

import copy

import pytest
import torch

import tiny
from trimtab.common import fingerprint
from trimtab.models.adapters import AdapterError, add_lora
from trimtab.models.forward import add_objective_forward

WORDS = ["<unk>", "hello", "world"]


def test_equal_weights_have_equal_fingerprints():
    assert fingerprint.of_model(tiny.model(seed=1)) == fingerprint.of_model(tiny.model(seed=1))
    assert len(fingerprint.of_model(tiny.model())) == 16


def test_one_bit_of_one_weight_a_dtype_or_a_name_changes_the_fingerprint():
    model = tiny.model()
    changed, renamed = copy.deepcopy(model), torch.nn.Linear(2, 2)
    with torch.no_grad():
        weight = changed.model.norm.weight
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    same_values = torch.nn.Linear(2, 2)
    same_values.load_state_dict(renamed.state_dict())
    found = [fingerprint.of_model(m) for m in (model, changed, tiny.model().bfloat16(), tiny.model(seed=2))]
    assert len(set(found)) == 4
    assert fingerprint.of_model(renamed) == fingerprint.of_model(same_values)
    assert fingerprint.of_model(torch.nn.ModuleDict({"a": renamed})) != fingerprint.of_model(
        torch.nn.ModuleDict({"b": renamed})
    )


def test_a_tokenizers_fingerprint_is_its_words_and_special_tokens():
    one, two, other = tiny.tokenizer(WORDS), tiny.tokenizer(WORDS), tiny.tokenizer([*WORDS[:2], "word"])
    assert fingerprint.of_tokenizer(one) == fingerprint.of_tokenizer(two)
    assert fingerprint.of_tokenizer(one) != fingerprint.of_tokenizer(other)
    two.eos_token = "world"
    assert fingerprint.of_tokenizer(one) != fingerprint.of_tokenizer(two)


def test_a_datas_fingerprint_is_its_ids_tokens_and_labels_in_order():
    row = {"row_id": 3, "input_ids": [1, 2], "labels": [-100, 2]}
    wanted = fingerprint.of_rows([row, {**row, "row_id": 4}])
    assert fingerprint.of_rows([dict(reversed(row.items())), {**row, "row_id": 4}]) == wanted
    others = [
        fingerprint.of_rows(rows)
        for rows in (
            [{**row, "row_id": 4}, row],
            [row],
            [{**row, "labels": [-100, -100]}, {**row, "row_id": 4}],
            [{**row, "input_ids": [2, 2]}, {**row, "row_id": 4}],
            [{**row, "rejected_input_ids": [2, 2]}, {**row, "row_id": 4}],
            [{**row, "weak_delta": [0.5]}, {**row, "row_id": 4}],
        )
    ]
    assert len({wanted, *others}) == 7


def test_values_are_the_same_whatever_the_order_of_their_keys():
    assert fingerprint.of_values({"a": 1, "b": 2}) == fingerprint.of_values({"b": 2, "a": 1})
    assert fingerprint.of_values({"a": 1}) != fingerprint.of_values({"a": 2})
    assert fingerprint.of_text("a") != fingerprint.of_text("b")


def patched():
    model = tiny.model()
    add_objective_forward(model)
    return model


def test_adapters_are_drawn_from_their_seed_and_the_model_is_frozen():
    settings = {"r": 2, "target_modules": ["q_proj"]}
    one, two, other = (add_lora(patched(), settings, seed) for seed in (5, 5, 6))
    assert fingerprint.of_model(one) == fingerprint.of_model(two)
    assert fingerprint.of_model(one) != fingerprint.of_model(other)
    trainable = [name for name, p in one.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    ids = tiny.rows().input_ids
    assert torch.equal(one.eval()(input_ids=ids).logits, tiny.model()(input_ids=ids).logits)  # no effect at first


@pytest.mark.parametrize("settings", [{"rank": 2}, {"target_modules": ["no_such_layer"]}, {"r": -1}])
def test_settings_that_peft_does_not_take_cost_one_line_with_their_place(settings):
    with pytest.raises(AdapterError) as caught:
        add_lora(patched(), settings, 0)
    assert str(caught.value).startswith(("models.lora: ", "models.lora.r is -1; give a number from 1"))
    assert "\n" not in str(caught.value)
