"""A teacher that is two models: their raw logits, mixed."""

import pytest
import torch

import tiny
from trimtab.core import TokenBatch
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.fused import FusedTeacher
from trimtab.signals.row_store import RowStore

ROWS = tiny.rows()


def pair(vocab=(tiny.VOCAB, tiny.VOCAB), remember=False) -> tuple[FrozenModel, FrozenModel]:
    """Two models of different kinds; the second has another width too."""
    reference = tiny.model("llama", seed=3, vocab_size=vocab[0])
    aligned = tiny.model("gemma2", seed=4, vocab_size=vocab[1], hidden_size=24)
    return (
        FrozenModel(reference, name="reference", store=RowStore() if remember else None),
        FrozenModel(aligned, name="aligned", store=RowStore() if remember else None),
    )


def own(signal: FrozenModel) -> torch.Tensor:
    return signal(None, ROWS.inputs())[signal.name].compute()


def fused(strength: float, models=None) -> torch.Tensor:
    return FusedTeacher(*(models or pair()), strength)(None, ROWS.inputs())["teacher"].compute()


@pytest.mark.parametrize(("strength", "which"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_the_scale_are_the_models_themselves_to_the_last_bit(strength, which):
    assert torch.equal(fused(strength), own(pair()[which]))


@pytest.mark.parametrize("strength", [-1.0, 0.3, 0.5, 1.5, 10.0])
def test_in_between_and_beyond_the_logits_are_linear_in_the_strength(strength):
    reference, aligned = (own(signal) for signal in pair())
    torch.testing.assert_close(fused(strength), (1 - strength) * reference + strength * aligned, rtol=1e-5, atol=1e-4)


def test_it_sharpens_beyond_the_aligned_model_in_the_direction_of_its_change():
    reference, aligned = (own(signal).log_softmax(-1) for signal in pair())
    direction = (aligned.exp() * (aligned - reference)).sum(-1)  # E[log ratio] under the aligned model, >= 0
    beyond = fused(1.5).log_softmax(-1)
    assert ((beyond.exp() * (aligned - reference)).sum(-1) > direction).all()


@pytest.mark.parametrize("vocab", [(tiny.VOCAB, 61), (61, tiny.VOCAB)])
def test_logits_are_cropped_to_the_smaller_vocabulary_before_they_are_mixed(vocab):
    signal = FusedTeacher(*pair(vocab), 0.5)
    lazy = signal(None, ROWS.inputs())["teacher"]
    reference, aligned = (own(one)[:, : tiny.VOCAB] for one in pair(vocab))
    assert signal.vocab_size == lazy.vocab_size == tiny.VOCAB
    torch.testing.assert_close(lazy.compute(), (reference + aligned) / 2, rtol=1e-5, atol=1e-5)
    batch = TokenBatch.from_labels(ROWS.labels, {"policy": torch.randn(13, 61), "teacher": lazy})
    assert batch.log_softmax("teacher").shape == batch.log_softmax().shape == (13, tiny.VOCAB)


def test_remembered_states_of_both_models_are_the_same_teacher():
    models = pair(remember=True)
    first, recalled = fused(1.5, models), fused(1.5, models)
    assert torch.equal(first, recalled)
    torch.testing.assert_close(first, fused(1.5), rtol=1e-4, atol=1e-4)


def test_a_part_of_the_tokens_can_be_read_alone_and_nothing_has_a_gradient():
    lazy = FusedTeacher(*pair(), 1.5)(None, ROWS.inputs())["teacher"]
    torch.testing.assert_close(lazy[3:7].compute(), lazy.compute()[3:7], rtol=1e-5, atol=1e-5)
    assert not lazy.compute().requires_grad


def test_models_of_two_dtypes_are_mixed_in_float32():
    reference, aligned = pair()
    aligned = FrozenModel(aligned.model.to(torch.bfloat16), name="aligned")
    mixed = fused(0.5, (reference, aligned))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, (own(reference) + own(aligned).float()) / 2, rtol=1e-5, atol=1e-5)


def test_both_models_are_listed_for_placement():
    models = pair()
    signal = FusedTeacher(*models, 0.5, name="fused")
    assert signal.models == [one.model for one in models]
    assert signal.provides == {"fused"}
