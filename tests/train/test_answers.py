"""Held-out tasks that processes share are answered and measured as by one."""

import tiny
import tiny_folder
from trimtab.data.collate import Collator
from trimtab.models.forward import add_objective_forward
from trimtab.train.answers import graded

TOKENIZER = tiny_folder.byte_tokenizer()
TASKS = [{"prompt": "ab" * i, "row_id": 10 * i} for i in range(1, 6)]


def length(prompts, completions, **others):
    return [float(len(one)) for one in completions]


def test_shares_of_tasks_get_the_completions_of_the_whole():
    policy = tiny.model("llama", vocab_size=len(TOKENIZER))
    add_objective_forward(policy)

    def of(share):
        return graded(
            policy, TOKENIZER, TASKS, [length], Collator(0, len(TOKENIZER)), correct=[3.0], answers=2,
            max_new_tokens=5, temperature=1.0, batch=3, seed=1, share=share,
        )  # fmt: skip

    rows, texts = of((0, 1))
    assert len({one["text"] for one in texts}) > 5
    (first, said), (second, said_too) = of((0, 2)), of((1, 2))
    assert list(first) == [10, 30, 50]
    assert list(second) == [10, 20, 40]  # the first a second time, so that both make as many
    assert {**first, **second}.keys() == rows.keys()
    for row, found in {**second, **first}.items():
        assert {name: round(value, 4) for name, value in found.items()} == {
            name: round(value, 4) for name, value in rows[row].items()
        }
    assert said == [texts[i] for i in (0, 1, 4, 5, 8, 9)]
    assert said_too == [texts[i] for i in (0, 1, 2, 3, 6, 7)]
