"""HPD against its own equations, its limits, and the policy-gradient form of the same update."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import tiny
from tiny_rollouts import Reader
from trimtab.core import IGNORE, Candidates, PlanError, Teacher, TokenBatch, reduce, weights
from trimtab.core.draws import inverse_cdf
from trimtab.methods.hpd import HPD, METHOD, Config, baseline_weights, hpd_weights, label_and_draw
from trimtab.models.forward import add_objective_forward
from trimtab.objectives import divergence as d
from trimtab.objectives.likelihood import Likelihood
from trimtab.signals.frozen import FrozenModel

V = 11
LABELS = torch.tensor(
    [
        [IGNORE, IGNORE, 3, 5, 2, 7, 1, IGNORE],
        [IGNORE, 4, 4, IGNORE, IGNORE, IGNORE, IGNORE, IGNORE],
        [IGNORE, 9, 8, 7, 6, 5, 4, 3],
    ]
)
ROW_ID = torch.tensor([12, 5, 40])


def logits_pair(seed=0, v=V, spread=1.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student = spread * torch.randn(*LABELS.shape, v, generator=generator)
    return student.requires_grad_(), spread * torch.randn(*LABELS.shape, v, generator=generator)


def align(student, teacher, step=0, labels=LABELS, row_id=ROW_ID) -> TokenBatch:
    return TokenBatch.align(student, labels, {"teacher": teacher}, row_id=row_id, seed=3, step=step)


def mean(batch: TokenBatch, objective=None) -> Tensor:
    return reduce((objective or HPD(Config()))(batch), weights(batch, "token_mean"))


def draws(batch: TokenBatch) -> Tensor:
    return inverse_cdf(batch.logits().detach().softmax(-1), batch.uniform())


def written_out(batch: TokenBatch, draw: Tensor) -> tuple[Tensor, Tensor]:
    """w* and w, token by token in Python floats, from the specification."""
    pull, push = [], []
    q, p = batch.logits().detach().double().softmax(-1), batch.logits("teacher").double().softmax(-1)
    for i, (label, drawn) in enumerate(zip(batch.targets.tolist(), draw.tolist())):
        q1, p1, q2, p2 = q[i, label].item(), p[i, label].item(), q[i, drawn].item(), p[i, drawn].item()
        k, k_drawn = q1 * (math.log(p1) - math.log(q1)), q2 * (math.log(p2) - math.log(q2))
        overestimated = drawn != label and k_drawn < 0
        if k > 0:
            pull.append(2 * p1 + k if overestimated else p1 + k)
        else:
            pull.append(k)
        push.append(k_drawn if overestimated else 0.0)
    return torch.tensor(pull), torch.tensor(push)


def log(*values):
    return torch.tensor(values).log()


# --- the weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "q, p, q_draw, p_draw, hit, expected",
    [
        # label underestimated, competitor overestimated: 2p + k and k'
        (0.2, 0.5, 0.4, 0.1, False, (2 * 0.5 + 0.2 * math.log(2.5), 0.4 * math.log(0.25))),
        # label underestimated, competitor not overestimated: p + k and 0
        (0.2, 0.5, 0.1, 0.4, False, (0.5 + 0.2 * math.log(2.5), 0.0)),
        # label underestimated and drawn: p + k and 0
        (0.2, 0.5, 0.2, 0.5, True, (0.5 + 0.2 * math.log(2.5), 0.0)),
        # label overestimated, competitor overestimated: k and k'
        (0.5, 0.2, 0.4, 0.1, False, (0.5 * math.log(0.4), 0.4 * math.log(0.25))),
        # label overestimated, competitor not overestimated: k and 0
        (0.5, 0.2, 0.1, 0.4, False, (0.5 * math.log(0.4), 0.0)),
        # label overestimated and drawn: its negative weight counts once
        (0.5, 0.2, 0.5, 0.2, True, (0.5 * math.log(0.4), 0.0)),
        # agreement at the label is "down": weight 0
        (0.3, 0.3, 0.1, 0.4, False, (0.0, 0.0)),
        # agreement at the competitor is no overestimate
        (0.2, 0.5, 0.3, 0.3, False, (0.5 + 0.2 * math.log(2.5), 0.0)),
    ],
)
def test_the_weights_of_every_branch_are_those_of_the_paper(q, p, q_draw, p_draw, hit, expected):
    pull, push = hpd_weights(log(q), log(p), log(q_draw), log(p_draw), torch.tensor([hit]))
    torch.testing.assert_close(pull, torch.tensor([expected[0]]))
    torch.testing.assert_close(push, torch.tensor([expected[1]]))


def test_the_objective_is_the_paper_written_out_token_by_token():
    branches = set()
    for seed in range(6):
        batch = align(*logits_pair(seed), step=seed)
        pull, push = written_out(batch, draws(batch))
        log_q = batch.logits().detach().log_softmax(-1)
        rows = torch.arange(len(batch))
        wanted = -(pull * log_q[rows, batch.targets] + push * log_q[rows, draws(batch)])
        torch.testing.assert_close(HPD(Config())(batch).values, wanted, rtol=1e-5, atol=1e-6)
        branches |= set(zip((pull > 0).tolist(), (push < 0).tolist(), (draws(batch) == batch.targets).tolist()))
    # pulled or not, pushed or not, and a draw that hit its label with either sign of k: all were met
    assert branches >= {(True, True, False), (False, True, False), (True, False, True), (False, False, True)}


def test_the_second_weight_is_never_positive_and_neither_has_a_gradient():
    student, teacher = logits_pair()
    batch = align(student, teacher)
    log_q, log_p = batch.log_softmax(), batch.log_softmax("teacher")
    pull, push = hpd_weights(log_q[:, 0], log_p[:, 0], log_q[:, 1], log_p[:, 1], torch.zeros(len(batch)).bool())
    assert push.le(0).all()
    assert push.lt(0).any()
    assert not pull.requires_grad
    assert not push.requires_grad


def test_gradient_at_the_logits_is_the_two_weighted_one_hots_minus_q():
    student, teacher = logits_pair()
    batch = align(student, teacher)
    mean(batch).backward()
    q = batch.logits().detach().softmax(-1)
    draw, rows = draws(batch), torch.arange(len(batch))
    pull, push = written_out(batch, draw)
    wanted = (pull + push)[:, None] * q
    wanted[rows, batch.targets] -= pull
    wanted[rows, draw] -= push
    found = TokenBatch.align(student.grad, LABELS).logits()
    torch.testing.assert_close(found, wanted / len(batch), rtol=1e-4, atol=1e-7)


# --- identities -------------------------------------------------------------------------------------------------


def test_a_student_equal_to_its_teacher_gets_loss_0_and_gradient_0():
    student, _ = logits_pair()
    loss = mean(align(student, student.detach().clone()))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.eq(0).all()


def test_no_answer_token_gives_a_finite_0():
    student, teacher = logits_pair()
    loss = mean(align(student, teacher, labels=torch.full_like(LABELS, IGNORE)))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.eq(0).all()


def test_draws_that_always_hit_leave_k_or_p_plus_k_on_the_label(monkeypatch):
    batch = align(*logits_pair())
    monkeypatch.setattr("trimtab.methods.hpd.inverse_cdf", lambda probabilities, uniform: batch.targets)
    losses = HPD(Config())(batch)
    q, p = batch.logprobs().detach(), batch.logprobs(of="teacher")
    k = q.exp() * (p - q)
    assert k.gt(0).any()
    assert k.lt(0).any()
    torch.testing.assert_close(losses.values, -torch.where(k > 0, k + p.exp(), k) * q)
    assert losses.metrics["draw_is_not_label"][0] == 0
    assert losses.metrics["competitor_active"][0] == 0


def test_a_renamed_vocabulary_with_the_draws_renamed_alike_leaves_the_loss_unchanged(monkeypatch):
    student, teacher = logits_pair()
    batch = align(student, teacher)
    wanted, draw = HPD(Config())(batch).values, draws(batch)
    order = torch.randperm(V)
    new_id = order.argsort()  # column v of the old vocabulary is column new_id[v] of the new one
    labels = torch.where(LABELS == IGNORE, IGNORE, new_id[LABELS.clamp(min=0)])
    monkeypatch.setattr("trimtab.methods.hpd.inverse_cdf", lambda probabilities, uniform: new_id[draw])
    renamed = HPD(Config())(align(student[..., order], teacher[..., order], labels=labels)).values
    torch.testing.assert_close(renamed, wanted)
    monkeypatch.setattr("trimtab.methods.hpd.inverse_cdf", lambda probabilities, uniform: draw)
    assert (
        HPD(Config())(align(student[..., order], teacher[..., order], labels=labels)).values - wanted
    ).abs().max() > 0.1


def test_a_constant_added_to_all_logits_of_a_position_changes_nothing():
    student, teacher = logits_pair()
    shifted = (student.detach() + 5 * torch.randn(*LABELS.shape, 1)).requires_grad_()
    moved = teacher + 5 * torch.randn(*LABELS.shape, 1)
    one, two = mean(align(student, teacher)), mean(align(shifted, moved))
    one.backward()
    two.backward()
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shifted.grad, student.grad, rtol=1e-4, atol=1e-6)


def test_the_gradient_sums_to_zero_over_the_vocabulary():
    student, teacher = logits_pair()
    mean(align(student, teacher)).backward()
    assert student.grad.sum(-1).abs().max() < 1e-7
    assert student.grad.abs().max() > 1e-3


def test_gradient_is_that_of_finite_differences_with_weights_and_draws_frozen():
    student, teacher = logits_pair()
    batch = align(student, teacher)
    mean(batch).backward()
    draw = draws(batch)
    pull, push = (w.double() for w in written_out(batch, draw))

    def frozen(x: Tensor) -> float:
        log_q = TokenBatch.align(x, LABELS).logits().log_softmax(-1)
        rows = torch.arange(len(batch))
        return -((pull * log_q[rows, batch.targets] + push * log_q[rows, draw]).sum() / len(batch)).item()

    x, step = student.detach().double(), 1e-6
    for b, t, v in [(0, 1, 3), (0, 2, 0), (0, 5, 1), (1, 0, 4), (2, 0, 9), (2, 6, 3), (2, 3, 8)]:
        up, down = x.clone(), x.clone()
        up[b, t, v] += step
        down[b, t, v] -= step
        slope = (frozen(up) - frozen(down)) / (2 * step)
        assert student.grad[b, t, v].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_a_sure_teacher_and_a_student_that_gives_the_label_nothing_make_it_plain_cross_entropy():
    student, teacher = logits_pair()
    batch = align(student, teacher)
    rows = torch.arange(len(batch))
    with torch.no_grad():  # almost no mass on the label under the student, all of it under the teacher
        low = batch.logits().clone()
        low[rows, batch.targets] -= 25.0
    sure = torch.zeros_like(low)
    sure[rows, batch.targets] = 60.0
    pull, _ = hpd_weights(
        low.log_softmax(-1)[rows, batch.targets],
        sure.log_softmax(-1)[rows, batch.targets],
        *(torch.zeros(len(batch)), torch.zeros(len(batch)), torch.ones(len(batch)).bool()),
    )
    torch.testing.assert_close(pull, torch.ones(len(batch)))
    alone = HPD(Config(student_sampling=False))
    policy = low.requires_grad_()
    tokens = batch.with_signals(policy=policy, teacher=sure)
    (found,) = torch.autograd.grad(alone(tokens).values.sum(), policy)
    (wanted,) = torch.autograd.grad(Likelihood()(tokens).values.sum(), policy)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


# --- the policy-gradient form -----------------------------------------------------------------------------------


def clipped_surrogate(logprob, old, advantage, low=0.2, high=0.28, dual=10.0):
    """PPO's clipped surrogate loss with a dual clip, a value per token."""
    ratio = (logprob - old).exp()
    worse = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))
    return torch.where(advantage < 0, torch.minimum(worse, -advantage * dual), worse)


def test_with_one_update_a_batch_the_loss_form_has_the_gradient_of_two_added_ppo_surrogates():
    student, teacher = logits_pair()
    batch = align(student, teacher)
    draw = draws(batch)
    (wanted,) = torch.autograd.grad(mean(batch), student, retain_graph=True)

    log_q, rows = batch.log_softmax(), torch.arange(len(batch))
    pull, push = written_out(batch, draw)
    terms = [
        clipped_surrogate(log_q[rows, ids], log_q[rows, ids].detach(), advantage)
        for ids, advantage in ((batch.targets, pull), (draw, push))
    ]
    surrogate = terms[0].mean() + terms[1].mean()
    (found,) = torch.autograd.grad(surrogate, student)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    # the values differ: the surrogate's is the mean of minus the weights
    torch.testing.assert_close(surrogate, -(pull + push).mean())


def test_a_draw_is_compared_with_its_own_label_and_not_with_the_one_before():
    # every draw is 5 and so is every label but the first: with the mask one place off, the hits are at other tokens
    n = 4
    student = torch.zeros(1, n + 1, V)
    student[..., 5] = 50.0
    teacher = torch.zeros(1, n + 1, V)  # overestimated everywhere
    batch = TokenBatch.align(student, torch.tensor([[IGNORE, 2, 5, 5, 5]]), {"teacher": teacher})
    losses = HPD(Config())(batch)
    assert draws(batch).tolist() == [5, 5, 5, 5]
    assert losses.metrics["draw_is_not_label"][0] == 1
    assert losses.metrics["competitor_active"][0] == 1
    k = -math.log(V)  # q = 1, p = 1 / V
    torch.testing.assert_close(losses.metrics["push"][0], torch.tensor(k))
    torch.testing.assert_close(losses.metrics["pull"][0], torch.tensor(3 * k + 2 / V), rtol=1e-4, atol=1e-5)


# --- draws ------------------------------------------------------------------------------------------------------


def test_any_split_into_micro_batches_has_the_same_draws_and_the_same_gradient():
    student, teacher = logits_pair()
    whole = align(student, teacher, step=4)
    (wanted,) = torch.autograd.grad(mean(whole), student)
    for groups in ([[0], [1], [2]], [[2, 0], [1]], [[1, 2, 0]]):
        found = torch.zeros_like(wanted)
        for rows in groups:
            part = align(student[rows], teacher[rows], step=4, labels=LABELS[rows], row_id=ROW_ID[rows])
            loss = reduce(HPD(Config())(part), weights(part, "token_mean", len(whole)))
            found += torch.autograd.grad(loss, student)[0]
        torch.testing.assert_close(found, wanted)


def test_another_step_or_seed_draws_other_competitors():
    student, teacher = logits_pair()
    assert draws(align(student, teacher, step=0)).tolist() != draws(align(student, teacher, step=1)).tolist()
    assert HPD(Config())(align(student, teacher, step=0)).values.tolist() != (
        HPD(Config())(align(student, teacher, step=1)).values.tolist()
    )


def test_evaluating_twice_gives_the_same_loss_and_leaves_the_generator_alone():
    student, teacher = logits_pair()
    state = torch.get_rng_state()
    assert mean(align(student, teacher)).item() == mean(align(student, teacher)).item()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_competitor_is_drawn_from_the_student_over_the_common_vocabulary():
    # an id that only the student has takes all its mass; the draw must come from what both have
    student = torch.zeros(1, 60, V)
    student[..., V - 1] = 50.0
    student[..., 3] = 5.0
    labels = torch.full((1, 60), 1)
    batch = TokenBatch.align(student, labels, {"teacher": torch.zeros(1, 60, V - 1)})
    assert draws(batch).max() < V - 1
    losses = HPD(Config())(batch)
    assert losses.values.isfinite().all()
    # id 3 has 94 % of the common mass and is overestimated
    assert losses.metrics["competitor_active"][0] > 45


def test_draws_from_bfloat16_logits_use_a_float32_softmax():
    student = torch.randn(1, 400, 1000).bfloat16()
    batch = TokenBatch.align(student, torch.zeros(1, 400, dtype=torch.long), {"teacher": torch.randn(1, 400, 1000)})
    drawn = inverse_cdf(batch.logits().float().softmax(-1), batch.uniform())
    rough = inverse_cdf(batch.logits().softmax(-1), batch.uniform())
    assert (drawn != rough).any()  # rounding would be seen
    ids = torch.stack([batch.targets, drawn], 1)
    lq, lp = batch.logprobs(ids=ids), batch.logprobs(of="teacher", ids=ids)
    pull, push = hpd_weights(lq[:, 0], lp[:, 0], lq[:, 1], lp[:, 1], drawn == batch.targets)
    torch.testing.assert_close(HPD(Config())(batch).values, -(pull * lq[:, 0] + push * lq[:, 1]))


# --- ablations and baselines ------------------------------------------------------------------------------------


def test_without_reinforcement_the_pull_is_p_plus_k_and_never_2p():
    arguments = log(0.2), log(0.5), log(0.4), log(0.1), torch.tensor([False])
    pull, push = hpd_weights(*arguments, reinforce=False)
    torch.testing.assert_close(pull, torch.tensor([0.5 + 0.2 * math.log(2.5)]))
    torch.testing.assert_close(push, hpd_weights(*arguments)[1])


def test_without_student_sampling_there_is_no_competitor_and_no_2p():
    arguments = log(0.2), log(0.5), log(0.4), log(0.1), torch.tensor([False])
    pull, push = hpd_weights(*arguments, student_sampling=False)
    torch.testing.assert_close(pull, torch.tensor([0.5 + 0.2 * math.log(2.5)]))
    assert push.item() == 0


def test_without_the_mask_both_terms_apply_everywhere_but_a_hit():
    for q_draw, p_draw in ((0.1, 0.4), (0.4, 0.1)):
        pull, push = hpd_weights(log(0.5), log(0.2), log(q_draw), log(p_draw), torch.tensor([False]), hybrid_mask=False)
        torch.testing.assert_close(pull, torch.tensor([0.5 * math.log(0.4) + 2 * 0.2]))
        torch.testing.assert_close(push, torch.tensor([q_draw * math.log(p_draw / q_draw)]))
    _, push = hpd_weights(log(0.5), log(0.2), log(0.5), log(0.2), torch.tensor([True]), hybrid_mask=False)
    assert push.item() == 0


@pytest.mark.parametrize("setting", ["reinforce", "student_sampling", "hybrid_mask"])
def test_each_ablation_reaches_the_objective(setting):
    batch = align(*logits_pair())
    off = HPD(Config(**{setting: False}))(batch)
    assert (off.values - HPD(Config())(batch).values).abs().max() > 1e-3
    ids = torch.stack([batch.targets, draws(batch)], 1)
    lq, lp = batch.logprobs(ids=ids).detach(), batch.logprobs(of="teacher", ids=ids)
    pull, push = hpd_weights(lq[:, 0], lp[:, 0], lq[:, 1], lp[:, 1], ids[:, 0] == ids[:, 1], **{setting: False})
    torch.testing.assert_close(off.values, -(pull * lq[:, 0] + push * lq[:, 1]))


def test_the_baseline_weights_of_two_known_probabilities():
    q, p = log(0.5), log(0.2)
    assert baseline_weights("sft", q, p).item() == 1
    assert baseline_weights("seqkd", q, p).item() == pytest.approx(0.2)
    assert baseline_weights("reverse_kl", q, p).item() == pytest.approx(0.5 * math.log(0.2 / 0.5))
    assert baseline_weights("jsd", q, p).item() == pytest.approx(0.25 * math.log(0.35 / 0.5))


def test_the_sft_baseline_is_sft():
    batch = align(*logits_pair())
    torch.testing.assert_close(HPD(Config(weighting="sft"))(batch).values, Likelihood()(batch).values)


@pytest.mark.parametrize("weighting", ["sft", "seqkd", "reverse_kl", "jsd"])
def test_a_baseline_is_its_weight_times_the_negative_log_probability_with_the_weight_held(weighting):
    student, teacher = logits_pair()
    batch = align(student, teacher)
    values = HPD(Config(weighting=weighting))(batch).values
    q, p = batch.logprobs().detach(), batch.logprobs(of="teacher")
    weight = baseline_weights(weighting, q, p)
    torch.testing.assert_close(values, -weight * q)
    (found,) = torch.autograd.grad(values.sum(), student, retain_graph=True)
    (wanted,) = torch.autograd.grad((-weight * batch.logprobs()).sum(), student)
    torch.testing.assert_close(found, wanted)


MEASURES = {"seqkd": d.forward_kl, "reverse_kl": d.reverse_kl, "jsd": d.jsd}


@pytest.mark.parametrize("weighting", ["reverse_kl", "jsd"])
def test_descending_a_one_token_baseline_over_every_label_makes_its_divergence_fall(weighting):
    # one-token weights, summed over the whole vocabulary as label, are the divergence's own gradient
    torch.manual_seed(2)
    teacher = (1.5 * torch.randn(1, V)).log_softmax(-1)
    z = (1.5 * torch.randn(1, V)).requires_grad_()
    log_q = z.log_softmax(-1)
    weight = baseline_weights(weighting, log_q.detach(), teacher)
    (found,) = torch.autograd.grad(-(weight * log_q).sum(), z, retain_graph=True)
    (wanted,) = torch.autograd.grad(MEASURES[weighting](log_q, teacher).sum(), z)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)

    before = MEASURES[weighting](log_q, teacher).item()
    for _ in range(200):
        log_q = z.log_softmax(-1)
        weight = baseline_weights(weighting, log_q.detach(), teacher)
        (step,) = torch.autograd.grad(-(weight * log_q).sum(), z)
        z = (z.detach() - 0.5 * step).requires_grad_()
    after = MEASURES[weighting](z.log_softmax(-1), teacher).item()
    assert after < 0.2 * before


@pytest.mark.parametrize("weighting", ["reverse_kl", "jsd"])
def test_the_opposite_sign_makes_the_divergence_grow(weighting):
    torch.manual_seed(2)
    teacher = (1.5 * torch.randn(1, V)).log_softmax(-1)
    z = (1.5 * torch.randn(1, V)).requires_grad_()
    log_q = z.log_softmax(-1)
    weight = baseline_weights(weighting, log_q.detach(), teacher)
    (step,) = torch.autograd.grad(-(weight * log_q).sum(), z)
    after = MEASURES[weighting]((z.detach() + 0.1 * step).log_softmax(-1), teacher)
    assert after.item() > MEASURES[weighting](log_q, teacher).item()


def test_the_metrics_count_what_their_names_say():
    batch = align(*logits_pair())
    draw = draws(batch)
    pull, push = written_out(batch, draw)
    metrics = HPD(Config())(batch).metrics
    wanted = {
        "nll": -batch.logprobs().detach().sum(),
        "pull": pull.sum(),
        "push": push.sum(),
        "pull_negative": (pull < 0).sum().float(),
        "competitor_active": (push < 0).sum().float(),
        "draw_is_not_label": (draw != batch.targets).sum().float(),
    }
    assert metrics.keys() == wanted.keys()
    for name, (total, number) in metrics.items():
        torch.testing.assert_close(total, wanted[name], rtol=1e-4, atol=1e-5)
        assert number == len(batch)
        assert not total.requires_grad


def test_the_teacher_gets_no_gradient():
    student, teacher = logits_pair()
    teacher.requires_grad_()
    for weighting in ("hpd", "seqkd", "reverse_kl", "jsd"):
        mean(align(student, teacher), HPD(Config(weighting=weighting))).backward()
        assert teacher.grad is None, weighting


def test_a_plan_without_a_teacher_is_refused():
    nothing = Reader()
    with pytest.raises(PlanError, match="HPD needs the signal teacher"):
        METHOD.build(Config(), None, teacher=nothing)
    assert METHOD.requirements(Config()).models == (Teacher(),)


# --- several mini-batches a batch -------------------------------------------------------------------------------

SEVERAL = Config(mini_batches=2)


def before(batch: TokenBatch, ids: Tensor | None = None, shift: float | Tensor = 0.0) -> TokenBatch:
    """With what a student `shift` nats below the policy thinks of labels and draws."""
    ids = label_and_draw(batch) if ids is None else ids
    return batch.with_signals(snapshot=Candidates(ids, batch.logprobs(ids=ids).detach() - shift))


def test_at_the_student_before_the_surrogate_has_the_gradient_of_the_loss_form():
    for seed in range(4):
        student, teacher = logits_pair(seed)
        (wanted,) = torch.autograd.grad(mean(align(student, teacher, step=seed)), student)
        for batch in (align(student, teacher, step=seed), before(align(student, teacher, step=seed))):
            losses = HPD(SEVERAL)(batch)
            (found,) = torch.autograd.grad(reduce(losses, weights(batch, "token_mean")), student)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
            pull, push = written_out(batch, draws(batch))
            torch.testing.assert_close(losses.values.detach(), -(pull + push).float(), rtol=1e-5, atol=1e-6)


def test_away_from_it_weights_and_draws_stay_and_the_ratio_is_clipped_by_hand():
    # q_before = (.2, .4, .4), p = (.5, .1, .4): the label 0 has 2p + k, the draw 1 has k'
    old, teacher = log(0.2, 0.4, 0.4), log(0.5, 0.1, 0.4)
    pull, push = 2 * 0.5 + 0.2 * math.log(2.5), 0.4 * math.log(0.25)
    ids, labels = torch.tensor([[0, 1]]), torch.tensor([[IGNORE, 0]])
    for now, label_term, draw_term in (
        ((0.22, 0.38, 0.4), -1.1 * pull, -0.95 * push),  # within the bounds
        ((0.4, 0.2, 0.4), -1.28 * pull, -0.8 * push),  # past both: the label rose, the draw fell
        ((0.04, 0.56, 0.4), -0.2 * pull, -1.4 * push),  # the other way, where no bound holds
    ):
        logits = torch.tensor([now]).log().requires_grad_()
        batch = TokenBatch.from_labels(labels, {"policy": logits, "teacher": teacher[None]})
        batch = batch.with_signals(snapshot=Candidates(ids, old[ids]))
        losses = HPD(SEVERAL)(batch)
        assert losses.values.item() == pytest.approx(label_term + draw_term, rel=1e-5)
        (gradient,) = torch.autograd.grad(losses.values.sum(), logits)
        assert bool((gradient == 0).all()) == (now[0] == 0.4)
    far = torch.tensor([[0.02, 0.95, 0.03]]).log()
    batch = TokenBatch.from_labels(labels, {"policy": far, "teacher": teacher[None]})
    batch = batch.with_signals(snapshot=Candidates(ids, log(0.2, 0.05, 0.75)[ids]))
    found = HPD(Config(mini_batches=2, dual_clip=10.0))(batch).metrics["clip_fraction"]
    assert found == (0, 2)  # a draw that the student did not overestimate has no weight


def test_the_student_before_is_renewed_with_each_batch_and_reads_its_own_draws():
    teacher = FrozenModel(tiny.model("llama_tied", seed=5))
    made = METHOD.build(SEVERAL, None, teacher=teacher)
    policy, rows = tiny.model("llama_tied"), tiny.rows()
    add_objective_forward(policy)
    _, student = made.signals
    assert made.objective.ratio == "snapshot"
    for step in range(3):
        student.before_update(policy, step, 3)
        found = student(policy, rows.inputs())
        if step != 1:
            assert found == {}
            with torch.no_grad():
                logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
            kept = TokenBatch.align(logits, rows.labels, row_id=rows.row_id, seed=3, step=1)
        else:
            ids = label_and_draw(kept)
            assert torch.equal(found["snapshot"].ids, ids)
            torch.testing.assert_close(found["snapshot"].logprobs, kept.logprobs(ids=ids), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize("more", [0, 20])
def test_the_student_before_draws_from_what_the_teacher_knows_as_the_student_does(more):
    teacher = FrozenModel(tiny.model("llama", seed=5))
    made = METHOD.build(SEVERAL, None, teacher=teacher)
    policy, rows = tiny.model("llama", vocab_size=tiny.VOCAB + more), tiny.rows()
    add_objective_forward(policy)
    _, student = made.signals
    student.take(policy)
    found = student(policy, rows.inputs())["snapshot"]
    with torch.no_grad():
        logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    batch = TokenBatch.align(logits[..., : tiny.VOCAB], rows.labels, row_id=rows.row_id)
    assert torch.equal(found.ids, label_and_draw(batch))
    torch.testing.assert_close(found.logprobs, batch.logprobs(ids=found.ids), rtol=1e-5, atol=1e-5)


def test_one_mini_batch_is_the_loss_form_and_baselines_have_no_other():
    teacher = FrozenModel(tiny.model("llama_tied", seed=5))
    made = METHOD.build(Config(), None, teacher=teacher)
    assert (len(made.signals), made.objective.ratio, made.objective.needs) == (1, None, {"teacher"})
    with pytest.raises(ValidationError, match="mini_batches is 4 but has no effect: .* with weighting: hpd"):
        Config(weighting="jsd", mini_batches=4)
    with pytest.raises(ValidationError, match="epsilon_high is 0.4 but has no effect: .* mini_batches above 1"):
        Config(epsilon_high=0.4)


@pytest.mark.parametrize("low", [-110.0, -1e4])
def test_the_jsd_weight_of_two_impossible_tokens_is_zero_and_not_nan(low):
    q, p = torch.tensor([low, low, -1.0]), torch.tensor([low, -1.0, low])
    found = baseline_weights("jsd", q, p)
    # where the teacher gives nothing m = q / 2: the weight is q (log q - log 2 - log q) / 2
    assert found.tolist() == pytest.approx([0.0, 0.0, -math.exp(-1) * math.log(2) / 2], abs=1e-7)
