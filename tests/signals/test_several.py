"""Several teachers as one: the average is the normalised product, and a routed row is read by its own teacher."""

import pytest
import torch

import tiny
from trimtab.core import LazyLogits, TokenBatch
from trimtab.methods import kd
from trimtab.models.forward import add_objective_forward
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore
from trimtab.signals.several import Teachers

ROWS = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (1, 3)))


def teachers(store: bool = False) -> list[FrozenModel]:
    """Of two families and widths; the head of the second is padded."""
    models = [tiny.model("llama", seed=3), tiny.model("gpt2", seed=4, n_embd=48, vocab_size=60)]
    return [FrozenModel(m, name=f"teacher.{i}", store=RowStore() if store else None) for i, m in enumerate(models)]


def log_p(teacher: FrozenModel, rows: tiny.Rows, vocab: int) -> torch.Tensor:
    """[N, V] of the model itself, over the first ids."""
    with torch.no_grad():
        logits = teacher.model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    return TokenBatch.align(logits[..., :vocab], rows.labels).logits().log_softmax(-1)


@pytest.mark.parametrize("store", [False, True])
def test_the_average_is_the_normalised_product_of_the_distributions(store):
    both = teachers(store)
    signal = Teachers(both, weights=[3.0, 1.0])
    found = signal(None, ROWS.inputs())["teacher"]
    assert isinstance(found, LazyLogits)
    a, b = (log_p(one, ROWS, 53).exp() for one in both)
    product = a**0.75 * b**0.25
    wanted = product / product.sum(-1, keepdim=True)
    torch.testing.assert_close(found.compute().softmax(-1), wanted, rtol=1e-4, atol=1e-7)
    assert found.vocab_size == signal.vocab_size == 53
    torch.testing.assert_close(found[2:5].compute(), found.compute()[2:5])


def test_of_equal_teachers_the_average_is_each():
    one = FrozenModel(tiny.model("llama", seed=3), name="a")
    found = Teachers([one, one], weights=[0.2, 0.5])(None, ROWS.inputs())["teacher"]
    torch.testing.assert_close(found.compute(), log_p(one, ROWS, one.vocab_size), rtol=1e-4, atol=1e-5)


def test_each_row_is_read_by_its_own_teacher_also_of_a_later_turn():
    both = teachers()
    rows = {**ROWS.inputs(), "row_id": torch.tensor([0, 1, 2, 3, 5])}  # of four rows; the last is row 1's second turn
    found = Teachers(both, routes=torch.tensor([1, 1, 0, 0]))(None, rows)["teacher"]
    of_token = TokenBatch.from_labels(rows["labels"]).row
    logp = found.compute().log_softmax(-1)
    for index, name in ((1, [0, 1, 4]), (0, [2, 3])):
        mine = torch.isin(of_token, torch.tensor(name))
        assert mine.any()
        torch.testing.assert_close(logp[mine], log_p(both[index], ROWS, 53)[mine], rtol=1e-4, atol=1e-4)
    part = found[3:6]
    torch.testing.assert_close(part.compute(), found.compute()[3:6])


def test_a_teacher_reads_no_row_that_is_not_its_own():
    both = teachers(store=True)
    Teachers(both, routes=torch.tensor([0, 0, 0, 0, 0]))(None, ROWS.inputs())
    assert [len(one.store) for one in both if one.store is not None] == [len(ROWS.labels), 0]


@pytest.mark.parametrize("how", [{"weights": [1.0, 1.0]}, {"routes": torch.tensor([0, 1, 0, 1, 1])}])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_the_answers_are_of_the_normalised_distribution(how, temperature):
    both = teachers()
    rows = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (1, 3)))
    signal = Teachers(both, **how, reads="answers")
    signal.temperature = temperature
    whole = Teachers(both, **how)(None, rows.inputs())["teacher"].compute()
    wanted = (whole / temperature).log_softmax(-1).gather(1, TokenBatch.from_labels(rows.labels).targets[:, None])
    torch.testing.assert_close(signal(None, rows.inputs())["teacher"], wanted[:, 0], rtol=1e-4, atol=1e-4)


def test_a_student_learns_from_the_average_as_from_its_logits():
    """The gradient is that of the divergence to the average's own logits."""
    both, policy = teachers(), tiny.model("llama", seed=5)
    rows = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (1, 3)))
    signal = Teachers(both, weights=[1.0, 2.0])
    logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    batch = TokenBatch.align(logits, rows.labels)
    target = signal(None, rows.inputs())["teacher"].compute().softmax(-1)
    (target * (target.log() - batch.log_softmax())).sum(-1).mean().backward()
    wanted = tiny.gradients(policy)
    policy.zero_grad()
    add_objective_forward(policy)
    plan = kd.build(kd.Config.model_validate({}), policy, signal)
    found = call_plan(plan, policy, rows.inputs())
    assert found.loss is not None
    found.loss.backward()
    assert tiny.relative_error(tiny.gradients(policy), wanted) < 1e-4
