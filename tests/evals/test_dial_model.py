"""A suite is answered at one strength: the tokens of `realign`, and the options' probabilities under the mixture."""

import pytest
import torch

import tiny_dial
import tiny_folder
from trimtab.decoding._config import generate
from trimtab.decoding.realign import realign
from trimtab.evals.dial_model import DialModel
from trimtab.evals.models import HFModel

CHATS = [[{"role": "user", "content": "ab"}], [{"role": "user", "content": "a longer one"}]]
LABELS = [["A", "B"], ["yes", "no", "so"]]


@pytest.fixture(scope="module")
def models():
    return tiny_dial.expanded()


def dial(models, strength, **how):
    return DialModel(models[0], tiny_folder.byte_tokenizer(), "tiny", strength=strength, **how)


def logprobs(models, strength):
    """By single forwards of the two models."""
    tokenizer, found = tiny_folder.byte_tokenizer(), []
    for chat, labels in zip(CHATS, LABELS):
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        found.append({})
        for label in labels:
            ids = tokenizer(label, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                z1, z0 = (one(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] for one in models)
            mixed = ((1 - strength) * z0 + strength * z1).log_softmax(-1)
            found[-1][label] = float(mixed[torch.arange(len(ids)), torch.tensor(ids)].sum())
    return found


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.4, 1.0, 2.0])
def test_options_have_the_probabilities_of_the_mixture(models, strength):
    found = dial(models, strength).compare(CHATS, LABELS)
    for one, wanted in zip(found, logprobs(models, strength), strict=True):
        assert one == pytest.approx(wanted, abs=1e-4)


def test_the_ends_compare_as_the_two_models_do(models):
    for strength, model in ((0.0, models[1]), (1.0, models[0])):
        plain = HFModel(model, tiny_folder.byte_tokenizer()).compare(CHATS, LABELS)
        for one, wanted in zip(dial(models, strength).compare(CHATS, LABELS), plain, strict=True):
            assert one == pytest.approx(wanted, abs=1e-4)


def test_answers_are_those_of_realign(models):
    tokenizer, found = tiny_folder.byte_tokenizer(), []
    for strength in (0.0, 0.5, 1.5):
        wanted = []
        for chat in CHATS:
            given = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            ids = generate(models[0], tokenizer, given, 6, custom_generate=realign, strength=strength, do_sample=False)
            wanted.append(tokenizer.decode(ids[0, given["input_ids"].size(1) :], skip_special_tokens=True))
        found.append([one.text for one in dial(models, strength).answer(CHATS, 6)])
        assert found[-1] == wanted
    assert found[0] != found[1] != found[2]


def test_the_strength_stands_in_what_answers_depend_on(models):
    assert dial(models, 0.5).facts()["strength"] == "0.5"
