"""GRPO and RLOO through the engine against the loss that TRL's own trainers compute for the same answers."""

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

import tiny
from trimtab.core import IGNORE
from trimtab.methods import grpo, rloo
from trimtab.models.forward import add_objective_forward

TEMPERATURE = 0.8
PROMPT, ANSWERS = 3, (5, 2, 1, 7)


def trl_trainer(kind, config, folder, policy, **settings):
    tokenizer = tiny.tokenizer(["<unk>", *(f"w{i}" for i in range(tiny.VOCAB - 1))])
    tokenizer.pad_token = tokenizer.eos_token = "<unk>"
    args = config(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=8,
        temperature=TEMPERATURE,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        **settings,
    )
    rows = Dataset.from_list([{"prompt": "w1 w2 w3"}] * 4)
    made = kind(policy, lambda completions, **_: [0.0] * len(completions), args, rows, processing_class=tokenizer)
    made.current_gradient_accumulation_steps = 1
    return made


def batch_of_trl() -> tuple[dict, torch.Tensor]:
    """Four answers to prompts of one length as TRL's trainers hold them, and which places of them count."""
    ids = torch.randint(3, tiny.VOCAB, (4, PROMPT + max(ANSWERS)))
    mask = torch.arange(max(ANSWERS))[None] < torch.tensor(ANSWERS)[:, None]
    inputs = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.ones(4, PROMPT, dtype=torch.long),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask.long(),
        "num_items_in_batch": mask.sum(),
    }
    return inputs, mask


def ours(objective, inputs, mask, signals, reduction):
    """Loss and gradients of the engine for the same answers."""
    policy = tiny.model("llama_tied")
    add_objective_forward(policy)
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    labels = torch.where(attention == 1, ids, IGNORE)
    labels[:, :PROMPT] = IGNORE
    rows = tiny.Rows(ids, attention, labels, torch.arange(4))
    call = tiny.call(objective, rows, signals, reduction=reduction, temperature=TEMPERATURE)
    output = policy(input_ids=ids, attention_mask=attention, objective_call=call)
    output.loss.backward()
    return output, tiny.gradients(policy)


@pytest.mark.parametrize(("loss_type", "mean"), [("dapo", "token"), ("grpo", "row")])
@pytest.mark.parametrize("several_updates", [False, True])
@pytest.mark.parametrize("kl", [0.0, 0.04])
def test_grpo_has_the_loss_and_the_gradient_of_trls_trainer(tmp_path, loss_type, mean, several_updates, kl):
    policy = tiny.model("llama_tied")
    trainer = trl_trainer(GRPOTrainer, GRPOConfig, tmp_path, policy, loss_type=loss_type, epsilon_high=0.28)
    trainer.beta = kl  # set in the config it would load a reference; its log-probabilities are given below
    trainer.model.train()
    inputs, mask = batch_of_trl()
    advantages = torch.tensor([0.7, -0.7, 1.3, -0.4])
    inputs["advantages"], signals = advantages, {"advantages": advantages.repeat_interleave(torch.tensor(ANSWERS))}
    if several_updates or kl:
        with torch.no_grad():
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            now, _, _ = trainer._get_per_token_logps_and_entropies(policy, ids, attention, max(ANSWERS))
    if several_updates:
        inputs["old_per_token_logps"] = now + 0.3 * torch.randn_like(now)
        signals["old"] = inputs["old_per_token_logps"][mask]
    if kl:
        inputs["ref_per_token_logps"] = now + 0.3 * torch.randn_like(now)
        signals["reference"] = inputs["ref_per_token_logps"][mask]
    wanted = trainer._compute_loss(policy, inputs)
    wanted.backward()

    plan = grpo.METHOD.build(grpo.Config(mean=mean, epsilon_high=0.28), None)
    plan.objective.kl = kl  # likewise
    output, grads = ours(plan.objective, inputs, mask, signals, plan.reduction)
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-6)
    assert tiny.relative_error(grads, tiny.gradients(policy)) < 1e-5
    logged = trainer._metrics["train"]
    for ours_name, trls in (("entropy", "entropy"), ("clip_fraction", "clip_ratio/region_mean")):
        total, number = output.metrics[ours_name]
        assert (total / number).item() == pytest.approx(logged[trls][-1], rel=1e-4)


def test_rloo_has_the_loss_and_the_gradient_of_trls_trainer(tmp_path):
    policy = tiny.model("llama_tied")
    trainer = trl_trainer(RLOOTrainer, RLOOConfig, tmp_path, policy, beta=0.0)
    trainer.model.train()
    inputs, mask = batch_of_trl()
    advantages = torch.tensor([0.7, -0.7, 1.3, -0.4])
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    with torch.no_grad():
        now = trainer._get_per_token_logps_and_entropies(policy, ids, attention, max(ANSWERS))[0]
    old = now + 0.1 * torch.randn_like(now)
    wanted = trainer._compute_loss(policy, inputs | {"advantages": advantages, "old_logps": (old * mask).sum(1)})
    wanted.backward()
    plan = rloo.METHOD.build(rloo.Config(kl=0.0), None)
    signals = {"advantages": advantages.repeat_interleave(torch.tensor(ANSWERS)), "old": old[mask]}
    output, grads = ours(plan.objective, inputs, mask, signals, plan.reduction)
    assert output.loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert tiny.relative_error(grads, tiny.gradients(policy)) < 1e-4
