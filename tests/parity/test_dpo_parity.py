"""DPO through the engine against TRL's DPOTrainer; WSPO and PSFT against their formulas in float64."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

import tiny
from trimtab.core import IGNORE, TokenBatch, reduce, weights
from trimtab.methods import dpo
from trimtab.methods.psft import PSFT, psft_values
from trimtab.methods.wspo import WSPO
from trimtab.models.adapters import add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.preference import DPO
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.row_store import RowStore

BETA = 0.3

# --- DPO against TRL --------------------------------------------------------------------------------------------


def pairs() -> Dataset:
    """Four ragged pairs of words."""
    generator = torch.Generator().manual_seed(2)

    def words(length: int) -> str:
        return "".join(f" w{i}" for i in torch.randint(2, tiny.VOCAB - 1, (length,), generator=generator).tolist())

    lengths = ((3, 4, 1), (1, 1, 6), (4, 2, 2), (2, 5, 3))
    return Dataset.from_list([{"prompt": words(p), "chosen": words(c), "rejected": words(r)} for p, c, r in lengths])


def trl_trainer(folder, policy, reference=None, peft_config=None, **settings) -> DPOTrainer:
    tokenizer = tiny.tokenizer(["<unk>", *(f"w{i}" for i in range(tiny.VOCAB - 1))])
    tokenizer.pad_token = tokenizer.eos_token = "<unk>"
    args = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=4,
        max_length=None,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        **settings,
    )
    return DPOTrainer(
        model=policy,
        ref_model=reference,
        args=args,
        train_dataset=pairs(),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


def trl_batch(trainer: DPOTrainer) -> dict[str, torch.Tensor]:
    """All pairs as TRL collates them: the chosen answers first, then the rejected ones."""
    return trainer.data_collator([dict(row) for row in trainer.train_dataset])


def our_rows(batch: dict[str, torch.Tensor]) -> tiny.Rows:
    """The same tensors with the answers of a pair side by side."""
    order = torch.arange(8).view(2, 4).T.flatten()
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORE)
    tensors = (t[order] for t in (batch["input_ids"], batch["attention_mask"], labels))
    return tiny.Rows(*tensors, torch.arange(4).repeat_interleave(2))


def moved(model: torch.nn.Module) -> torch.nn.Module:
    """A few updates away from where it started, the same for the same architecture."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def ours(policy, reference, rows: tiny.Rows):
    """Loss, metrics and gradients of one engine step of the plan that `dpo` builds."""
    plan = dpo.METHOD.build(dpo.Config(beta=BETA), policy, reference=reference)
    (signal,) = plan.signals
    call = tiny.call(plan.objective, rows, signal(policy, rows.inputs()), reduction=plan.reduction)
    output = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call)
    output.loss.backward()
    return output, tiny.gradients(policy)


def check(trainer: DPOTrainer, batch: dict[str, torch.Tensor], output, grads: dict[str, torch.Tensor]) -> None:
    """TRL's loss, gradient and reward margin are ours to 1e-5, and are not what DPO starts from."""
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert abs(loss.item() - 0.6931) > 1e-2
    assert tiny.relative_error(grads, tiny.gradients(trainer.model)) < 1e-5
    total, number = output.metrics["margin"]
    (margin,) = (m for mode in trainer._metrics.values() for m in mode["rewards/margins"])
    assert (total / number).item() == pytest.approx(margin, rel=1e-4)


@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "cohere"])
def test_dpo_is_trls_in_value_and_gradient(tmp_path, kind):
    trainer = trl_trainer(tmp_path, moved(tiny.model(kind)), tiny.model(kind))
    batch = trl_batch(trainer)
    policy = moved(tiny.model(kind))
    add_objective_forward(policy)
    check(trainer, batch, *ours(policy, FrozenModel(tiny.model(kind), name="reference"), our_rows(batch)))


def test_dpo_of_an_adapter_is_trls_with_the_policy_without_it_as_reference(tmp_path):
    settings = {"r": 2, "target_modules": "all-linear"}
    trainer = trl_trainer(tmp_path, tiny.model("llama_tied"), peft_config=LoraConfig(task_type="CAUSAL_LM", **settings))
    assert trainer.ref_model is None
    assert list(trainer.model.peft_config) == ["default"]  # TRL reads the base model, and no copy of the adapter
    policy = tiny.model("llama_tied")
    add_objective_forward(policy)
    policy = moved(add_lora(policy, settings, seed=1))
    trainer.model.load_state_dict(policy.state_dict())
    batch = trl_batch(trainer)
    check(trainer, batch, *ours(policy, InitialPolicy(policy.disable_adapter), our_rows(batch)))


def test_dpo_with_remembered_log_probabilities_is_trls_with_precomputed_ones(tmp_path):
    reference = tiny.model("llama_tied")
    trainer = trl_trainer(tmp_path, moved(tiny.model("llama_tied")), reference, precompute_ref_log_probs=True)
    batch = trl_batch(trainer)
    assert "ref_chosen_logps" in batch
    rows, policy = our_rows(batch), moved(tiny.model("llama_tied"))
    add_objective_forward(policy)
    signal = FrozenModel(tiny.model("llama_tied"), name="reference", store=RowStore(), reads="answers")
    remembered = signal(None, rows.inputs())["reference"]
    sums = TokenBatch.from_labels(rows.labels).row_sum(remembered)
    torch.testing.assert_close(sums[0::2], batch["ref_chosen_logps"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums[1::2], batch["ref_rejected_logps"], rtol=1e-5, atol=1e-5)
    check(trainer, batch, *ours(policy, signal, rows))


# --- formulas in float64 ----------------------------------------------------------------------------------------

LABELS = np.array([[-100, -100, 3, 5, 2, 7], [-100, 4, 1, -100, -100, -100], [-100, 9, 8, 7, 6, 5], [-100] * 6])
LABELS[3, 1] = 10


class Problem:
    """Logits of a policy and log-probabilities of other models for the answers, in numpy's float64."""

    def __init__(self, seed: int):
        draws = np.random.default_rng(seed)
        self.logits = draws.normal(size=(*LABELS.shape, 11))
        shifted = self.logits - np.log(np.exp(self.logits).sum(-1, keepdims=True))
        self.rows = [[(b, t) for t in range(1, 6) if LABELS[b, t] >= 0] for b in range(len(LABELS))]
        self.logprobs = {(b, t): shifted[b, t - 1, LABELS[b, t]] for row in self.rows for b, t in row}
        self.others = {
            name: {place: draws.normal(scale=0.5) + value for place, value in self.logprobs.items()}
            for name in ("reference", "weak_aligned", "weak_reference", "snapshot")
        }

    def ours(self, objective, reduction: str, dtype: torch.dtype) -> tuple[float, np.ndarray]:
        """Loss and its gradient at the logits [B, T, V] from the objective itself."""
        logits = torch.tensor(self.logits, dtype=dtype).requires_grad_()
        tokens = TokenBatch.align(logits, torch.tensor(LABELS))
        signals = {name: torch.tensor([*table.values()], dtype=dtype) for name, table in self.others.items()}
        tokens = tokens.with_signals(**signals)
        loss = reduce(objective(tokens), weights(tokens, reduction, per=objective.per))
        loss.backward()
        return loss.item(), logits.grad.double().numpy()

    def gradient(self, slope: dict[tuple[int, int], float]) -> np.ndarray:
        """[B, T, V] from the derivative of the loss by each answer's log-probability."""
        found = np.zeros_like(self.logits)
        for (b, t), value in slope.items():
            probabilities = np.exp(self.logits[b, t - 1]) / np.exp(self.logits[b, t - 1]).sum()
            found[b, t - 1] = value * (np.eye(11)[LABELS[b, t]] - probabilities)
        return found


def agree(found: tuple[float, np.ndarray], loss: float, grad: np.ndarray) -> None:
    assert found[0] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found[1], grad, rtol=1e-4, atol=1e-7)
    assert np.abs(grad).max() > 1e-3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gamma", [0.1, 2.0])
@pytest.mark.parametrize("level", ["token", "sequence_mean"])
def test_wspo_is_its_formula(seed, gamma, level):
    problem = Problem(seed)
    loss, slope = 0.0, {}
    for row in problem.rows:
        of = problem.others
        errors = {
            p: gamma * (problem.logprobs[p] - of["reference"][p]) - (of["weak_aligned"][p] - of["weak_reference"][p])
            for p in row
        }
        mean = sum(errors.values()) / len(row)
        if level == "token":
            loss += sum(e**2 for e in errors.values()) / len(row) / 4
            slope |= {p: 2 * gamma * e / len(row) / 4 for p, e in errors.items()}
        else:
            loss += mean**2 / 4
            slope |= {p: 2 * gamma * mean / len(row) / 4 for p in row}
    agree(problem.ours(WSPO(gamma, level, column=False), "sequence_mean", torch.float32), loss, problem.gradient(slope))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.28, 0.05, None])
def test_psft_is_its_formula(seed, epsilon):
    problem = Problem(seed)
    number = sum(len(row) for row in problem.rows)
    ratios = {p: np.exp(new - problem.others["snapshot"][p]) for p, new in problem.logprobs.items()}
    limit = np.inf if epsilon is None else 1 + epsilon
    loss = -sum(min(r, limit) for r in ratios.values()) / number
    slope = {p: -r / number if r <= limit else 0.0 for p, r in ratios.items()}
    agree(problem.ours(PSFT(epsilon), "token_mean", torch.float32), loss, problem.gradient(slope))
    assert epsilon is None or any(r > limit for r in ratios.values())


@pytest.mark.parametrize("seed", range(3))
def test_dpo_is_its_formula(seed):
    problem = Problem(seed)
    ratios = [sum(problem.logprobs[p] - problem.others["reference"][p] for p in row) for row in problem.rows]
    loss, slope = 0.0, {}
    for i in (0, 2):
        margin = BETA * (ratios[i] - ratios[i + 1])
        loss += np.log1p(np.exp(-margin)) / 2
        doubt = BETA / (1 + np.exp(margin)) / 2
        slope |= dict.fromkeys(problem.rows[i], -doubt) | dict.fromkeys(problem.rows[i + 1], doubt)
    agree(problem.ours(DPO(BETA), "sequence_mean", torch.float32), loss, problem.gradient(slope))


# --- finite differences in float64 ------------------------------------------------------------------------------


def test_the_gradients_are_those_of_finite_differences():
    """On log-probabilities: the batch itself computes them from logits in float32."""
    tokens = TokenBatch.from_labels(torch.tensor(LABELS))
    generator = torch.Generator().manual_seed(4)

    def draw():
        return torch.randn(len(tokens), generator=generator, dtype=torch.float64)

    new, old = draw().requires_grad_(), draw()
    far = (new.detach() - old).exp().sub(1.28).abs().min()  # from the kink of the clip
    assert far > 1e-3
    assert torch.autograd.gradcheck(lambda x: psft_values(x, old, 0.28), (new,))
    assert torch.autograd.gradcheck(lambda x: psft_values(x, old, None), (new,))

    class Exact(TokenBatch):
        """Log-probabilities as they were given, in float64."""

        def logprobs(self, of="policy", ids=None):
            return self.signals[of]

    signals = {name: draw() for name in ("reference", "weak_aligned", "weak_reference", "snapshot")}

    def values(objective):
        fields = {name: getattr(tokens, name) for name in ("targets", "row", "position", "row_id", "lengths")}
        return lambda x: objective(Exact(**fields, signals={**signals, "policy": x})).values

    for objective in (
        WSPO(0.7, "token", column=False),
        WSPO(0.7, "sequence_mean", column=False),
        DPO(BETA),
    ):
        assert torch.autograd.gradcheck(values(objective), (new,))
