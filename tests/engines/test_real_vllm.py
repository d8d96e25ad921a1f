"""The real vLLM serves the builtin model, and says what the model says here; skipped where no vLLM is found."""

import pytest
import torch

from trimtab.core import IGNORE, TokenBatch
from trimtab.core.topk import top_k
from trimtab.engines.vllm import EngineMissing, Serve, VLLMServer, find_vllm, free_port, served
from trimtab.models import loading
from trimtab.models.builtin import builtin_folder
from trimtab.runs.models_key import Models
from trimtab.runs.served_teacher import open_served, probe
from trimtab.signals.frozen import FrozenModel

pytestmark = pytest.mark.slow
KEY = "a-key-of-the-test"


@pytest.fixture(scope="module")
def server():
    try:
        find_vllm()
    except EngineMissing as error:
        pytest.skip(str(error))
    serve = Serve(
        str(builtin_folder("smollm2-135m")), free_port(), name="teacher", dtype="float32", max_model_len=256,
        max_num_seqs=8, max_logprobs=64, kv_cache_bytes=2**29, eager=True, more=("--enable-scale-out",),
    )  # fmt: skip
    with VLLMServer(serve, key=KEY, environment={"OMP_NUM_THREADS": "1"}) as one:
        yield one


def test_a_teacher_that_it_serves_is_the_local_one(server, monkeypatch):
    monkeypatch.setenv("TRIMTAB_API_KEY", KEY)
    assert served(server.url, key=KEY).longest == (256,)
    tokenizer = loading.load_tokenizer("smollm2-135m")
    address = server.url.replace("http", "vllm")
    facts = probe(Models(policy="smollm2-135m", teacher=address, teacher_k=32), tokenizer, 49152)
    assert (facts.vocab, facts.longest, facts.asks, facts.server.tokens_in_out) == (49152, 256, True, True)
    assert "vLLM 0.32" in facts.said
    ids = torch.tensor([tokenizer("A bridge leads over the river, and most people walk.")["input_ids"]])
    labels = ids.clone()
    labels[:, :4] = IGNORE
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "row_id": torch.zeros(1)}
    logits = FrozenModel(loading.load_model("smollm2-135m"))(None, inputs)["teacher"].compute()
    batch = TokenBatch.from_labels(labels, open_served(facts, None)(None, inputs))
    expected, found = top_k(logits, 32, batch.targets), batch.signals["teacher"]
    assert torch.equal(found.ids, expected.ids)
    for name in ("logprobs", "label_logprobs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-4)
    drawn = torch.stack([batch.targets, torch.full_like(batch.targets, 30000)], dim=1)
    wanted = logits.log_softmax(-1).gather(1, drawn)
    torch.testing.assert_close(batch.logprobs("teacher", drawn), wanted, rtol=0, atol=1e-4)
