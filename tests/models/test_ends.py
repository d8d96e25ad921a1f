"""End tokens: where answers end, by tokenizer, template and config together."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
import tiny_folder
import zoo
from trimtab.models.ends import call_end, end_tokens, next_turns, settle, turn_end

SPECIAL = [
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<|endoftext|>",
    "<|return|>", "<|start|>", "<|message|>", "<|END_RESPONSE|>", "<|END_OF_TURN|>", "<|START_OF_TURN|>", "   ",
]  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(template, bos=None, eos="</s>"):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *alphabet])}, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    found = PreTrainedTokenizerFast(tokenizer_object=built, bos_token=bos, eos_token=eos, pad_token="<pad>")
    found.chat_template = template
    return found


TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "chatml whose generation prompt is always there": (
        CHATML.partition("{% if")[0] + "{{ '<|im_start|>assistant\n' }}",
        "<|im_end|>",
    ),
    "a newline first": (CHATML.replace("<|im_end|>", "\n<|im_end|>"), "<|im_end|>"),
    "contents stripped": (CHATML.replace("m['content']", "m['content'] | trim"), "<|im_end|>"),
    "a system turn is needed": (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML,
        "<|im_end|>",
    ),
    "one turn alone": (
        "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}" + CHATML,
        "<|im_end|>",
    ),
    "contents as parts": (CHATML.replace("m['content']", "m['content'][0]['text']"), "<|im_end|>"),
    "llama 2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}",
        "</s>",
    ),
    "phi 3: a further end behind the last turn": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '</s>' }}{% endif %}",
        "<|end|>",
    ),
    "command r: two tokens end a turn": (
        "{% for m in messages %}{{ '<|START_OF_TURN|>' + m['role'] + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ '<|END_RESPONSE|>' }}{% endif %}{{ '<|END_OF_TURN|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN|>assistant' }}{% endif %}",
        "<|END_OF_TURN|>",
    ),
    "gpt-oss: the last turn ends otherwise": (
        "{% for m in messages %}{{ '<|start|>' + m['role'] + '<|message|>' + m['content'] }}"
        "{{ '<|return|>' if loop.last and m['role'] == 'assistant' else '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
        "<|return|>",
    ),
    "the end alone, at the end of the text": (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ '</s>' }}",
        "</s>",
    ),
    "text alone": ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", None),
    "text alone, with headers that are special": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n   \n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        None,
    ),
    "text alone, each turn after a bos": (
        "{% for m in messages %}{{ '<s>' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}",
        None,
    ),
    "refuses everything": ("{{ raise_exception('no') }}", None),
    "not a template": ("{% for", None),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_that_ends_a_turn_is_found(name):
    template, wanted = TEMPLATES[name]
    found = turn_end(tokenizer(template, bos="<s>"))
    assert (None if found is None else SPECIAL[found]) == wanted


def test_a_token_that_begins_and_ends_texts_ends_turns():
    both = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|endoftext|>' }}{% endfor %}"
    found = turn_end(tokenizer(both, bos="<|endoftext|>", eos="<|endoftext|>"))
    assert found == SPECIAL.index("<|endoftext|>")


def test_without_a_template_the_tokenizer_alone_says_where_answers_end():
    plain = tokenizer(None)
    assert turn_end(plain) is None
    assert end_tokens(plain) == (2,)
    assert end_tokens(tokenizer(None, eos=None)) == ()


@pytest.mark.parametrize(
    ("config", "generation", "wanted"),
    [
        (2, 2, (2, 4)), (None, None, (2, 4)), (1, [8, 9], (1, 2, 4, 8, 9)), ([4], None, (2, 4)), (-1, 7, (2, 4, 7)),
    ],
)  # fmt: skip
def test_ends_are_those_of_tokenizer_template_and_both_configs(config, generation, wanted):
    model = tiny.model("llama")
    model.config.eos_token_id, model.generation_config.eos_token_id = config, generation
    assert end_tokens(tokenizer(CHATML), model) == wanted


def test_the_config_of_a_composite_models_text_counts():
    class Composite:
        class config:
            eos_token_id = None

            @staticmethod
            def get_text_config():
                return type("Text", (), {"eos_token_id": 9})

    assert end_tokens(tokenizer(CHATML), Composite) == (2, 4, 9)


def test_the_saved_config_names_all_ends_and_keeps_what_its_authors_set(tmp_path):
    model, known = tiny.model("llama", pad_token_id=None), tokenizer(CHATML)
    config = model.generation_config
    config.eos_token_id, config.pad_token_id, config.do_sample, config.temperature = 2, None, False, 0.6
    said = settle(model, known)
    assert said is not None
    assert "'</s>', '<|im_end|>'" in said
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).generation_config
    assert again.eos_token_id == [2, 4]
    assert (again.pad_token_id, again.temperature, again.do_sample) == (0, 0.6, False)
    assert settle(model, known) is None


def test_a_padding_token_of_its_own_stays():
    model = tiny.model("llama")
    model.generation_config.pad_token_id = 5
    settle(model, tiny_folder.byte_tokenizer())
    assert model.generation_config.pad_token_id == 5


def test_a_call_may_end_with_a_token_of_its_own():
    assert call_end(zoo.of_bytes("gptoss")) == zoo.of_bytes("gptoss").convert_tokens_to_ids("<|call|>")
    assert call_end(zoo.of_bytes("qwen3")) is None
    assert call_end(zoo.of_bytes("llama3")) is None


def test_where_a_turn_has_no_end_what_begins_the_next_one_is_it():
    tokenizer = zoo.of_bytes("glm4moe")
    assert next_turns(tokenizer) == tuple(tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>"]))
    assert next_turns(zoo.of_bytes("qwen3")) == ()
