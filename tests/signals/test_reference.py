"""The start at candidates: its log-probabilities of tokens that were not written, at the policy's temperature."""

from contextlib import contextmanager

import pytest
import torch

import tiny
from trimtab.core import TokenBatch
from trimtab.models.forward import add_objective_forward
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.reference import ReferenceAtCandidates

ROWS = tiny.rows()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["frozen", "off"])
def test_it_reads_the_candidates_under_the_start_alone(kind, temperature):
    start, policy = tiny.model("llama_tied", seed=3), tiny.model("llama_tied")
    with torch.no_grad():
        logits = start(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    batch = TokenBatch.align(logits / temperature, ROWS.labels)
    others = torch.randint(tiny.VOCAB, (len(batch), 3))
    others = torch.where(others == batch.targets[:, None], (others + 1) % tiny.VOCAB, others)
    ids = torch.cat([batch.targets[:, None], others], dim=1)
    add_objective_forward(policy)
    weights = {name: value.clone() for name, value in policy.state_dict().items()}

    @contextmanager
    def off():
        policy.load_state_dict(start.state_dict())
        yield
        policy.load_state_dict(weights)

    made = ReferenceAtCandidates(FrozenModel(start, name="reference") if kind == "frozen" else InitialPolicy(off))
    made.temperature = temperature
    found = made(policy, {**ROWS.inputs(), "candidate_ids": ids})["reference"]
    torch.testing.assert_close(found, batch.logprobs(ids=ids), rtol=1e-5, atol=1e-5)
    assert made.models == ([start] if kind == "frozen" else [])
