"""The shared parts of the small experiments are what they say."""

import torch
import toys

from trimtab.core import TokenBatch, reduce, weights


def test_the_toy_runs_the_engine_and_plain_logits_alike():
    model = toys.ToyLM(6, 4, 8)
    inputs = toys.inputs_of(torch.randint(6, (3, 7)))
    reference = toys.Frozen(model, "reference", reads="answers")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plan = toys.build("sft", {"kl": 0.5}, model, reference=reference)
    losses = []
    toys.train(model, plan, [inputs], 0.0, after=lambda step, output: losses.append(output.loss.item()))
    batch = TokenBatch.align(model(inputs["input_ids"]), inputs["labels"]).with_signals(**reference(None, inputs))
    assert abs(losses[0] - reduce(plan.objective(batch), weights(batch, "token_mean")).item()) < 1e-5


def test_a_frozen_toy_stays_what_it_was():
    model = toys.ToyLM(6, 4, 8)
    inputs = toys.inputs_of(torch.randint(6, (3, 7)))
    wanted = TokenBatch.align(model(inputs["input_ids"]), inputs["labels"]).logits().detach()
    frozen = toys.Frozen(model, "teacher")
    torch.nn.init.zeros_(model.body[2].weight)
    torch.testing.assert_close(frozen(model, inputs)["teacher"].compute(), wanted)


def test_the_rate_of_good_tokens_is_that_of_the_models_own_text():
    table = torch.zeros(8, 8, 8)
    table[:, 7, 0] = 1.0  # after a 7 always a 0, which is good; two tokens in eight are
    table[:, 0, 7] = 1.0  # after a 0 always a 7
    assert toys.good(8) == 2
    assert toys.good_rate(table, torch.tensor([[1, 7]]), 10, seed=0) == 0.5


def test_preferences_put_the_answer_with_more_good_tokens_first_and_drop_ties():
    ids = torch.tensor([[5, 5, 7, 7], [5, 5, 0, 7], [5, 6, 0, 1], [5, 6, 7, 0], [6, 6, 0, 7], [6, 6, 7, 1]])
    assert toys.preferences(ids, 8).tolist() == [[5, 5, 0, 7], [5, 5, 7, 7], [5, 6, 0, 1], [5, 6, 7, 0]]


def test_batches_keep_pairs_together_and_depend_on_the_seed_alone():
    ids = torch.arange(40).view(10, 4)
    one, other = (list(toys.batches(ids, 2, 3, seed=1, together=2)) for _ in range(2))
    for inputs, same in zip(one, other):
        assert torch.equal(inputs["input_ids"], same["input_ids"])
        assert inputs["row_id"][0] == inputs["row_id"][1]
        assert (inputs["input_ids"][1::2] - inputs["input_ids"][0::2] == 4).all()
