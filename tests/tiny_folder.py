"""A model, a tokenizer and rows on disk, for tests that go through recipes and the command line."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny

SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCAB = 3 + 256


def byte_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, and three special ones; knows every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    built = Tokenizer(models.BPE(vocabulary, []))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = template
    return tokenizer


def save(folder: Path, kind: str = "llama_tied", seed: int = 0, **changes: Any) -> str:
    """A tiny model with the byte tokenizer as a Hugging Face folder; returns its path."""
    changes = {"vocab_size": VOCAB, "num_hidden_layers": 3, "eos_token_id": 0, "pad_token_id": 0, **changes}
    changes = {"initializer_range": 0.1, "max_position_embeddings": 512, "bos_token_id": None, **changes}
    model = tiny.model(kind, seed, **changes)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def chat_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of unequal lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"count {i}"},
                {"role": "assistant", "content": " ".join(str(j) for j in range(i % 7 + 1))},
            ]
        }
        for i in range(start, start + count)
    ]


def pair_rows(count: int) -> list[dict[str, Any]]:
    """The same rows as preferences: the answer is chosen, its reverse with a full stop rejected."""
    pairs = []
    for row in chat_rows(count):
        *prompt, answer = row["messages"]
        rejected = {**answer, "content": answer["content"][::-1] + "."}
        pairs.append({"prompt": prompt, "chosen": [answer], "rejected": [rejected]})
    return pairs


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def recipe(folder: Path, method: str = "hpd", **changes: Any) -> dict[str, Any]:
    """The tree of a small recipe whose files lie in `folder`; the run folder is `folder/run`."""
    tree = {
        "method": method,
        "models": {"student": {"from": "teacher", "layers": 2}, "teacher": str(folder / "teacher")},
        "data": {"train": str(folder / "train.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        "training": {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            "learning_rate": 0.01,
            "save_steps": 2,
            "max_length": 64,
        },
        "eval": {"every": 3, "prompts": ["hello"], "max_new_tokens": 4},
        "output": str(folder / "run"),
    }
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) else value
    return tree


def lay_out(folder: Path) -> Path:
    """Everything that `recipe` names."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "teacher")
    write_jsonl(folder / "train.jsonl", chat_rows(16))
    write_jsonl(folder / "heldout.jsonl", chat_rows(5, start=100))
    return folder
