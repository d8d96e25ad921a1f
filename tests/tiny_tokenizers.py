"""Two tokenizers of different kinds, trained on a few texts, and rows that both read."""

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

import tiny_folder
from trimtab.data.rows import prepare
from trimtab.data.two_tokenizers import TextSide, with_teacher
from trimtab.models.ends import end_tokens, turn_end

TEXTS = [
    "The river is long and the lake is deep.",
    "A long river, a deep lake, and the sea 🙂.",
    "Größe, 3.14 and 你好 are here.\n\nThe end.",
]


def byte_level(
    template: str | None = tiny_folder.TEMPLATE, size: int = 330, texts: Sequence[str] = TEXTS
) -> PreTrainedTokenizerFast:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(tiny_folder.SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    built.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="<|end|>", pad_token="<|end|>", chat_template=template
    )


LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


def metaspace(template: str | None = LLAMA, size: int = 120) -> PreTrainedTokenizerFast:
    """As Llama 2's: a space before the text, spaces as ▁, other characters as bytes, a token that begins texts."""
    built = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + size, special_tokens=special, show_progress=False, limit_alphabet=30
    )
    built.train_from_iterator(TEXTS, trainer)
    written = json.loads(built.to_str())
    written["added_tokens"] = written["added_tokens"][:3]  # bytes are ordinary tokens
    built = Tokenizer.from_str(json.dumps(written))
    built.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )
    made.add_tokens([AddedToken(one, normalized=False, special=False) for one in ("[INST]", "[/INST]")])
    return made


def side(tokenizer: PreTrainedTokenizerBase, role: str = "student") -> TextSide:
    return TextSide(tokenizer, role, set(end_tokens(tokenizer)), turn_end(tokenizer))


def aligned(row: dict, student: Any, teacher: Any, limit: int = 10**9, max_length: int = 10**9) -> dict[str, list[int]]:
    """The prepared row."""
    rows = prepare([row], student, max_length=max_length, end_ids=end_tokens(student), turns="each")
    found, _ = with_teacher(
        rows, [row], side(student), side(teacher, "teacher"), limit=limit, turns="each", chat=False, max_dropped=0.0
    )
    return found.rows[0]


def chat(answer: str, question: str = "What is there?") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
