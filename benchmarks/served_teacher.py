"""Is a teacher that vLLM serves the local one, what does a row cost, and what does asking for K tokens change?

A server of SmolLM2-135M (or the one at --at) and the same model here, both in float32, give a student of 8 of its
layers the loss and the gradient of the same rows: kd from the K most likely tokens of each, whose log-probabilities are
compared too, and hpd, for which the server scores the student's own candidates. Then kd from K tokens against kd from
the whole distribution: what one class for all others leaves out. The first pass over the rows warms the server up.
"""

import sys
import time
from pathlib import Path
from typing import Any

from common import Target, parser, relative_error, signature, table, tell, unjudged, write
from trimtab.core import TokenBatch, TopK
from trimtab.core.topk import top_k
from trimtab.data.collate import Collator
from trimtab.engines.address import address_of
from trimtab.engines.scoring import ScoringServer
from trimtab.engines.vllm import Serve, VLLMServer, free_port
from trimtab.methods import hpd, kd
from trimtab.models import loading
from trimtab.models.builtin import builtin_folder
from trimtab.models.forward import add_objective_forward
from trimtab.runs.parse import load_recipe
from trimtab.runs.policy import Shared, make_policy, policy_tokenizer, policy_vocab
from trimtab.runs.recipe import Recipe
from trimtab.runs.rows import prepare_source
from trimtab.runs.served_teacher import open_served, probe
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.served import ServedTeacher

SIZES = (8, 64, 128)
ALIKE = 1e-4


class LocalTopK(FrozenModel):
    """The most likely tokens of the model here."""

    def __init__(self, model: Any, k: int):
        super().__init__(model)
        self.k = k

    def __call__(self, policy: Any, inputs: Any) -> dict[str, TopK]:
        logits = super().__call__(policy, inputs)["teacher"].compute()
        return {"teacher": top_k(logits, self.k, TokenBatch.from_labels(inputs["labels"]).targets)}


def answer(method: Any, policy: Any, teacher: Any, inputs: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Loss and gradients."""
    policy.zero_grad()
    loss = call_plan(method.build(method.Config(), policy, teacher), policy, inputs).loss
    assert loss is not None
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def apart(one: tuple[float, dict], other: tuple[float, dict]) -> dict[str, float]:
    """Relative errors of loss and gradient."""
    return {"loss": abs(one[0] - other[0]) / abs(other[0]), "gradient": relative_error(one[1], other[1])}


def compare(server: ScoringServer, policy: Any, model: Any, inputs: dict, recipe: Recipe, sizes: Any) -> dict[str, Any]:
    """What both teachers give."""
    tokenizer = policy_tokenizer(recipe)
    whole, found = answer(kd, policy, FrozenModel(model), inputs), {}
    rows = len(inputs["row_id"])
    for k in sizes:
        tell(f"K = {k}")
        facts = probe(recipe.models, tokenizer, policy_vocab(recipe, tokenizer), k=k, server=server)
        assert facts is not None
        served, local = open_served(facts, None), LocalTopK(model, k)
        served(None, inputs)  # warms up
        began = time.perf_counter()
        theirs: TopK = served(None, inputs)["teacher"]
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        ours: TopK = local(None, inputs)["teacher"]
        local_seconds = time.perf_counter() - began
        known = TopKOnce(theirs, served)
        of_k = answer(kd, policy, known, inputs)
        found[k] = {
            "logprobs": float((theirs.logprobs - ours.logprobs).abs().max()),
            "label_logprobs": float((theirs.label_logprobs - ours.label_logprobs).abs().max()),
            "mass_of_the_rest": float((theirs.rest.exp() - ours.rest.exp()).abs().max()),
            "same_tokens": float((theirs.ids == ours.ids).float().mean()),
            "served_to_local": apart(of_k, answer(kd, policy, local, inputs)),
            "of_k_to_whole": apart(of_k, whole),
            "covered_mass": float((-ours.rest.expm1()).mean()),
            "seconds_a_row": seconds / rows,
            "seconds_a_row_here": local_seconds / rows,
        }
        if k == 64:
            before = server.requests
            began = time.perf_counter()
            of_hpd = answer(hpd, policy, TopKOnce(theirs, served), inputs)
            seconds = time.perf_counter() - began
            asked = server.requests - before
            began = time.perf_counter()
            of_local = answer(hpd, policy, FrozenModel(model), inputs)
            found[k]["hpd_served_to_local"] = apart(of_hpd, of_local)
            found[k]["hpd_requests_a_row"] = asked / rows
            found[k]["hpd_seconds_a_row"] = seconds / rows  # the student's own pass and its gradient with them
            found[k]["hpd_seconds_a_row_here"] = (time.perf_counter() - began) / rows
    return found


class TopKOnce(ServedTeacher):
    """What a served teacher has given before."""

    def __init__(self, given: TopK, served: ServedTeacher):
        super().__init__(served.server, served.k, served.vocab_size)
        self.given = given

    def __call__(self, policy: Any, inputs: Any) -> dict[str, Any]:
        return {self.name: self.given}


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--at", help="vllm://HOST:PORT of a running server in float32 with --max-logprobs 128")
    args = arguments.parse_args()
    number, sizes = (3, (64,)) if args.quick else (12, SIZES)
    words = [f"data.rows={number}", "data.heldout=null", "models.student.layers=8", "training.max_length=256"]
    recipe = load_recipe("tiny_kd_served", words, trains=False)
    assert isinstance(recipe, Recipe)
    tokenizer = policy_tokenizer(recipe)
    rows = prepare_source(recipe, "train", tokenizer).rows
    inputs = Collator(0, policy_vocab(recipe, tokenizer))(rows)
    model = loading.load_model("smollm2-135m")
    policy = make_policy(recipe, Shared())
    add_objective_forward(policy)
    if args.at:
        address = address_of(args.at)
        assert address is not None
        found = compare(ScoringServer(address), policy, model, inputs, recipe, sizes)
    else:
        serve = Serve(
            str(builtin_folder("smollm2-135m")), free_port(), name="teacher", dtype="float32", max_model_len=1024,
            max_num_seqs=32, max_logprobs=128, kv_cache_bytes=2**30, eager=True, more=("--enable-scale-out",),
        )  # fmt: skip
        with VLLMServer(serve, environment={"OMP_NUM_THREADS": "1"}) as server:
            address = address_of(f"vllm://127.0.0.1:{serve.port}")
            assert address is not None
            tell(f"{server.said} is ready")
            found = compare(ScoringServer(address), policy, model, inputs, recipe, sizes)
    lines = [
        [str(k), *(f"{one[name]:.2g}" for name in ("logprobs", "covered_mass", "seconds_a_row", "seconds_a_row_here")),
         *(f"{one[pair][what]:.2g}" for pair in ("served_to_local", "of_k_to_whole") for what in ("loss", "gradient"))]
        for k, one in found.items()
    ]  # fmt: skip
    heads = ["K", "log-probabilities", "covered", "s a row", "here", "loss", "gradient", "K: loss", "K: gradient"]
    print(table(heads, lines))
    pairs = [(f"kd, K = {k}", one["served_to_local"]) for k, one in found.items()]
    pairs.append(("hpd, K = 64", found[64]["hpd_served_to_local"]))
    what = "served teacher against the local one, relative error"
    targets = [Target(what, ALIKE, one[name], f"{name} of {of}") for of, one in pairs for name in ("loss", "gradient")]
    targets += [Target("log-probabilities, nats", ALIKE, one["logprobs"], f"K = {k}") for k, one in found.items()]
    tokens = int((inputs["labels"] != -100).sum())
    result = {"signature": signature(), "rows": number, "answer_tokens": tokens, "by_k": found}
    path = write("served_teacher", args, result, unjudged(targets) if args.quick else targets)
    print(*targets, Path(path).name, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
