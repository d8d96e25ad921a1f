"""Rollouts: how they are laid out and read, what each token is to learn, and that updates are those of the equation."""

from functools import partial

import pytest
import torch
from trl import GRPOTrainer

import tiny
import tiny_folder
from tiny_rollout_trainer import SETTINGS, Grouped, count_of_a, dataset, grpo, policy, trainer
from trimtab.core import IGNORE, Candidates, Plan, Signal, TokenBatch, answer_mask
from trimtab.decoding._batching import pads_left
from trimtab.decoding._draws import drawing
from trimtab.decoding._early_exit import early_exit
from trimtab.objectives.advantages import group_normalised
from trimtab.objectives.policy_gradient import PolicyGradient, Reinforce
from trimtab.rewards.graded import NotGraded
from trimtab.train import settings
from trimtab.train.generation import as_it_was
from trimtab.train.rollouts import (
    RolloutError,
    RolloutTrainer,
    check_buffer,
    cropped,
    how_generated,
    laid_out,
    packed,
    rollout_config,
    unpacked,
)

# ---------------------------------------------------------------- layout


def test_prompts_on_the_left_and_answers_become_rows_without_a_gap():
    rows = laid_out(
        {
            "prompt_ids": torch.tensor([[9, 9, 5], [4, 5, 6]]),
            "prompt_mask": torch.tensor([[0, 0, 1], [1, 1, 1]]),
            "completion_ids": torch.tensor([[7, 8, 2, 9], [7, 9, 9, 9]]),
            "completion_mask": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]),
        }
    )
    assert rows["input_ids"].tolist() == [[5, 7, 8, 2], [4, 5, 6, 7]]
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert rows["labels"].tolist() == [[IGNORE, 7, 8, 2], [IGNORE, IGNORE, IGNORE, 7]]


def test_tokens_that_a_tool_wrote_are_read_and_not_learnt():
    rows = laid_out(
        {
            "prompt_ids": torch.tensor([[5]]),
            "prompt_mask": torch.tensor([[1]]),
            "completion_ids": torch.tensor([[7, 8, 2]]),
            "completion_mask": torch.tensor([[1, 1, 1]]),
            "tool_mask": torch.tensor([[1, 0, 1]]),
        }
    )
    assert rows["labels"].tolist() == [[IGNORE, 7, IGNORE, 2]]
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_signals_of_tokens_survive_shuffling_and_splitting():
    labels = torch.tensor([[IGNORE, IGNORE, 3, 4], [IGNORE, 5, IGNORE, IGNORE], [IGNORE, 6, 7, 8]])
    batch = TokenBatch.from_labels(labels)
    advantages = torch.arange(6.0)
    some = Candidates(
        torch.arange(12).view(6, 2), torch.arange(12.0).view(6, 2) - 20, mask=torch.arange(12).view(6, 2) > 3
    )
    rows = {"labels": labels, "attention_mask": torch.ones_like(labels)}
    rows |= packed("advantages", advantages, batch) | packed("candidates", some, batch)
    order = [2, 0]  # a shuffle, and a split that leaves row 1 out
    known = unpacked(cropped({key: value[order] for key, value in rows.items()}))
    assert known["advantages"].tolist() == [3, 4, 5, 0, 1]
    assert known["candidates"].ids.tolist() == some.ids[[3, 4, 5, 0, 1]].tolist()
    assert known["candidates"].mask.tolist() == some.mask[[3, 4, 5, 0, 1]].tolist()
    assert known["candidates"].advantages is None


# ---------------------------------------------------------------- what the credit is given


def test_the_advantage_estimator_gets_all_answers_with_their_rewards_and_groups(tmp_path):
    plan = grpo(candidates=3, needs=frozenset({"old"}))
    made = trainer(tmp_path, plan, temperature=0.7, per_device_train_batch_size=8)
    made.train()
    (seen,) = plan.advantages.seen
    batch = seen.batch
    assert seen.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    per_row = [batch.targets[batch.row == row] for row in range(8)]
    assert seen.rewards.tolist() == [float((ids < 100).sum()) for ids in per_row]
    log_p = _plain(policy(), made, 0.7)
    for row, wanted in enumerate(log_p):
        own = batch.row == row
        ids = batch.targets[own]
        torch.testing.assert_close(seen.signals["old"][own], wanted.gather(1, ids[:, None])[:, 0], rtol=1e-4, atol=1e-5)
        assert (seen.candidates.ids[own][:, 0] == ids).all()
        best = wanted.topk(3).indices
        for place in range(len(ids)):
            kept = set(seen.candidates.ids[own][place].tolist())
            likely = best[place].tolist()
            assert kept == ({*likely} if int(ids[place]) in likely else {int(ids[place]), *likely[:2]})
        torch.testing.assert_close(
            seen.candidates.logprobs[own], wanted.gather(1, seen.candidates.ids[own]), rtol=1e-4, atol=1e-5
        )


def test_what_is_read_in_batches_of_like_length_comes_back_in_order(tmp_path):
    made = trainer(tmp_path, grpo())
    made.args.per_device_train_batch_size = 2
    rows = tiny.rows(((3, 5), (1, 1), (4, 7), (2, 2), (1, 6)))  # the order by length is no swap of pairs
    batch = TokenBatch.from_labels(rows.labels)
    known = {"candidate_ids": torch.arange(len(batch))[:, None]}

    def read(inputs):
        return {"targets": TokenBatch.from_labels(inputs["labels"]).targets, "ids": inputs["candidate_ids"][:, 0]}

    found, _ = made._over(rows.inputs(), read, known)
    assert torch.equal(found["targets"], batch.targets)
    assert torch.equal(found["ids"], torch.arange(len(batch)))


def _plain(model, made, temperature):
    """Log-probabilities of each answer's places by the model's own forward, row by row without padding, in the order of
    the credit."""
    rows = made.plan.advantages.seen[0].batch
    found = []
    prompts = made._texts[0]
    tokenizer = tiny_folder.byte_tokenizer()
    for row in range(len(rows.lengths)):
        start = tokenizer.apply_chat_template(prompts[row], add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = torch.tensor([*start, *rows.targets[rows.row == row].tolist()])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0] / temperature
        found.append(logits.log_softmax(-1)[len(start) - 1 : -1])
    return found


def test_old_log_probabilities_cost_a_forward_only_where_the_policy_moves_in_between(tmp_path):
    once, twice = grpo(), grpo()
    trainer(tmp_path / "a", once).train()
    assert "old" not in once.advantages.seen[0].signals
    made = trainer(tmp_path / "b", twice, num_iterations=2, max_steps=2)
    made.train()
    assert len(twice.advantages.seen) == 1
    assert "old" in twice.advantages.seen[0].signals


def test_batches_without_an_answer_are_read_past(tmp_path):
    """Answers that were cut may be left out, and they are short: batches of like length hold nothing else."""
    made = trainer(tmp_path, grpo(candidates=3), per_device_train_batch_size=2)
    ids = torch.randint(3, tiny_folder.VOCAB, (4, 6))
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]])
    learnt = (mask == 1) & torch.tensor([[False], [True], [False], [True]])
    learnt[:, :2] = False
    rows = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(~learnt, IGNORE)}
    rows["row_id"] = torch.arange(4)
    found, _ = made._over(rows, made._policy_signals)
    wanted, _ = made._over({key: value[[1, 3]] for key, value in rows.items()}, made._policy_signals)
    assert len(found["old"]) == 6
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("candidates", [0, 3])
def test_where_every_answer_was_cut_and_left_out_nothing_is_learnt(tmp_path, candidates):
    plan = grpo(candidates=candidates, needs=frozenset({"old"}))
    made = trainer(tmp_path, plan, max_completion_length=1, mask_truncated_completions=True)
    start = {name: value.clone() for name, value in made.model.named_parameters()}
    made.train()
    (seen,) = plan.advantages.seen
    assert len(seen.batch) == 0
    assert seen.rewards.shape == (4,)
    if candidates:
        assert seen.candidates.ids.shape == seen.candidates.logprobs.shape == (0, 3)
    assert all(torch.equal(value, start[name]) for name, value in made.model.named_parameters())


# ---------------------------------------------------------------- updates


@pytest.mark.fast("changes1*", "changes4*")
@pytest.mark.parametrize(
    ("changes", "loss_type", "reduction"),
    [
        ({}, "dapo", "token_mean"),
        ({}, "grpo", "sequence_mean"),
        ({"gradient_accumulation_steps": 2}, "dapo", "token_mean"),
        ({"num_iterations": 2, "max_steps": 2}, "dapo", "token_mean"),
        ({"temperature": 0.8}, "dapo", "token_mean"),
        ({"cache_implementation": "dynamic"}, "dapo", "token_mean"),  # TRL's own way of generation
    ],
)
def test_weights_after_training_are_those_of_trl(tmp_path, changes, loss_type, reduction):
    plan = Plan(PolicyGradient(0.2, 0.2), advantages=Grouped(), reduction=reduction)
    ours = trainer(tmp_path / "ours", plan, **changes)
    start = {name: value.clone() for name, value in ours.model.named_parameters()}
    ours.train()
    args = settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), tmp_path / "trl", 0, "rollouts")
    args.loss_type = loss_type
    theirs = GRPOTrainer(
        model=policy(), args=args, reward_funcs=[count_of_a], train_dataset=dataset(),
        processing_class=tiny_folder.byte_tokenizer(),
    )  # fmt: skip
    theirs._rows = ()
    generate = partial(theirs.model.generate, **({} if args.cache_implementation else {"custom_generate": early_exit}))

    def with_the_same_numbers(generation_config, **inputs):
        uniform = partial(RolloutTrainer._uniform, theirs)
        if not args.cache_implementation:
            return generate(generation_config=generation_config, uniform=uniform, **inputs)
        with drawing(theirs.model, uniform, inputs["input_ids"].size(1)):
            return generate(generation_config=generation_config, **inputs)

    theirs.model.generate = with_the_same_numbers
    theirs.train()
    moved = 0.0
    for (name, mine), (_, other) in zip(ours.model.named_parameters(), theirs.model.named_parameters(), strict=True):
        moved = max(moved, (mine - start[name]).abs().max().item())
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5, msg=name)
    assert moved > 1e-3


@pytest.mark.parametrize("changes, prompts_read", [({}, 2), ({"cache_implementation": "dynamic"}, 8)])
def test_prompts_are_read_once_for_all_their_answers(tmp_path, changes, prompts_read):
    """Unless the settings say how to generate; and afterwards the model is as before."""
    made = trainer(tmp_path, grpo(), **changes)
    assert pads_left(made.model)  # which is tried out once
    sizes = []
    table = made.model.get_input_embeddings()
    handle = table.register_forward_hook(lambda m, args, out: sizes.append(out.size(0)))
    chats = [dataset()[i // 4]["prompt"] for i in range(8)]
    made._generate(chats)
    handle.remove()
    assert sizes[:2] == [prompts_read, 8]
    assert "generate" not in vars(made.model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "with early-exit batching"),
        ({"cache_implementation": "static"}, "by transformers' generate, cache: static"),
        ({"repetition_penalty": 1.2}, "by transformers' generate, cache: dynamic"),  # it looks at whole batches
        ({"generation_kwargs": {"no_repeat_ngram_size": 3}}, "by transformers' generate, cache: dynamic"),
        ({"use_transformers_continuous_batching": True}, "by transformers' continuous batching"),
    ],
)
def test_how_completions_are_generated_is_reported(tmp_path, changes, said):
    args = settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), tmp_path, 0, "rollouts")
    assert how_generated(args, rollout_config(args, (0,), 0)).startswith(said)


def test_nothing_of_the_models_own_config_acts_on_rollouts_and_it_is_there_again_afterwards(tmp_path):
    chats = [dataset()[i]["prompt"] for i in range(8)]

    def written(changes, **own):
        made = trainer(tmp_path, grpo(), **changes)
        made.model.generation_config.update(**own)
        torch.manual_seed(0)
        found = made._generate(chats)[1]
        assert all(getattr(made.model.generation_config, name) == value for name, value in own.items())
        return found

    own = {"repetition_penalty": 5.0, "min_p": 0.9, "num_beams": 2, "suppress_tokens": [9, 20], "min_new_tokens": 5}
    assert written({}, **own) == written({})
    assert written({"cache_implementation": "dynamic"}, **own) == written({"cache_implementation": "dynamic"})
    asked = {"repetition_penalty": 5.0}
    assert written(asked, **own) == written(asked) != written({})


def test_rollouts_end_at_every_end_token(tmp_path):
    made = trainer(tmp_path, grpo())
    assert made.eos_token_ids == [0]
    base = policy()
    base.generation_config.eos_token_id = [7, 9]
    made = trainer(tmp_path, grpo(), model=base)
    assert made.eos_token_ids == made.generation_config.eos_token_id == [0, 7, 9]


def test_an_update_is_divided_by_its_own_tokens(tmp_path):
    """Two updates on four answers each: each mean is over the tokens of its own answers."""
    plan = grpo()
    made = trainer(tmp_path, plan, per_device_train_batch_size=4, steps_per_generation=2, max_steps=2)
    totals = []
    real = made._compute_loss

    def kept(model, inputs):
        loss = real(model, inputs)
        totals.append((float(made._total), int(answer_mask(inputs["labels"]).sum())))
        return loss

    made._compute_loss = kept
    made.train()
    assert len(plan.advantages.seen) == 1
    assert [total for total, _ in totals] == [tokens for _, tokens in totals]
    assert made.totals.answer_tokens == sum(tokens for _, tokens in totals) == len(plan.advantages.seen[0].batch)


class Keeps(Signal):
    """Keeps what it may learn from."""

    needs = frozenset({"old"})

    def __init__(self):
        self.seen = []

    def before_advantages(self, rollouts):
        assert rollouts.old is not None
        self.seen.append((rollouts.outcome, rollouts.update_rows, rollouts.micro_rows))
        return {}


@pytest.mark.parametrize("right, wrong", [(1.0, 0.0), (0.0, -1.0), (0.3, 0.1)])
def test_the_first_reward_alone_decides_what_is_correct(tmp_path, right, wrong):
    def judged(prompts, completions, completion_ids, **columns):
        return [right if sum(ids) % 2 else wrong for ids in completion_ids]

    def form(prompts, completions, completion_ids, **columns):
        return [2.0 * (len(ids) % 2) for ids in completion_ids]

    keeps = Keeps()
    plan = Plan(PolicyGradient(0.2, 0.2), advantages=Grouped(), rollout_signals=(keeps,))
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    made = trainer(tmp_path, plan, rewards=[judged, form], correct=[right, 1.0], **settings)
    made.train()
    ((outcome, size, micro),) = keeps.seen
    batch = plan.advantages.seen[0].batch
    odd = [sum(ids.tolist()) % 2 for ids in batch.targets.split(batch.lengths.tolist())]
    assert outcome.tolist() == odd
    assert 0 < sum(odd) < len(odd)
    assert (size, micro) == (8, 4)


def test_the_first_reward_that_grades_an_answer_decides_whether_it_is_correct(tmp_path):
    """Others return None, as TRL lets them."""

    def long(prompts, completions, completion_ids, **columns):
        return [
            None if len(prompt[0]["content"]) < 3 else 10.0 * (sum(ids) % 2)
            for prompt, ids in zip(prompts, completion_ids)
        ]

    def any_(prompts, completions, completion_ids, **columns):
        return [0.4 * (sum(ids) % 3 == 0) for ids in completion_ids]

    keeps = Keeps()
    plan = Plan(PolicyGradient(0.2, 0.2), advantages=Grouped(), rollout_signals=(keeps,))
    settings = {"per_device_train_batch_size": 8, "reward_weights": [0.5, 2.0]}
    made = trainer(tmp_path, plan, rewards=[long, any_], correct=[10.0, 0.4], **settings)
    made.train()
    ((outcome, _, _),) = keeps.seen
    rollouts = plan.advantages.seen[0]
    sums = [sum(ids.tolist()) for ids in rollouts.batch.targets.split(rollouts.batch.lengths.tolist())]
    judged = [row % 5 + 1 >= 3 for row in rollouts.batch.row_id.tolist()]
    assert outcome.tolist() == [number % 2 if first else number % 3 == 0 for number, first in zip(sums, judged)]
    assert 0 < sum(judged) < len(judged)
    earned = [5.0 * (number % 2) * first + 0.8 * (number % 3 == 0) for number, first in zip(sums, judged)]
    torch.testing.assert_close(rollouts.rewards, torch.tensor(earned))


def test_an_answer_that_no_reward_judges_is_named(tmp_path):
    made = trainer(tmp_path, grpo(), rewards=[lambda prompts, **columns: [None] * len(prompts)])
    with pytest.raises(NotGraded, match="no reward grades a completion of 'x+': every one returned None"):
        made.train()


def test_answers_are_written_without_dropout_and_learnt_from_with_it(tmp_path):
    made = trainer(tmp_path, Plan(Reinforce(), advantages=Grouped()), max_steps=1)
    inside = made.model.get_submodule("model.layers.0.mlp")
    modes = {"written": set(), "learnt": set()}
    inside.register_forward_hook(
        lambda *_: modes["learnt" if torch.is_grad_enabled() else "written"].add(inside.training)
    )
    made.train()
    assert modes == {"written": {False}, "learnt": {True}}


def test_generation_leaves_the_weights_as_they_were(tmp_path):
    """TRL rounds them for continuous batching to the dtype of mixed precision, and buffers with them."""
    model = policy()
    kept = {name: value.clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    with as_it_was(model):
        model.to(torch.bfloat16)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        assert value.dtype == kept[name].dtype
        assert torch.equal(value, kept[name])


@pytest.mark.slow
def test_equal_rewards_change_nothing_and_are_counted(tmp_path):
    def same(prompts, completions, completion_ids, **columns):
        return [1.0] * len(prompts)

    made = trainer(tmp_path, grpo())
    made.reward_funcs = [same]
    start = {name: value.clone() for name, value in made.model.named_parameters()}
    made.train()
    for name, value in made.model.named_parameters():
        assert torch.equal(value, start[name])
    logged = [entry for entry in made.state.log_history if "groups_without_signal" in entry]
    assert [entry["groups_without_signal"] for entry in logged] == [1.0]
    (said,) = made.remarks()
    assert said.startswith("in 1 of 1 batches all completions of a prompt got the same")
    other = trainer(tmp_path, grpo())
    other.totals.load_state_dict(made.totals.state_dict())
    assert other.remarks() == [said]
    other.train()
    assert other.remarks() == [said.replace("1 of 1", "1 of 2")]


def test_rollouts_are_shown_with_the_advantage_of_each_token(tmp_path):
    shown = []
    made = trainer(tmp_path, grpo(), watch=lambda step, rows: shown.append((step, rows)))
    made.train()
    ((step, rows),) = shown
    seen = made.plan.advantages.seen[0]
    assert step == 0
    assert [len(row["ids"]) for row in rows] == seen.batch.lengths.tolist()
    assert [row["reward"] for row in rows] == seen.rewards.tolist()
    advantages = group_normalised(seen.rewards, seen.group)
    assert [row["advantages"][0] for row in rows] == pytest.approx(advantages.tolist(), abs=1e-4)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "make the first a multiple of the second"),
        ({"num_iterations": 2, "save_strategy": "steps", "save_steps": 3}, "make save_steps a multiple of 2"),
        ({"num_iterations": 2, "save_strategy": "epoch"}, "use save_steps"),
    ],
)
def test_settings_that_could_not_be_saved_are_refused(tmp_path, changes, said):
    built = settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), tmp_path, 0, "rollouts")
    with pytest.raises(RolloutError, match=said):
        check_buffer(built)


def test_a_sharded_policy_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    built = settings.build(settings.check(SETTINGS, "rollouts"), tmp_path, 0, "rollouts")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(RolloutError, match="the launch asks for FSDP2: each process samples"):
        check_buffer(built)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_generations": 1}, r"num_generations is 1; give at least 2: a completion is compared"),
        ({"epsilon": 0.3}, "set by the recipe's `method`"),
        ({"num_generatons": 4}, "num_generations"),
        ({"use_vllm": True}, "the recipe names the engine"),
        ({"per_device_train_batch_size": 3}, "divisible by num_generations"),
    ],
)
def test_settings_of_trl_are_checked_before_anything_is_loaded(tmp_path, changes, said):
    with pytest.raises(settings.TrainingError, match=said):
        settings.build(settings.check({**SETTINGS, **changes}, "rollouts"), tmp_path, 0, "rollouts")
