"""A frozen teacher hands over the logits that its model would give, at the answer tokens, without gradient."""

import pytest
import torch
from transformers import LlamaForCausalLM

import tiny
from trimtab.core import IGNORE
from trimtab.models.forward import UnsupportedModel
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore


def aligned(model, rows):
    """The model's own logits, one place before each answer token, picked by hand."""
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    answers = [(b, t) for b, row in enumerate(rows.labels.tolist()) for t, label in enumerate(row) if label != IGNORE]
    return torch.stack([logits[b, t - 1] for b, t in answers if t > 0])


@pytest.mark.parametrize("remember", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "phi"])
def test_its_logits_are_the_models_own_at_the_answer_tokens(kind, remember):
    model, rows = tiny.model(kind, seed=3), tiny.rows()
    signal = FrozenModel(model, store=RowStore() if remember else None)
    for _ in range(2):  # computed, and where it is remembered, recalled
        lazy = signal(None, rows.inputs())["teacher"]
        torch.testing.assert_close(lazy.compute(), aligned(model, rows), rtol=1e-4, atol=1e-5)
    assert lazy.vocab_size == tiny.VOCAB
    assert not lazy.compute().requires_grad


def test_the_model_is_frozen_in_eval_mode_and_named():
    model = tiny.model("gpt2").train()
    signal = FrozenModel(model, name="reference")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert signal.provides == {"reference"}
    assert signal(None, tiny.rows().inputs()).keys() == {"reference"}


def test_it_runs_in_its_own_dtype_whatever_the_autocast():
    model, rows = tiny.model(seed=3), tiny.rows()
    wanted = aligned(model, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = FrozenModel(model)(None, rows.inputs())["teacher"].compute()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_each_row_is_computed_once_and_found_in_any_other_batch():
    model, rows = tiny.model(seed=3), tiny.rows()
    signal, passes = FrozenModel(model, store=RowStore()), []
    model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))
    signal(None, rows.pick([0, 1]).inputs())
    signal(None, rows.pick([3, 0]).inputs())
    found = signal(None, rows.pick([3, 1, 0, 2]).inputs())["teacher"].compute()
    assert len(passes) == 4
    torch.testing.assert_close(found, aligned(model, rows.pick([3, 1, 0, 2])), rtol=1e-4, atol=1e-5)


def test_what_is_remembered_does_not_depend_on_the_batch_to_the_last_bit():
    model, rows = tiny.model(seed=3), tiny.rows()
    alone = FrozenModel(model, store=RowStore())(None, rows.pick([0]).inputs())["teacher"].hidden
    among = FrozenModel(model, store=RowStore())(None, tiny.rows(width=20).inputs())["teacher"].hidden
    assert torch.equal(among[: len(alone)], alone)


def test_another_set_of_rows_starts_with_an_empty_memory():
    model = tiny.model(seed=3)
    signal = FrozenModel(model, name="reference", store=RowStore())
    first, second = tiny.rows(seed=1), tiny.rows(seed=2)  # other tokens under the same row ids
    signal(None, first.inputs())
    other = FrozenModel(model, name="reference", store=RowStore())
    assert other.model is model
    assert other.provides == {"reference"}
    torch.testing.assert_close(
        other(None, second.inputs())["reference"].compute(), aligned(model, second), rtol=1e-4, atol=1e-5
    )


class Doubled(LlamaForCausalLM):
    """Does something to its logits that nobody was told of."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


def test_a_teacher_whose_logits_cannot_be_rebuilt_is_refused():
    with pytest.raises(UnsupportedModel):
        FrozenModel(Doubled(tiny.model().config))


def test_a_teacher_that_masks_tokens_hands_over_finite_logits():
    model = tiny.model("phi")
    with torch.no_grad():
        model.lm_head.bias[7] = -torch.inf
    logits = FrozenModel(model)(None, tiny.rows().inputs())["teacher"].compute()
    assert logits.isfinite().all()


def test_a_prompt_that_the_teacher_cannot_read_is_an_error_that_says_so():
    rows = tiny.rows(((3, 2),), vocab=40)
    rows.input_ids[0, 1] = 50
    with pytest.raises(ValueError, match="50"):
        FrozenModel(tiny.model(vocab_size=40))(None, rows.inputs())
