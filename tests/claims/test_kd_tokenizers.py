"""KD between tokenizers: a student with few rows ends below its SFT baseline on held-out rows."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import tiny
import tiny_folder
from tiny_runs import QUIET, events
from trimtab.runs.parse import parse
from trimtab.runs.run import run

SUBJECTS = ["The river", "A young fox", "My old neighbour", "The green machine", "Our teacher", "The last train"]
VERBS = ["watches", "carries", "remembers", "follows", "paints", "understands"]
OBJECTS = ["the silver moon", "a heavy stone", "every garden", "the quiet harbour", "some bread", "an ancient letter"]
ENDS = ["in the morning.", "without a sound.", "behind the mountain.", "for many years.", "when it rains."]


def sentences(seed: int, number: int) -> list[dict]:
    """Rows of a small grammar in which each part depends on the one before."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        a = draw.randrange(6)
        b = (a + draw.choice([0, 0, 0, 1, 2])) % 6
        c = (2 * b + draw.choice([0, 0, 1])) % 6
        end = ENDS[(b + c + draw.choice([0, 0, 3])) % 5]
        answer = f"{SUBJECTS[a]} {VERBS[b]} {OBJECTS[c]} {end}"
        turns = [{"role": "user", "content": "Say something."}, {"role": "assistant", "content": answer}]
        rows.append({"messages": turns})
    return rows


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(tiny_folder.SPECIAL), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [row["messages"][1]["content"] for row in sentences(99, 500)]
    built.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=built, eos_token="<|end|>", pad_token="<|end|>", chat_template=tiny_folder.TEMPLATE
    )


def save(folder: Path, size: int, seed: int) -> None:
    made = tokenizer(size)
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
    model = tiny.model(
        "llama_tied", seed, vocab_size=len(made), eos_token_id=0, pad_token_id=0, bos_token_id=None,
        max_position_embeddings=256, initializer_range=0.05, **wide,
    )  # fmt: skip
    model.save_pretrained(folder)
    made.save_pretrained(folder)


def trained(
    folder: Path, name: str, seed: int, steps: int, rows: str, method: str, models: dict, options: dict
) -> Path:
    tree = {
        "method": method,
        "models": models,
        "options": options,
        "data": {"train": str(folder / f"{rows}.jsonl"), "heldout": str(folder / "heldout.jsonl")},
        "training": {
            "per_device_train_batch_size": 16, "max_steps": steps, "learning_rate": 3e-3, "max_length": 128,
            "save_steps": steps, "lr_scheduler_type": "cosine", "warmup_steps": 10, "bf16": False,
        },
        "eval": {"every": steps},
        "seed": seed,
        "output": str(folder / f"{name}-{seed}"),
    }  # fmt: skip
    return run(parse(tree, "claim", name), console=QUIET).folder


@pytest.mark.claims
@pytest.mark.slow
def test_a_student_of_another_tokenizer_ends_below_its_sft_baseline(tmp_path):
    for name, number in (("many", 1500), ("few", 48), ("heldout", 64)):
        tiny_folder.write_jsonl(tmp_path / f"{name}.jsonl", sentences(len(name), number))
    save(tmp_path / "large", 480, 7)
    teacher = trained(tmp_path, "teacher", 0, 250, "many", "sft", {"policy": str(tmp_path / "large")}, {}) / "model"
    differences, table = [], []
    for seed in (0, 1, 2):
        save(tmp_path / f"small-{seed}", 300, seed)
        policy = str(tmp_path / f"small-{seed}")
        sft = trained(tmp_path, "sft", seed, 120, "few", "sft", {"policy": policy}, {})
        options = {"tokenizers": "different"}
        kd = trained(tmp_path, "kd", seed, 120, "few", "kd", {"policy": policy, "teacher": str(teacher)}, options)
        ends = [events(folder, "eval")[-1]["nll"] for folder in (sft, kd)]
        shares = events(kd, "train")[-1]
        table.append({"seed": seed, "sft": ends[0], "kd": ends[1], "matched": shares["matched"]})
        differences.append(ends[0] - ends[1])
    print(json.dumps(table, indent=1))
    assert min(differences) > 0  # 0.026, 0.012 and 0.028 nats a token when this was written
