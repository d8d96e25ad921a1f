"""The builtin model is what its wheel holds: golden values, so that a broken conversion cannot pass."""

import pytest
import torch

from trimtab.models.loading import load_model, load_tokenizer

pytestmark = pytest.mark.slow
TEXT = (
    "The sun is a star at the center of the solar system. It gives light and heat to the Earth, and without it there "
    "would be no life. Plants use sunlight to grow, and animals eat the plants."
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("smollm2-135m")


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2-135m")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, world!", [19556, 28, 905, 17]),
        ("12345", [33, 34, 35, 36, 37]),  # digits one by one
        ("    if x:\n\treturn don't", [333, 585, 1792, 42, 198, 197, 5406, 1326, 982]),
        ("naïve café", [3546, 46494, 37366]),
        ("你好 🙂", [18645, 250, 48392, 138, 47526]),
    ],
)
def test_texts_have_their_known_ids_and_come_back(tokenizer, text, ids):
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    assert tokenizer.decode(ids) == text


def test_special_tokens_are_the_models_own(tokenizer):
    found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    assert found == (1, 2, 2, 0)


def test_a_chat_is_rendered_with_the_models_system_message(tokenizer):
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_has_its_size_and_a_tied_head(model):
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_plain_prose_has_its_known_perplexity(model, tokenizer):
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        nll = model(ids, labels=ids).loss.item()
    assert ids.size(1) == 43
    assert nll == pytest.approx(2.1114, abs=0.01)


def test_it_knows_the_capital_of_france(model, tokenizer):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, return_tensors="pt", add_generation_prompt=True, return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].size(1) :]
    assert tokenizer.decode(output, skip_special_tokens=True) == "The capital of France is Paris."
