"""The vocabulary engine equals the objective on plain logits: value, gradients, metrics, however it is cut."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trimtab.core import IGNORE, Fused, Head, LazyLogits, Objective, TokenBatch, fused_loss, reduce, weights
from trimtab.methods.hpd import HPD
from trimtab.methods.hpd import Config as HPDConfig
from trimtab.objectives import divergence as d
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

V, D = 53, 6
LABELS = torch.full((4, 9), IGNORE)
LABELS[0, 2:9] = torch.tensor([3, 9, 11, 2, 30, 31, 7])
LABELS[1, 4] = 5
LABELS[3, 1:6] = torch.tensor([8, 39, 3, 3, 1])  # row 2 has no answer
N = 13

OBJECTIVES = {
    "sft": Likelihood(),
    "kd forward_kl": Match(d.forward_kl, 1.0, 0.0),
    "kd reverse_kl": Match(d.reverse_kl, 1.0, 0.0),
    "kd jsd": Match(partial(d.jsd, beta=0.3), 1.0, 0.0),
    "kd skewed_forward_kl": Match(d.skewed_forward_kl, 1.0, 0.0),
    "kd skewed_reverse_kl": Match(d.skewed_reverse_kl, 1.0, 0.0),
    "kd warm, mixed": Match(d.forward_kl, 2.0, 0.4),
    "hpd": HPD(HPDConfig()),
    "hpd jsd": HPD(HPDConfig(weighting="jsd")),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
THREE = ("sft", "kd forward_kl", "hpd")
three_objectives = pytest.mark.parametrize("objective", [OBJECTIVES[name] for name in THREE], ids=THREE)


@pytest.fixture(
    params=[(100, 100), (7, 7), (5, 2), (1, 1), (2, 5)], ids=lambda p: f"blocks of {p[0]}, slices of {p[1]}"
)
def chunks(request, monkeypatch):
    cut(monkeypatch, *request.param)


def cut(monkeypatch, block: int, part: int, vocab: int = V) -> None:
    """Let the engine take this many tokens at a time."""
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", block)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * vocab * part)


def linear(bias: bool = False, dtype: torch.dtype = torch.float32, v: int = V) -> nn.Linear:
    module = nn.Linear(D, v, bias=bias, dtype=dtype)
    nn.init.normal_(module.weight, std=1.0)
    return module


def tokens(teacher_vocab: int = V, labels: Tensor = LABELS) -> TokenBatch:
    """The answer tokens with a teacher that is computed where it is read."""
    module = linear(v=teacher_vocab)
    batch = TokenBatch.from_labels(labels, row_id=torch.tensor([21, 4, 8, 13]), seed=1, step=2)
    return batch.with_signals(teacher=LazyLogits(torch.randn(len(batch), D), module, teacher_vocab))


def hidden_states(n: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, D, dtype=dtype).requires_grad_()


def plain(objective, batch: TokenBatch, hidden: Tensor, head: Head, weight: Tensor) -> Fused:
    """What the engine must give, with the logits of all tokens at once."""
    losses = objective(batch.with_signals(policy=head(hidden)))
    return Fused(reduce(losses, weight), losses.metrics, losses.values.detach())


def gradients(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    grads = torch.autograd.grad(loss, leaves)
    assert all(g.abs().max() > 0 for g in grads)
    return list(grads)


def assert_same(objective, batch, hidden, head, *, how="token_mean", total=None, rtol=1e-4, atol=2e-6) -> None:
    """The engine against `plain`: loss, values, metrics and every gradient."""
    weight = weights(batch, how, total)
    leaves = [t for t in (hidden, *head.parameters()) if t.requires_grad]
    wanted = plain(objective, batch, hidden, head, weight)
    wanted_grads = gradients(wanted.loss, *leaves)
    found = fused_loss(objective, batch, hidden, head, weight)
    close = partial(torch.testing.assert_close, rtol=rtol, atol=atol)
    assert found.loss.shape == ()
    assert found.loss.dtype == torch.float32
    assert not found.values.requires_grad
    close(found.loss, wanted.loss)
    close(found.values, wanted.values)
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, (amount, number) in wanted.metrics.items():
        close(found.metrics[name][0], amount, rtol=max(rtol, 1e-3))
        assert found.metrics[name][1] == number
    for grad, expected in zip(gradients(found.loss, *leaves), wanted_grads):
        assert grad.dtype == expected.dtype
        close(grad, expected)


@every_objective
@pytest.mark.usefixtures("chunks")
def test_engine_equals_plain_logits(objective):
    assert_same(objective, tokens(), hidden_states(), Head(linear(), V))


@three_objectives
@pytest.mark.parametrize("how, total", [("sequence_mean", None), ("sum", None), ("token_mean", 40.0)])
def test_engine_equals_plain_logits_for_every_reduction(monkeypatch, objective, how, total):
    cut(monkeypatch, 5, 2)
    assert_same(objective, tokens(), hidden_states(), Head(linear(), V), how=how, total=total)


@three_objectives
@pytest.mark.parametrize(
    "extra",
    [{"scale": 0.3}, {"softcap": 1.5}, {"scale": 2.0, "softcap": 3.0}],
    ids=["logit scale", "soft-cap", "scale, then soft-cap"],
)
def test_engine_equals_plain_logits_with_a_head_that_changes_them(monkeypatch, objective, extra):
    cut(monkeypatch, 5, 2)
    assert_same(objective, tokens(), hidden_states(), Head(linear(bias=True), V, **extra))


def test_the_head_scales_first_and_caps_afterwards():
    module = linear()
    x = torch.randn(3, D)
    raw = module(x)
    torch.testing.assert_close(Head(module, V, scale=2.0, softcap=3.0)(x), 3 * torch.tanh(2 * raw / 3))
    torch.testing.assert_close(Head(module, V)(x), raw, rtol=0, atol=0)


@three_objectives
@pytest.mark.parametrize("extra", [{}, {"scale": 2.0, "softcap": 3.0}], ids=["plain", "scale and soft-cap"])
def test_engine_equals_plain_logits_at_another_temperature(monkeypatch, objective, extra):
    cut(monkeypatch, 5, 2)
    assert_same(objective, tokens(), hidden_states(), Head(linear(bias=True), V, temperature=0.7, **extra))


def test_the_temperature_divides_at_the_end():
    module, x = linear(), torch.randn(3, D)
    capped = 3 * torch.tanh(2 * module(x) / 3)
    head = Head(module, V, scale=2.0, softcap=3.0, temperature=0.7)
    torch.testing.assert_close(head(x), capped / 0.7)
    batch = TokenBatch.from_labels(LABELS)
    hidden = torch.randn(N, D)
    weight = weights(batch, "token_mean")
    warm = fused_loss(Likelihood(), batch, hidden, Head(module, V, temperature=2.0), weight).values
    wanted = -(module(hidden) / 2).log_softmax(-1)[torch.arange(N), batch.targets]
    torch.testing.assert_close(warm, wanted.detach())


def test_a_masked_token_stays_out_at_any_temperature():
    module = linear(bias=True)
    with torch.no_grad():
        module.bias[17] = -torch.inf
    logits = Head(module, V, masks=True, temperature=4.0)(torch.randn(3, D))
    assert logits.isfinite().all()
    assert logits.softmax(-1)[:, 17].eq(0).all()


@three_objectives
def test_a_head_that_masks_tokens_gives_finite_losses_and_no_gradient_to_them(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    module = linear(bias=True)
    with torch.no_grad():
        module.bias[17] = -torch.inf
    head, hidden, batch = Head(module, V, masks=True), hidden_states(), tokens()
    assert_same(objective, batch, hidden, head)
    fused = fused_loss(objective, batch, hidden, head, weights(batch, "token_mean"))
    fused.loss.backward()
    assert fused.values.isfinite().all()
    assert module.weight.grad.isfinite().all()
    assert module.weight.grad[17].eq(0).all()


@three_objectives
@pytest.mark.parametrize("teacher_vocab", [40, 70])
def test_engine_equals_plain_logits_with_a_teacher_of_another_vocabulary(monkeypatch, objective, teacher_vocab):
    cut(monkeypatch, 5, 2)
    module, batch, hidden = linear(), tokens(teacher_vocab), hidden_states()
    assert_same(objective, batch, hidden, Head(module, V))
    fused_loss(objective, batch, hidden, Head(module, V), weights(batch, "token_mean")).loss.backward()
    assert module.weight.grad[40:].eq(0).all() == (teacher_vocab == 40)


@every_objective
def test_engine_equals_plain_logits_in_bfloat16(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    head, hidden = Head(linear(dtype=torch.bfloat16), V), hidden_states(dtype=torch.bfloat16)
    assert_same(objective, tokens(), hidden, head, rtol=2**-6, atol=2**-10)


@every_objective
def test_engine_equals_plain_logits_under_bfloat16_autocast_with_float32_weights(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    head, hidden = Head(linear(bias=True), V), hidden_states()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = head(hidden)
        assert_same(objective, tokens(), hidden, head, rtol=2**-6, atol=2**-10)
    assert seen.dtype == torch.bfloat16


def test_float16_gradients_survive_with_a_scaled_loss():
    head, hidden, batch = Head(linear(dtype=torch.float16), V), hidden_states(dtype=torch.float16), tokens()
    weight = weights(batch, "token_mean", 2e6)  # tokens of one large update
    scale = 2.0**20
    (wanted,) = torch.autograd.grad(scale * plain(Likelihood(), batch, hidden, head, weight).loss, hidden)
    (found,) = torch.autograd.grad(scale * fused_loss(Likelihood(), batch, hidden, head, weight).loss, hidden)
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)


@three_objectives
def test_a_frozen_head_passes_the_gradient_on_and_gets_none(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    module = linear(bias=True).requires_grad_(False)
    assert_same(objective, tokens(), hidden_states(), Head(module, V))
    assert module.weight.grad is None


@three_objectives
def test_a_head_that_is_trained_alone_gets_its_gradient(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    assert_same(objective, tokens(), hidden_states().detach(), Head(linear(), V))


@three_objectives
def test_only_the_bias_can_be_trained(monkeypatch, objective):
    cut(monkeypatch, 5, 2)
    module = linear(bias=True)
    module.weight.requires_grad_(False)
    head = Head(module, V)
    assert head.parameters() == [module.bias]
    assert_same(objective, tokens(), hidden_states(), head)


def test_nothing_to_train_gives_a_loss_without_gradient():
    batch, hidden, module = tokens(), hidden_states().detach(), linear().requires_grad_(False)
    weight = weights(batch, "token_mean")
    found = fused_loss(Likelihood(), batch, hidden, Head(module, V), weight)
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, plain(Likelihood(), batch, hidden, Head(module, V), weight).loss)


def test_any_callable_can_be_a_head():
    weight = torch.randn(V, D)
    head = Head(lambda h: h @ weight.T, V)
    assert head.parameters() == []
    assert_same(Likelihood(), tokens(), hidden_states(), head)


def test_a_head_of_two_layers_trains_both(monkeypatch):
    cut(monkeypatch, 5, 2)
    head = Head(nn.Sequential(nn.Linear(D, D), nn.GELU(), linear()), V)
    assert len(head.parameters()) == 3
    assert_same(Likelihood(), tokens(), hidden_states(), head)


@pytest.mark.usefixtures("chunks")
def test_what_a_hook_makes_of_a_linear_head_is_trained_through():
    module = linear(bias=True)
    module.register_forward_hook(lambda module, inputs, output: 2.0 * torch.tanh(output))
    assert_same(OBJECTIVES["kd forward_kl"], tokens(), hidden_states(), Head(module, V))


def test_what_a_patched_forward_makes_of_a_linear_head_is_trained_through(monkeypatch):
    cut(monkeypatch, 5, 2)
    module = linear()
    original = module.forward
    module.forward = lambda x: 3.0 * original(x)  # as accelerate's hooks do
    assert_same(OBJECTIVES["kd forward_kl"], tokens(), hidden_states(), Head(module, V))


def test_a_weight_that_is_a_view_of_a_flat_parameter_is_refused():
    module = linear()
    weight = module.weight
    del module.weight
    module.weight = weight.view(V, D)  # what FSDP1 leaves on a module during the forward
    with pytest.raises(ValueError, match="sharded by FSDP1"):
        Head(module, V).parameters()


def test_many_tokens_of_one_target_do_not_overflow_in_float16():
    labels = torch.full((1, 4097), 3)
    batch = TokenBatch.from_labels(labels)
    module = linear(dtype=torch.float16, v=8)
    hidden = torch.full((4096, D), 20.0, dtype=torch.float16).requires_grad_()
    loss = fused_loss(Likelihood(), batch, hidden, Head(module, 8), weights(batch, "token_mean")).loss
    loss.backward()
    assert module.weight.grad.isfinite().all()


def test_a_parameter_that_the_head_does_not_use_gets_a_zero_gradient():
    module = linear()
    module.register_parameter("unused", nn.Parameter(torch.ones(2)))
    batch = tokens()
    fused_loss(Likelihood(), batch, hidden_states(), Head(module, V), weights(batch, "token_mean")).loss.backward()
    assert module.unused.grad.eq(0).all()


@three_objectives
@pytest.mark.usefixtures("chunks")
def test_without_gradients_the_values_are_the_same_and_nothing_is_recorded(objective):
    batch, hidden, head = tokens(), hidden_states(), Head(linear(), V)
    weight = weights(batch, "token_mean")
    wanted = plain(objective, batch, hidden, head, weight)
    with torch.no_grad():
        found = fused_loss(objective, batch, hidden, head, weight)
    assert not found.loss.requires_grad
    torch.testing.assert_close(found.loss, wanted.loss.detach())
    torch.testing.assert_close(found.values, wanted.values)
    for name, (amount, number) in wanted.metrics.items():
        torch.testing.assert_close(found.metrics[name][0], amount, rtol=1e-4, atol=1e-5)
        assert found.metrics[name][1] == number


@three_objectives
def test_a_micro_batch_without_answers_back_propagates_a_zero(objective):
    batch, hidden, module = tokens(labels=torch.full_like(LABELS, IGNORE)), hidden_states(0), linear()
    for total in (None, 5.0):
        module.zero_grad()
        hidden.grad = None
        found = fused_loss(objective, batch, hidden, Head(module, V), weights(batch, "token_mean", total))
        found.loss.backward()
        assert found.loss.item() == 0
        assert module.weight.grad.eq(0).all()
        assert hidden.grad.shape == (0, D)


@three_objectives
def test_the_gradient_that_comes_from_above_is_multiplied_in(objective):
    batch, hidden, module = tokens(), hidden_states(), linear()
    weight = weights(batch, "token_mean")
    once = gradients(fused_loss(objective, batch, hidden, Head(module, V), weight).loss, hidden, module.weight)
    above = fused_loss(objective, batch, hidden, Head(module, V), weight).loss
    for found, expected in zip(gradients((3 * above).square() / 2, hidden, module.weight), once):
        torch.testing.assert_close(found, 9 * above.detach() * expected)


def test_two_backward_passes_add_up():
    batch, hidden, module = tokens(), hidden_states(), linear()
    loss = fused_loss(Likelihood(), batch, hidden, Head(module, V), weights(batch, "token_mean")).loss
    loss.backward(retain_graph=True)
    once = module.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(module.weight.grad, 2 * once)


def test_no_grad_field_is_written_before_the_backward_pass():
    batch, hidden, module = tokens(), hidden_states(), linear()
    fused_loss(Likelihood(), batch, hidden, Head(module, V), weights(batch, "token_mean"))
    assert hidden.grad is None
    assert module.weight.grad is None


def test_a_hidden_state_that_other_losses_use_too_gets_the_sum_of_gradients():
    batch, source, head = tokens(), hidden_states(), Head(linear(), V)
    weight = weights(batch, "token_mean")
    found, wanted = (
        gradients(run(Likelihood(), batch, 2 * source, head, weight).loss + source.square().sum(), source)[0]
        for run in (fused_loss, plain)
    )
    torch.testing.assert_close(found, wanted)


class Constant(Objective):
    """Values that do not depend on the policy."""

    needs = frozenset()
    per = "token"

    def __call__(self, batch):
        return batch.losses(torch.ones(len(batch)))


def test_values_that_do_not_depend_on_the_policy_give_it_no_gradient():
    batch, hidden, module = tokens(), hidden_states(), linear()
    found = fused_loss(Constant(), batch, hidden, Head(module, V), weights(batch, "token_mean"))
    found.loss.backward()
    assert found.loss.item() == pytest.approx(1.0)
    assert module.weight.grad.eq(0).all()
    assert hidden.grad.eq(0).all()


class Watched(Objective):
    """An objective that remembers how large its batches were."""

    needs = frozenset()
    per = "token"

    def __init__(self, objective):
        self.objective, self.sizes = objective, []

    def __call__(self, batch):
        self.sizes.append(tuple(batch.logits().shape))
        return self.objective(batch)


@pytest.mark.parametrize(
    "block, part, sizes",
    [(100, 100, [13]), (7, 7, [7, 6]), (5, 2, [2, 2, 1, 2, 2, 1, 2, 1]), (4, 100, [4, 4, 4, 1]), (1, 1, [1] * 13)],
)
def test_the_objective_sees_slices_of_blocks_each_token_once(monkeypatch, block, part, sizes):
    cut(monkeypatch, block, part)
    watched, batch = Watched(Likelihood()), tokens()
    fused_loss(watched, batch, hidden_states(), Head(linear(), V), weights(batch, "token_mean"))
    assert watched.sizes == [(n, V) for n in sizes]


class Contrast(Objective):
    """One value for each pair of sequences, which depends on all their tokens and on a reference."""

    needs = frozenset({"teacher"})
    per = "sequence"

    def __call__(self, batch):
        ratios = batch.row_sum(batch.logprobs() - batch.logprobs(of="teacher"))
        pair = torch.nn.functional.softplus(0.3 * (ratios[1::2] - ratios[0::2]))
        return batch.losses(pair.repeat_interleave(2), margin=ratios[0::2] - ratios[1::2])


class LargestTensor(TorchDispatchMode):
    """The most numbers that any tensor held which an operation made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(made) if isinstance(t, Tensor))])
        return made


def largest(run, objective, rows: int) -> int:
    labels = torch.randint(0, V, (rows, 9))
    batch = TokenBatch.from_labels(labels)
    teacher = linear()
    batch = batch.with_signals(teacher=LazyLogits(torch.randn(len(batch), D), teacher, V))
    hidden, head = hidden_states(len(batch)), Head(linear(), V)
    with LargestTensor() as watch:
        run(objective, batch, hidden, head, weights(batch, "sequence_mean", per=objective.per)).loss.backward()
    return watch.numel


@pytest.mark.parametrize("objective", [*OBJECTIVES.values(), Contrast()], ids=[*OBJECTIVES, "whole sequences"])
def test_no_tensor_grows_with_tokens_times_vocabulary(monkeypatch, objective):
    cut(monkeypatch, 8, 4)
    few, many = 4, 16  # rows of 8 tokens
    allowed = max(8 * V, many * 8 * D, V * D)
    assert largest(fused_loss, objective, few) <= allowed
    assert largest(fused_loss, objective, many) <= allowed
    assert largest(plain, objective, many) >= many * 8 * V  # what the watch would have seen


def test_what_is_kept_for_the_backward_pass_has_the_size_of_the_leaves(monkeypatch):
    cut(monkeypatch, 5, 2)
    batch, hidden, module = tokens(), hidden_states(), linear()
    loss = fused_loss(OBJECTIVES["kd jsd"], batch, hidden, Head(module, V), weights(batch, "token_mean")).loss
    kept = [t.shape for t in loss.grad_fn.saved_tensors]
    assert kept == [hidden.shape, module.weight.shape]


def test_chunks_grow_on_an_accelerator_and_hold_one_token_at_least():
    from trimtab.core import vocab

    assert vocab._tokens(4 * V * 10, V, torch.device("cpu")) == 10
    assert vocab._tokens(4 * V * 10, V, torch.device("cuda")) == 10 * vocab.CUDA_SCALE
    assert vocab._tokens(1, V, torch.device("cpu")) == 1


def assert_sequences_same(batch, hidden, head, how="sequence_mean", total=None):
    weight = weights(batch, how, total, per="sequence")
    leaves = [hidden, *head.parameters()]
    wanted = plain(Contrast(), batch, hidden, head, weight)
    found = fused_loss(Contrast(), batch, hidden, head, weight)
    assert found.values.shape == (4,)
    torch.testing.assert_close(found.loss, wanted.loss)
    torch.testing.assert_close(found.values, wanted.values)
    torch.testing.assert_close(found.metrics["margin"][0], wanted.metrics["margin"][0], rtol=1e-4, atol=1e-4)
    for grad, expected in zip(gradients(found.loss, *leaves), gradients(wanted.loss, *leaves)):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("how, total", [("sequence_mean", None), ("sequence_mean", 7.0), ("sum", None)])
def test_an_objective_of_whole_sequences_equals_plain_logits(how, total):
    assert_sequences_same(tokens(), hidden_states(), Head(linear(bias=True), V), how, total)


class Products(TorchDispatchMode):
    """Tokens of which logits were computed, a product each."""

    def __init__(self):
        super().__init__()
        self.tokens: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and made.shape[1] == V:
            self.tokens.append(len(made))
        return made


@pytest.mark.parametrize("block, computed", [(100, [13]), (7, [6, 7, 6]), (5, [3, 5, 5, 5, 3])])
def test_logits_of_the_first_block_are_computed_once(monkeypatch, block, computed):
    cut(monkeypatch, block, 2)
    batch = tokens()
    batch = batch.with_signals(teacher=batch.logprobs(of="teacher").detach())
    weight = weights(batch, "sequence_mean", per="sequence")
    with Products() as seen:
        fused_loss(Contrast(), batch, hidden_states(), Head(linear(), V), weight).loss.backward()
    assert seen.tokens == computed


@pytest.mark.parametrize("teacher_vocab", [V + 5, V - 5])
def test_an_objective_of_whole_sequences_crops_to_the_common_vocabulary(monkeypatch, teacher_vocab):
    cut(monkeypatch, 5, 2)
    assert_sequences_same(tokens(teacher_vocab), hidden_states(), Head(linear(), V))


def test_an_objective_of_whole_sequences_through_scale_softcap_and_a_head_of_two_layers(monkeypatch):
    cut(monkeypatch, 5, 2)
    module = nn.Sequential(nn.Linear(D, D), nn.GELU(), linear())
    assert_sequences_same(tokens(), hidden_states(), Head(module, V, scale=0.5, softcap=4.0))


def test_an_objective_of_whole_sequences_takes_log_probabilities_that_are_stored(monkeypatch):
    cut(monkeypatch, 5, 2)
    batch = tokens()
    stored = batch.with_signals(teacher=batch.logprobs(of="teacher"))
    head, hidden = Head(linear(), V), hidden_states()
    weight = weights(batch, "sequence_mean", per="sequence")
    live = fused_loss(Contrast(), batch, hidden, head, weight)
    torch.testing.assert_close(fused_loss(Contrast(), stored, hidden, head, weight).loss, live.loss)


def test_an_objective_of_whole_sequences_that_reads_logits_is_refused():
    class Whole(Contrast):
        def __call__(self, batch):
            return batch.losses(batch.log_softmax().sum(dim=-1))

    batch = tokens()
    with pytest.raises(KeyError, match="expected logits"):
        fused_loss(Whole(), batch, hidden_states(), Head(linear(), V), weights(batch, "sum", per="sequence"))


def test_a_loss_of_whole_sequences_whose_gradient_is_nothing_is_no_nan():
    class Flat(Contrast):
        def __call__(self, batch):
            return batch.losses(batch.row_sum(batch.logprobs() * 0.0))

    batch, hidden = tokens(), hidden_states()
    weight = weights(batch, "sum", per="sequence")
    fused_loss(Flat(), batch, hidden, Head(linear(), V), weight).loss.backward()
    assert (hidden.grad == 0).all()


@pytest.mark.parametrize("n_hidden, n_weights", [(N - 1, N), (N, N - 1), (N + 1, N)])
def test_shapes_that_do_not_fit_are_refused_with_their_sizes(n_hidden, n_weights):
    with pytest.raises(
        ValueError, match=f"{n_hidden} hidden states, {N} tokens in 4 sequences and {n_weights} weights"
    ):
        fused_loss(Likelihood(), tokens(), hidden_states(n_hidden), Head(linear(), V), torch.ones(n_weights))


class _Seen(Objective):
    """Keeps the tokens that it is shown."""

    needs = frozenset()
    per = "token"

    def __init__(self):
        self.targets: list[int] = []

    def __call__(self, batch: TokenBatch):
        self.targets += batch.targets.tolist()
        return batch.losses(batch.logprobs())


@pytest.mark.parametrize("gradient", [True, False])
def test_an_objective_that_keeps_what_it_sees_sees_the_tokens_in_their_order(chunks, gradient):
    batch, seen = tokens(), _Seen()
    with torch.set_grad_enabled(gradient):
        fused_loss(seen, batch, torch.randn(N, D), Head(linear(), V), torch.ones(N))
    assert seen.targets == batch.targets.tolist()
