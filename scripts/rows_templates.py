"""The chat templates and tokenizers of the page of rows."""

import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}\n" + ASK
)
TOOLS = (
    """\
{% if tools %}{{ '<|im_start|>system\\nTools: ' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}
{% for c in m.tool_calls %}{{ '<call>' + c.function.name + (c.function.arguments | tojson) + '</call>' }}{% endfor %}
{{ '<|im_end|>\\n' }}{% endfor %}
"""
    + ASK
)
REWRITES = (
    """\
{% for m in messages %}{% set parts = m.content.split('</think>') %}
{% set thought = m.reasoning_content or (parts[0].split('<think>')[-1] | trim if parts | length > 1 else '') %}
{{ '<|im_start|>' + m.role + '\\n' }}
{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n' + thought + '\\n</think>\\n\\n' }}{% endif %}
{{ (parts[-1] | trim) + '<|im_end|>\\n' }}{% endfor %}
"""
    + ASK
)
OPENS = """\
{% for m in messages %}
{{ '<|im_start|>' + m.role + '\\n' + (m.content.split('</think>')[-1] | trim) + '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"""
SWITCH = """\
{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}
{% if m.role == 'assistant' and loop.last %}
{{ '<think>\\n' + (m.reasoning_content or '') + '\\n</think>\\n\\n' }}{% endif %}
{{ m.content + '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}
{% if not enable_thinking %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}"""
HASHES = """\
{% for m in messages %}{{ '### ' + m.role + '\\n' + m.content + '\\n\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"""
TEMPLATES = {
    "chatml": ("ChatML: each message between a begin and an end, and nothing else", CHATML),
    "tools": ("ChatML with tools and their calls, as Qwen 2.5 and Hermes have it", TOOLS),
    "rewrites": ("as Qwen 3: a thought is written in the last turn alone, and an empty one if there is none", REWRITES),
    "opens": ("as R1: the prompt opens a thought, and no turn keeps its own", OPENS),
    "switch": ("as hybrid models: the prompt closes an empty thought unless `enable_thinking` is set", SWITCH),
    "dated": (
        "writes the date into the system message, as Llama 3 does",
        "{{ '<|im_start|>system\\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\\n' }}\n" + CHATML,
    ),
    "no_system": (
        "refuses a system message, as Gemma 2 does",
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\n" + CHATML,
    ),
    "no_prompt": ("has no generation prompt", CHATML.removesuffix("\n" + ASK)),
    "shouts": ("changes texts", CHATML.replace("m.content", "m.content | upper")),
    "parts": (
        "reads content as a list of parts",
        CHATML.replace("m.content", "(m.content | map(attribute='text') | join)"),
    ),
    "hashes": ("no special token ends a turn", HASHES),
}
"""name -> what is special about it, and its source; line ends between its tags are left out when it is used"""

SPECIAL = ("<s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


def tokenizer(template: str | None, merges: tuple[str, ...], begins: bool, end: str) -> PreTrainedTokenizerFast:
    """Bytes and the special tokens.

    Args:
        merges: pairs of bytes, as byte-level tokenizers write them, that grow together.
        begins: whether a text begins with <s>.
        end: what the tokenizer calls its end token.
    """
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *merges]
    built = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [(pair[0], pair[1]) for pair in merges]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    if begins:
        built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token=end, pad_token=end)
    if template is not None:
        made.chat_template = re.sub(r"(?<=[}%]})\n(?=\{)", "", TEMPLATES[template][1])
    return made
