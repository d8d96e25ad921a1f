"""The token batch: which logits meet which label, and what is cropped, kept finite or refused."""

import pytest
import torch
from torch.nn import functional as F

from trimtab.core import (
    IGNORE,
    Candidates,
    LazyLogits,
    TokenBatch,
    answer_mask,
    predicting,
    reduce,
    weights,
    with_sampled_first,
)
from trimtab.core.batch import finite
from trimtab.methods import hpd
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

I = IGNORE  # noqa: E741

# two rows, the second padded; answers are the tokens 11, 12 (row 0) and 13 (row 1)
LABELS = torch.tensor([[I, I, 11, 12, I], [I, 13, I, I, I]])


def objectives():
    return {"sft": Likelihood(), "kd": Match(forward_kl, 1.0, 0.3), "hpd": hpd.HPD(hpd.Config())}


@pytest.fixture(params=["sft", "kd", "hpd"])
def objective(request):
    return objectives()[request.param]


def located(b, t, v):
    """Logits that say where they come from: 100 b + t in every column."""
    return (100 * torch.arange(b)[:, None, None] + torch.arange(t)[:, None]).float().expand(b, t, v).contiguous()


def test_logits_at_t_meet_the_label_at_t_plus_1():
    batch = TokenBatch.align(located(2, 5, 20), LABELS)
    assert batch.targets.tolist() == [11, 12, 13]
    assert batch.logits()[:, 0].tolist() == [1, 2, 100]


def test_answer_mask_says_which_predictions_count():
    assert answer_mask(LABELS).tolist() == [[False, True, True, False], [True, False, False, False]]


def test_predicting_states_are_those_one_place_before_the_answer_tokens():
    states = located(2, 5, 3)
    assert predicting(states, LABELS)[:, 0].tolist() == [1, 2, 100]
    assert predicting(states, LABELS).shape == (3, 3)
    assert predicting(states[..., 0], LABELS).tolist() == [1, 2, 100]


def test_the_first_token_of_a_row_is_no_answer_token():
    batch = TokenBatch.align(located(1, 3, 20), torch.tensor([[5, 6, 7]]))
    assert batch.targets.tolist() == [6, 7]
    assert batch.logits()[:, 0].tolist() == [0, 1]
    assert answer_mask(torch.tensor([[5, 6, 7]])).tolist() == [[True, True]]


def test_rows_positions_and_lengths_of_ragged_rows():
    labels = torch.tensor([[I, 1, 2, 3, I], [I, I, I, I, I], [9, I, 4, I, 5], [I, I, I, I, 6]])
    batch = TokenBatch.from_labels(labels, row_id=torch.tensor([70, 71, 72, 73]))
    assert batch.targets.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.row.tolist() == [0, 0, 0, 2, 2, 3]
    assert batch.position.tolist() == [0, 1, 2, 0, 1, 0]
    assert batch.lengths.tolist() == [3, 0, 2, 1]
    assert batch.row_id[batch.row].tolist() == [70, 70, 70, 72, 72, 73]
    assert len(batch) == 6


def test_row_ids_are_the_rows_indices_unless_given():
    assert TokenBatch.from_labels(LABELS).row_id.tolist() == [0, 1]
    assert TokenBatch.align(located(2, 5, 20), LABELS).row_id.tolist() == [0, 1]
    assert TokenBatch.align(located(2, 5, 20), LABELS, row_id=torch.tensor([8, 4])).row_id.tolist() == [8, 4]


def test_left_padding_gives_the_same_tokens_as_right_padding():
    right = TokenBatch.from_labels(torch.tensor([[I, 1, 2, I, I]]))
    left = TokenBatch.from_labels(torch.tensor([[I, I, I, 1, 2]]))
    assert left.targets.tolist() == right.targets.tolist()
    assert left.position.tolist() == right.position.tolist()


def test_a_signal_of_tokens_is_shifted_like_the_labels():
    of_token = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0], [10.0, 11.0, 12.0, 13.0, 14.0]])
    batch = TokenBatch.align(located(2, 5, 20), LABELS, {"advantages": of_token})
    assert batch.signals["advantages"].tolist() == [2, 3, 11]


def test_a_signal_of_rows_reaches_every_token_of_its_row():
    batch = TokenBatch.align(located(2, 5, 20), LABELS, {"reward": torch.tensor([0.5, -1.0])})
    assert batch.signals["reward"].tolist() == [0.5, 0.5, -1.0]


def test_another_models_logits_are_shifted_like_the_policys():
    batch = TokenBatch.align(located(2, 5, 20), LABELS, {"teacher": 1000 + located(2, 5, 20)})
    assert batch.logits("teacher")[:, 0].tolist() == [1001, 1002, 1100]


@pytest.mark.parametrize("policy, teacher", [(20, 16), (16, 20)])
def test_both_distributions_are_cropped_to_the_smaller_vocabulary(policy, teacher):
    labels = torch.tensor([[I, 3, 15, 16, 19]])
    logits, other = torch.randn(1, 5, policy), torch.randn(1, 5, teacher)
    batch = TokenBatch.align(logits, labels, {"teacher": other})
    assert batch.targets.tolist() == [3, 15]  # ids that one of the two does not have are no answers
    assert batch.lengths.tolist() == [2]
    assert batch.vocab_size == 16
    torch.testing.assert_close(batch.logits(), logits[0, :2, :16])
    torch.testing.assert_close(batch.logits("teacher"), other[0, :2, :16])
    # cropped before the softmax: probabilities of the kept ids sum to 1
    torch.testing.assert_close(batch.log_softmax().exp().sum(-1), torch.ones(2))
    torch.testing.assert_close(batch.log_softmax("teacher").exp().sum(-1), torch.ones(2))


def test_columns_that_are_cropped_get_no_gradient():
    labels = torch.tensor([[I, 3, 15, 16, 5]])
    for objective in (objectives()["kd"], objectives()["hpd"]):
        logits = torch.randn(1, 5, 20, requires_grad=True)
        batch = TokenBatch.align(logits, labels, {"teacher": torch.randn(1, 5, 16)})
        reduce(objective(batch), weights(batch, "token_mean")).backward()
        assert logits.grad[..., 16:].eq(0).all()
        assert logits.grad[0, [0, 1, 3], :16].ne(0).any(dim=-1).all()


def test_a_label_outside_the_only_vocabulary_is_no_answer():
    batch = TokenBatch.align(torch.randn(1, 4, 8), torch.tensor([[I, 8, 7, 100]]))
    assert batch.targets.tolist() == [7]
    assert batch.position.tolist() == [0]


def test_prompt_padding_and_last_position_get_no_gradient(objective):
    logits = torch.randn(2, 5, 20, requires_grad=True)
    batch = TokenBatch.align(logits, LABELS, {"teacher": torch.randn(2, 5, 20)})
    reduce(objective(batch), weights(batch, "token_mean")).backward()
    moved = logits.grad.ne(0).any(dim=-1)
    assert moved.tolist() == [[False, True, True, False, False], [True, False, False, False, False]]


def test_loss_does_not_change_with_the_logits_of_ignored_positions(objective):
    logits, teacher = torch.randn(2, 5, 20), torch.randn(2, 5, 20)
    ignored = ~F.pad(answer_mask(LABELS), (0, 1))
    other = torch.where(ignored[..., None], 100 * torch.randn(2, 5, 20), logits)
    one = objective(TokenBatch.align(logits, LABELS, {"teacher": teacher})).values
    two = objective(TokenBatch.align(other, LABELS, {"teacher": teacher})).values
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_minus_infinity_has_exactly_no_probability_and_stays_finite():
    logits = torch.tensor([[[0.0, -torch.inf, 0.0], [0.0, 0.0, 0.0]]])
    batch = TokenBatch.align(logits, torch.tensor([[I, 0]]))
    assert batch.logits().isfinite().all()
    assert batch.log_softmax().exp().tolist() == [[0.5, 0.0, 0.5]]
    assert finite(torch.tensor([-torch.inf, 2.0])).softmax(0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("who", ["policy", "teacher", "both"])
def test_masked_tokens_teach_finite_losses_and_no_gradient_of_their_own(who, objective):
    logits, teacher = torch.randn(2, 5, 20), torch.randn(2, 5, 20)
    if who != "teacher":
        logits[..., 7] = -torch.inf
    if who != "policy":
        teacher[..., 7] = -torch.inf
    logits.requires_grad_()
    batch = TokenBatch.align(logits, LABELS, {"teacher": teacher})
    losses = objective(batch)
    reduce(losses, weights(batch, "token_mean")).backward()
    assert losses.values.isfinite().all()
    assert logits.grad.isfinite().all()
    if who != "teacher":
        assert logits.grad[..., 7].eq(0).all()


def test_a_label_that_is_masked_out_has_a_finite_loss(objective):
    logits, teacher = torch.randn(2, 5, 20), torch.randn(2, 5, 20)
    logits[..., 11] = -torch.inf
    losses = objective(TokenBatch.align(logits, LABELS, {"teacher": teacher}))
    assert losses.values.isfinite().all()


def test_no_answer_token_at_all_gives_an_empty_batch_and_a_loss_of_zero(objective):
    logits = torch.randn(2, 5, 20, requires_grad=True)
    batch = TokenBatch.align(logits, torch.full_like(LABELS, I), {"teacher": torch.randn(2, 5, 20)})
    loss = reduce(objective(batch), weights(batch, "token_mean"))
    loss.backward()
    assert len(batch) == 0
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


def test_a_missing_signal_is_named_with_those_that_are_there():
    batch = TokenBatch.align(located(2, 5, 20), LABELS, {"advantages": torch.zeros(2)})
    for read in (batch.logits, batch.log_softmax, batch.logprobs):
        with pytest.raises(KeyError, match="no signal 'teacher'; it has: advantages, policy"):
            read("teacher")
    with pytest.raises(KeyError, match="no signal 'policy'; it has: none"):
        TokenBatch.from_labels(LABELS).logits()


def test_a_signal_that_is_no_table_of_logits_is_named():
    batch = TokenBatch.align(located(2, 5, 20), LABELS, {"advantages": torch.zeros(2)})
    with pytest.raises(KeyError, match=r"signal 'advantages' has shape \(3,\), expected logits"):
        batch.logits("advantages")
    with pytest.raises(KeyError, match="this batch holds no logits"):
        _ = TokenBatch.from_labels(LABELS, {"advantages": torch.zeros(3)}).vocab_size


def test_stored_logprobs_of_the_targets_are_read_as_they_are():
    stored = torch.tensor([-1.0, -2.0, -3.0], dtype=torch.bfloat16)
    batch = TokenBatch.from_labels(LABELS, {"snapshot": stored})
    assert batch.logprobs(of="snapshot").tolist() == [-1, -2, -3]
    assert batch.logprobs(of="snapshot").dtype == torch.float32
    with pytest.raises(KeyError, match="signal 'snapshot' holds log-probabilities of the targets only"):
        batch.logprobs(of="snapshot", ids=batch.targets)


def test_logprobs_are_those_of_the_targets_or_of_the_given_ids():
    logits = torch.randn(2, 5, 20)
    batch = TokenBatch.align(logits, LABELS)
    kept = torch.stack([logits[0, 1], logits[0, 2], logits[1, 0]]).log_softmax(-1)
    torch.testing.assert_close(batch.logprobs(), kept[torch.arange(3), torch.tensor([11, 12, 13])])
    ids = torch.tensor([[0, 5], [1, 1], [19, 2]])
    torch.testing.assert_close(batch.logprobs(ids=ids), kept.gather(1, ids))
    torch.testing.assert_close(batch.logprobs(ids=ids[:, 1]), kept.gather(1, ids)[:, 1])


@pytest.mark.parametrize("shape", [(3,), (3, 4)])
def test_logprobs_from_a_cached_log_softmax_equal_the_direct_ones(shape):
    ids = torch.randint(0, 20, shape)
    upstream = torch.randn(shape)
    found = []
    for keep in (False, True):
        logits = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(3)).requires_grad_()
        batch = TokenBatch.align(logits, LABELS)
        if keep:
            batch.log_softmax()
        values = batch.logprobs(ids=ids)
        values.backward(upstream)
        found.append((values, logits.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])


def test_logprobs_ignore_a_log_softmax_at_another_temperature():
    batch = TokenBatch.align(torch.randn(2, 5, 20), LABELS)
    before = batch.logprobs()
    batch.log_softmax(temperature=3.0)
    torch.testing.assert_close(batch.logprobs(), before, rtol=0, atol=0)


def test_temperature_divides_the_logits():
    logits = torch.randn(2, 5, 20)
    batch = TokenBatch.align(logits, LABELS)
    torch.testing.assert_close(batch.log_softmax(temperature=4.0)[0], (logits[0, 1] / 4).log_softmax(-1))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_log_softmax_of_bfloat16_logits_runs_in_float32(temperature):
    logits = torch.randn(2, 5, 20).bfloat16()
    batch = TokenBatch.align(logits, LABELS)
    assert batch.logits().dtype == torch.bfloat16
    wanted = (batch.logits().float() / temperature).log_softmax(-1)
    torch.testing.assert_close(batch.log_softmax(temperature=temperature), wanted, rtol=0, atol=1e-6)


def test_a_part_of_a_batch_holds_the_same_tokens_signals_and_draws():
    batch = TokenBatch.align(
        torch.randn(2, 5, 20),
        LABELS,
        {"reward": torch.tensor([0.5, -1.0])},
        row_id=torch.tensor([40, 41]),
        seed=5,
        step=2,
    )
    batch.log_softmax()
    part = batch[1:]
    assert part.targets.tolist() == [12, 13]
    assert part.row.tolist() == [0, 1]
    assert part.position.tolist() == [1, 0]
    assert part.lengths.tolist() == [2, 1]
    assert part.signals["reward"].tolist() == [0.5, -1.0]
    torch.testing.assert_close(part.logprobs(), batch.logprobs()[1:])
    torch.testing.assert_close(part.log_softmax(), batch.log_softmax()[1:])
    assert part.uniform().tolist() == batch.uniform()[1:].tolist()


def test_a_replaced_signal_is_the_one_that_is_read():
    batch = TokenBatch.align(torch.randn(2, 5, 20), LABELS)
    batch.log_softmax()
    other = torch.randn(3, 20)
    changed = batch.with_signals(policy=other)
    torch.testing.assert_close(changed.log_softmax(), other.log_softmax(-1))
    torch.testing.assert_close(changed.logprobs(), other.log_softmax(-1)[torch.arange(3), batch.targets])


def test_lazy_logits_are_computed_for_the_tokens_that_are_read_and_carry_no_gradient():
    head, hidden, seen = torch.nn.Linear(4, 20), torch.randn(3, 4), []

    def counted(x):
        seen.append(len(x))
        return head(x)

    batch = TokenBatch.from_labels(LABELS, {"teacher": LazyLogits(hidden, counted, 20)})
    part = batch[1:2]
    assert seen == []
    torch.testing.assert_close(part.logits("teacher"), head(hidden[1:2]).detach())
    part.logprobs(of="teacher")
    assert seen == [1]
    assert not part.logits("teacher").requires_grad


def test_lazy_logits_take_part_in_the_cropping():
    lazy = LazyLogits(torch.randn(3, 4), torch.nn.Linear(4, 16), 16)
    batch = TokenBatch.from_labels(LABELS, {"teacher": lazy, "policy": torch.randn(3, 20)})
    assert batch.vocab_size == 16
    assert batch.logits().shape == batch.logits("teacher").shape == (3, 16)


def test_a_table_of_ids_is_no_distribution_and_crops_nothing():
    batch = TokenBatch.align(torch.randn(2, 5, 20), LABELS)
    candidates = torch.randint(0, 20, (3, 4))
    more = batch.with_signals(candidates=candidates)
    assert more.vocab_size == 20
    torch.testing.assert_close(more.logprobs(ids=candidates), batch.log_softmax().gather(1, candidates))


def test_metrics_are_kept_as_sum_and_count_without_gradient():
    batch = TokenBatch.align(torch.randn(2, 5, 20, requires_grad=True), LABELS)
    values = batch.logprobs()
    losses = batch.losses(values, a=values, some=torch.tensor([True, False]), none=torch.zeros(0))
    total, number = losses.metrics["a"]
    torch.testing.assert_close(total, values.detach().sum())
    assert number == 3
    assert not total.requires_grad
    assert losses.metrics["some"] == (1, 2)
    assert losses.metrics["none"] == (0, 0)
    assert losses.values is values


def test_the_table_of_a_value_has_a_row_for_each_sequence_and_zeros_behind_its_end():
    labels = torch.tensor([[I, 1, 2, 3, I], [I, I, I, I, I], [9, I, 4, I, 5]])
    batch = TokenBatch.from_labels(labels)
    found = batch.table(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found.tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 0]]


def test_a_drawn_token_among_the_candidates_changes_places_with_the_first():
    ids, logprobs = torch.tensor([[7, 3, 9], [7, 3, 9]]), torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]])
    found = with_sampled_first(ids, logprobs, torch.tensor([9, 7]), torch.tensor([-3.0, -1.0]))
    assert found.ids.tolist() == [[9, 3, 7], [7, 3, 9]]
    assert found.logprobs.tolist() == [[-3, -2, -1], [-1, -2, -3]]


def test_a_drawn_token_that_is_no_candidate_moves_the_others_back_and_drops_the_last():
    ids, logprobs = torch.tensor([[7, 3, 9]]), torch.tensor([[-1.0, -2.0, -3.0]])
    found = with_sampled_first(ids, logprobs, torch.tensor([5]), torch.tensor([-8.0]))
    assert found.ids.tolist() == [[5, 7, 3]]
    assert found.logprobs.tolist() == [[-8, -1, -2]]
    alone = with_sampled_first(ids[:, :1], logprobs[:, :1], torch.tensor([5]), torch.tensor([-8.0]))
    assert (alone.ids.tolist(), alone.logprobs.tolist()) == ([[5]], [[-8]])


def test_candidates_are_all_different_and_the_drawn_token_stands_first_whatever_was_drawn():
    logits = torch.randn(200, 11)
    top = logits.log_softmax(-1).topk(4)
    drawn = torch.randint(0, 11, (200,))
    found = with_sampled_first(top.indices, top.values, drawn, logits.log_softmax(-1)[torch.arange(200), drawn])
    assert torch.equal(found.ids[:, 0], drawn)
    assert all(len(set(row)) == 4 for row in found.ids.tolist())
    torch.testing.assert_close(found.logprobs, logits.log_softmax(-1).gather(1, found.ids))


def test_candidates_are_cut_with_their_batch_and_crop_no_vocabulary():
    ids, logprobs = torch.tensor([[1, 2], [3, 4], [5, 6]]), -torch.rand(3, 2)
    batch = TokenBatch.align(torch.randn(2, 5, 20), LABELS)
    part = batch.with_signals(candidates=Candidates(ids, logprobs, mask=ids > 3))[1:].signals["candidates"]
    assert part.ids.tolist() == [[3, 4], [5, 6]]
    assert torch.equal(part.logprobs, logprobs[1:])
    assert part.mask.tolist() == [[False, True], [True, True]]
    assert part.advantages is None
    assert batch.with_signals(candidates=Candidates(ids, logprobs)).vocab_size == 20


def test_log_probabilities_of_candidates_and_the_entropy_are_the_policys():
    batch = TokenBatch.align(torch.randn(2, 5, 20), LABELS)
    ids = torch.randint(0, 20, (3, 4))
    logprobs, entropy = batch.logprobs_and_entropy(ids)
    torch.testing.assert_close(logprobs, batch.log_softmax().gather(1, ids))
    torch.testing.assert_close(entropy, -(batch.log_softmax().exp() * batch.log_softmax()).sum(-1))
    assert torch.equal(batch.logprobs_and_entropy()[0], batch.logprobs())
