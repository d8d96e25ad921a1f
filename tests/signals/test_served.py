"""A served teacher says what the local one says: by value, for the K most likely tokens and for any others."""

import math

import pytest
import torch

import tiny
from tiny_vllm import TinyVLLM
from trimtab.common.errors import UserError
from trimtab.core import IGNORE, TokenBatch, TopKError
from trimtab.core.topk import top_k
from trimtab.engines.address import address_of
from trimtab.engines.scoring import ScoringServer
from trimtab.methods import hpd, kd
from trimtab.models.forward import add_objective_forward
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore
from trimtab.signals.served import SMALLEST_REST, ServedTeacher, rest_of

K = 8


@pytest.fixture(scope="module")
def teacher():
    return tiny.model("llama", 3)


@pytest.fixture
def server(teacher):
    with TinyVLLM(teacher) as one:
        yield one


def client(server: TinyVLLM, **how) -> ScoringServer:
    found = ScoringServer(address_of(server.address), **{"pauses": (0.01, 0.01), **how})
    found.model = "teacher"
    return found


def signal(server: TinyVLLM, k: int = K, **how) -> ServedTeacher:
    return ServedTeacher(client(server), k, tiny.VOCAB, **how)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Rows of 12, 9 and 5 tokens, the answers at the end, and one row without an answer."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, tiny.VOCAB, (4, 12), generator=generator)
    lengths = torch.tensor([12, 9, 5, 7])
    mask = torch.arange(12) < lengths[:, None]
    answer = mask & (torch.arange(12) >= torch.tensor([4, 6, 1, 12])[:, None])
    return {
        "input_ids": ids.masked_fill(~mask, 0),
        "attention_mask": mask.long(),
        "labels": ids.masked_fill(~answer, IGNORE),
        "row_id": torch.arange(4),
    }


def local(teacher, inputs) -> torch.Tensor:
    """[N, V] log-probabilities."""
    return FrozenModel(teacher)(None, inputs)["teacher"].compute().log_softmax(-1)


def test_the_most_likely_tokens_are_those_of_the_local_model(server, teacher, inputs):
    expected = top_k(local(teacher, inputs), K, TokenBatch.from_labels(inputs["labels"]).targets)
    for scale_out in (False, True):
        asked = signal(server)
        server.scale_out = asked.server.tokens_in_out = scale_out
        found = asked(None, inputs)["teacher"]
        assert torch.equal(found.ids, expected.ids)
        for name in ("logprobs", "rest", "label_logprobs"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5)
    assert {path for path, _ in server.asked} == {"/v1/completions", "/inference/v1/generate"}


@pytest.mark.parametrize("second_runner", [False, True])
def test_any_token_has_its_exact_score(server, teacher, inputs, second_runner):
    server.scale_out = server.second_runner = second_runner
    asked = signal(server)
    asked.server.scores_given = second_runner
    batch = TokenBatch.from_labels(inputs["labels"], asked(None, inputs))
    before = len(server.asked)
    ids = torch.stack([batch.targets, torch.arange(len(batch)) % tiny.VOCAB, torch.full((len(batch),), 7)], dim=1)
    expected = local(teacher, inputs).gather(1, ids)
    torch.testing.assert_close(batch.logprobs("teacher", ids), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch[5:9].logprobs("teacher", ids[5:9]), expected[5:9], rtol=1e-4, atol=1e-4)
    assert len(server.asked) > before
    before = len(server.asked)
    batch.logprobs("teacher", batch.signals["teacher"].ids)  # all of them are known
    assert len(server.asked) == before


@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_loss_and_gradient_are_those_of_the_local_teacher(server, teacher, inputs, method):
    module, found = {"kd": kd, "hpd": hpd}[method], []
    for one in (FrozenModel(teacher), signal(server, tiny.VOCAB if method == "kd" else 4)):
        policy = tiny.model("llama", 5)
        add_objective_forward(policy)
        out = call_plan(module.build(module.Config(), policy, one), policy, inputs)
        out.loss.backward()
        found.append((out.loss.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-5)
    assert (found[0][1] - found[1][1]).norm() < 1e-4 * found[0][1].norm()


def test_log_probabilities_of_answers_alone(server, teacher, inputs):
    found = signal(server).reading("answers")(None, inputs)["teacher"]
    targets = TokenBatch.from_labels(inputs["labels"]).targets
    torch.testing.assert_close(found, local(teacher, inputs).gather(1, targets[:, None])[:, 0], rtol=1e-4, atol=1e-5)


def test_rows_are_asked_for_once_and_in_their_order(server, inputs):
    twice = {name: value[[2, 0, 1, 0]] for name, value in inputs.items()}
    kept = signal(server, store=RowStore())
    first = kept(None, twice)["teacher"]
    assert len(server.asked) == 3  # two of the four rows are alike
    again = kept(None, {name: value[[1, 2]] for name, value in inputs.items()})["teacher"]
    assert len(server.asked) == 3
    assert torch.equal(again.logprobs, torch.cat([first.logprobs[12:15], first.logprobs[:4]]))
    assert all(path == "/v1/completions" and isinstance(asked["prompt"], list) for path, asked in server.asked)
    assert all(asked["temperature"] == 1.0 for _, asked in server.asked)


def test_many_requests_are_under_way_at_once(server, inputs):
    import time

    server.wait = 0.3
    began = time.monotonic()
    signal(server)(None, inputs)
    assert time.monotonic() - began < 0.8  # three rows have answers


def test_the_rest_is_what_is_left_of_one_within_its_bounds():
    half = torch.tensor([[0.5, 0.25]], dtype=torch.float64).log()
    nothing = torch.tensor([-torch.inf], dtype=torch.float64)
    assert rest_of(half, nothing, 10).exp().item() == pytest.approx(0.25)
    assert rest_of(half, nothing, 2).item() == -math.inf  # there are no others
    most = torch.tensor([[1.0, 1e-9]], dtype=torch.float64).log()
    assert rest_of(most, nothing, 10).exp().item() == pytest.approx(8e-9)  # each at most as likely as the last
    whole = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log()
    assert rest_of(whole, nothing, 10).exp().item() == pytest.approx(SMALLEST_REST)  # and not 0
    assert rest_of(whole, torch.tensor([1e-3]).double().log(), 10).exp().item() == pytest.approx(1e-3)


def test_who_cannot_be_asked_refuses_what_is_not_known(server, inputs):
    batch = TokenBatch.from_labels(inputs["labels"], signal(server, asks=False)(None, inputs))
    with pytest.raises(TopKError, match="log-probabilities of any token of the teacher"):
        batch.logprobs("teacher", batch.targets[:, None])


def test_a_token_that_the_policy_lacks_is_an_error(server, inputs):
    narrow = ServedTeacher(client(server), K, 20)
    with pytest.raises(UserError, match="gives the token id .* which is outside the 20 that the policy has too"):
        narrow(None, {name: value % 20 if name == "input_ids" else value for name, value in inputs.items()})
