"""Each part of the table of memory, against numbers worked by hand for a model of two small layers."""

from pathlib import Path

import pytest

import tiny_folder
from trimtab.runs.estimate import MemoryEstimate, estimates
from trimtab.runs.parse import parse

FLOAT = 4
WIDTH, KEYS, INNER, HEADS, HEAD_WIDTH = 16, 8, 24, 2, 8
LAYER = 2 * WIDTH * WIDTH + 2 * WIDTH * KEYS + 3 * WIDTH * INNER + 2 * WIDTH  # q, o; k, v; gate, up, down; norms
EMBEDDING = tiny_folder.VOCAB * WIDTH  # the head is the same
LAYERS = 2
WEIGHTS = EMBEDDING + LAYERS * LAYER + WIDTH
ROWS, LENGTH, ANSWER = 2, 26, 14
"""the longest row is `|user|` count 13 `end` newline (11 tokens) and `|assistant|` 0 1 2 3 4 5 6 `end` (15), of which
13 characters and the end are learnt"""
TRAIN, HELD = 118, 50
"""answer tokens: 2 to 14 in turn, of 16 rows from the first on and of 5 from the third on"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def estimate(files):
    def made(method: str = "kd", **changes) -> MemoryEstimate:
        tree = tiny_folder.recipe(files, method, output=str(files / "out"), **changes)
        (found,) = estimates(parse(tree, "test", "run"))
        assert (found.rows, found.length) == (ROWS, LENGTH)
        return found

    made.teacher = files / "teacher"
    return made


def size(found: MemoryEstimate, start: str) -> int:
    return next(part.size for part in found.parts if part.name.startswith(start))


def test_weights_gradients_and_optimizer_state_are_one_one_and_two_numbers_a_weight(estimate):
    found = estimate()
    assert WEIGHTS == 8064
    assert size(found, "policy") == FLOAT * WEIGHTS
    assert size(found, "gradients of") == FLOAT * WEIGHTS
    assert size(found, "optimizer state") == 2 * FLOAT * WEIGHTS
    assert size(estimate(training={"optim": "sgd"}), "optimizer state") == 0
    assert size(estimate(training={"optim": "adagrad"}), "optimizer state") == FLOAT * WEIGHTS


def test_activations_are_what_each_operation_needs_for_its_gradient(estimate):
    norm = 2 * WIDTH + 1  # its input, that divided by its spread, and the spread
    attention = 2 * WIDTH + 2 * KEYS + HEADS + LENGTH  # q and the result; k, v; sums; the mask as numbers
    mlp = 4 * INNER  # gate, its SiLU, up, their product
    layer = 2 * (norm + WIDTH) + attention + mlp  # and what each norm gives to the layer's products
    ids = 2  # of eight bytes
    tokens = ROWS * LENGTH * (LAYERS * layer + norm + ids)
    positions = 2 * LENGTH * HEAD_WIDTH  # cosines and sines
    assert size(estimate(), "activations") == FLOAT * (tokens + positions)


def test_logits_are_a_block_of_each_model_and_five_tables_of_a_slice(estimate):
    table = FLOAT * ROWS * ANSWER * tiny_folder.VOCAB
    assert size(estimate("sft"), "logits, blocks") == (1 + 5) * table
    assert size(estimate("kd"), "logits, blocks") == (2 + 5) * table
    assert size(estimate("kd"), "logits in evaluation") == (2 + 5) * table
    assert size(estimate("kd", eval={"kl_to_initial": True}), "logits in evaluation") == (3 + 5) * table


def test_a_teacher_is_its_weights_and_its_cache_a_state_of_each_answer_token(estimate):
    teacher = WEIGHTS + LAYER
    assert size(estimate(), "teacher") == FLOAT * teacher
    half = estimate(models={"frozen_dtype": "bfloat16", "teacher_cache": "memory"})
    assert size(half, "teacher") == 2 * teacher
    assert size(half, "teacher cache") == FLOAT * WIDTH * (TRAIN + HELD)


def test_a_merged_adapter_is_compared_in_ten_tables_of_the_logits_of_four_rows(estimate):
    found = estimate(models={"lora": {"r": 4}, "student": str(estimate.teacher)})
    tokens = sum(13 + 2 * numbers for numbers in (3, 4, 5, 6))  # 12 of `count 100`, and `|assistant|`, numbers, `end`
    assert size(found, "saving: logits") == 10 * FLOAT * tokens * tiny_folder.VOCAB
    rest = sum(size(found, part) for part in ("policy", "optimizer", "activations", "teacher", "saving: the merged"))
    always = sum(size(found, part) for part in ("21 rows", "threads"))
    assert found.peak() == ("saving", size(found, "saving: logits") + rest + always)
    assert not any(part.name.startswith("saving") for part in estimate().parts)


def test_a_kv_cache_is_a_key_and_a_value_of_each_layer_and_token(estimate):
    tokens = 3 * (64 + 4)  # as many as a prompt is taken to have, and those that are written
    found = estimate(eval={"prompts": ["a", "b", "c"], "max_new_tokens": 4})
    assert size(found, "KV cache") == FLOAT * 2 * LAYERS * KEYS * tokens
