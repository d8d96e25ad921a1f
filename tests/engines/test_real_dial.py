"""The dial inside the real vLLM: tokens are those of realign, however vLLM cuts, caches, mixes and preempts; skipped
where no vLLM is found."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trimtab.decoding.penalty import PenaltyProcessor
from trimtab.decoding.realign import realign
from trimtab.engines.vllm import EngineMissing, clean_environment, find_vllm
from trimtab.models.identity_layer import identity_layer, insert_identity_layer

pytestmark = pytest.mark.slow
VOCAB, LONGEST = 300, 128
STRENGTHS: tuple[Any, ...] = (0.0, 0.3, 1.0, 1.5, -0.5, [1.0, 0.5, 0.0])
PROCESSORS = ["trimtab_vllm.decoding:PenaltyDecoding", "trimtab_vllm.decoding:AdaptiveDecoding"]
DIAL = {"version": 1, "recommended": [0.0, 1.5], "limits": [-2.0, 4.0], "layers": [0], "merge": "logits"}


def with_dial(family: str, folder: Path, dial: Any = None, **changes: Any):
    """A tiny model whose two streams differ, and its folder; attention of vLLM on a CPU has heads of 32 at least."""
    size = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": LONGEST, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.15, **changes}  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **size)).eval()
        for name, weight in original.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(weight, std=0.3)
        model = insert_identity_layer(original)
        for weight in identity_layer(model).parameters():
            weight.data.add_(torch.randn_like(weight), alpha=0.15)
    model.config.trimtab_dial = dial or DIAL
    model.save_pretrained(folder)
    model.generation_config.eos_token_id = None
    return model


def by_token(strength: Any, number: int) -> Any:
    """As realign takes a schedule, [S, 1]."""
    if not isinstance(strength, list):
        return strength
    return [[strength[token * len(strength) // number]] for token in range(number)]


def jobs(model: Any, penalty: bool = False) -> list[dict[str, Any]]:
    """Five prompts of unequal lengths, each at several strengths, with what realign answers."""
    generator, found = torch.Generator().manual_seed(1), []
    for number in range(5):
        prompt = torch.randint(3, VOCAB, (1, 5 + 9 * number), generator=generator)
        for place, strength in enumerate(STRENGTHS):
            most = 20 + 5 * ((number + place) % 4)
            args, how = {"strength": strength}, {}
            if penalty and place % 2:
                args |= {"penalty_strength": 1.5, "penalty_window": 12, "penalty_eos": "none"}
                how = {"logits_processor": [PenaltyProcessor(1.5, 12)]}
            said = model.generate(
                prompt, custom_generate=realign, strength=by_token(strength, most), max_new_tokens=most,
                do_sample=False, pad_token_id=0, attention_mask=torch.ones_like(prompt), **how,
            )  # fmt: skip
            asked = {"max_tokens": most, "ignore_eos": True, "extra_args": args}
            found.append(
                {"prompt": prompt[0].tolist(), "sampling": asked, "wanted": said[0, prompt.size(1) :].tolist()}
            )
    return found


def case(folder: Path, jobs: list[dict], environment: dict | None = None, **settings: Any) -> dict[str, Any]:
    return {"folder": str(folder), "jobs": jobs, "settings": settings, "environment": environment or {}}


def follow(model: Any, job: dict, strength: float) -> dict[str, Any]:
    """An answer read at another strength, and the log-probabilities that it has there."""
    from trimtab.models.identity_layer import bypass

    ids = torch.tensor([job["prompt"] + job["wanted"]])
    with torch.no_grad():
        aligned = model(ids).logits[0]
        with bypass(model):
            original = model(ids).logits[0]
    table = ((1 - strength) * original + strength * aligned).log_softmax(-1)[len(job["prompt"]) - 1 : -1]
    logprobs = table.gather(1, torch.tensor(job["wanted"])[:, None])[:, 0].tolist()
    args = {"strength": strength, "follow": job["wanted"]}
    asked = {"max_tokens": len(job["wanted"]), "ignore_eos": True, "logprobs": 0, "extra_args": args}
    return {"prompt": job["prompt"], "sampling": asked, "wanted": job["wanted"], "logprobs": logprobs}


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("dials")
    models = {family: with_dial(family, root / family) for family in ("llama", "mistral", "qwen3")}
    models["qwen2"] = with_dial("qwen2", root / "qwen2", tie_word_embeddings=True)
    llama, work = root / "llama", jobs(models["llama"])
    block = 32 * 2 * 32 * 4 * 5  # tokens, keys and values, of one head, in bytes; five caches
    found = {
        "cached": case(llama, work + work[:6], enable_prefix_caching=True),
        "penalty": case(llama, jobs(models["llama"], True), enable_prefix_caching=False, logits_processors=PROCESSORS),
        "preempted": case(llama, work, kv_cache_memory_bytes=8 * block, enable_prefix_caching=False),
        "compiled": case(llama, work, enforce_eager=False, enable_prefix_caching=False),
        "follow": case(llama, [*(follow(models["llama"], job, 0.7) for job in work), *work]),
        **{family: case(root / family, jobs(models[family])) for family in ("mistral", "qwen2", "qwen3")},
    }
    models["llama"].config.trimtab_dial = None
    models["llama"].save_pretrained(root / "none")
    with_dial("llama", root / "version", {**DIAL, "version": 2})
    with_dial("gemma2", root / "gemma2", head_dim=32)
    ngram = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}
    found |= {
        "version": case(root / "version", []),
        "family": case(root / "gemma2", []),
        "none": case(root / "none", [], logits_processors=["trimtab_vllm.dial:Dial"]),
        "none, by name": case(root / "none", [], hf_overrides={"architectures": ["TrimtabDialForCausalLM"]}),
        "runner": case(llama, [], {"VLLM_USE_V2_MODEL_RUNNER": "1"}),
        "drafts": case(llama, [], speculative_config=ngram),
        "adapters": case(llama, [], enable_lora=True),
        "prompt": case(llama, [{**work[0], "sampling": {"max_tokens": 2, "prompt_logprobs": 1}}]),
    }
    return found


@pytest.fixture(scope="module")
def found(cases, tmp_path_factory) -> dict[str, dict[str, Any]]:
    try:
        python = Path(find_vllm()).with_name("python")
    except EngineMissing as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("answers")
    (folder / "cases").write_text(json.dumps(list(cases.values())), encoding="utf-8")
    words = [python, Path(__file__).with_name("offline_vllm.py"), folder / "cases", folder / "results"]
    environment = clean_environment({"OMP_NUM_THREADS": "1"})
    ended = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment, timeout=1500)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return dict(zip(cases, json.loads((folder / "results").read_text(encoding="utf-8")), strict=True))


@pytest.mark.parametrize(
    "name", ["cached", "penalty", "preempted", "compiled", "follow", "mistral", "qwen2", "qwen3"]
)  # fmt: skip
def test_the_tokens_are_those_of_realign(cases, found, name):
    assert "error" not in found[name], found[name]
    assert found[name]["tokens"] == [job["wanted"] for job in cases[name]["jobs"]]


def test_the_settings_did_what_they_are_for(cases, found):
    assert found["cached"]["metrics"]["vllm:prefix_cache_hits"] > 0
    assert found["preempted"]["metrics"]["vllm:num_preemptions"] > 0
    for name in ("cached", "qwen2"):  # and strengths matter: no two of the first prompt's answers are alike
        first = [tuple(job["wanted"][:20]) for job in cases[name]["jobs"][: len(STRENGTHS)]]
        assert len(set(first)) == len(STRENGTHS)
    plain, penalised = ([job["wanted"] for job in cases[name]["jobs"]] for name in ("preempted", "penalty"))
    assert [a == b for a, b in zip(plain, penalised, strict=True)].count(False) >= 5


def test_a_followed_answer_has_the_logprobs_of_the_strength_it_is_read_at(cases, found):
    read = [(job["logprobs"], said) for job, said in zip(cases["follow"]["jobs"], found["follow"]["logprobs"])
            if "logprobs" in job]  # fmt: skip
    assert len(read) == len(cases["preempted"]["jobs"])
    for wanted, said in read:
        torch.testing.assert_close(torch.tensor(said), torch.tensor(wanted), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("version", "has version 2, and this trimtab-vllm reads version 1; export the folder again"),
        ("family", "llama, mistral, qwen2, qwen3, not for Gemma2ForCausalLM (gemma2)"),
        ("none", "has no dial: leave Dial out"),
        ("none, by name", "has no dial: its config.json has no trimtab_dial"),
        ("runner", "start the server with VLLM_USE_V2_MODEL_RUNNER=0"),
        ("drafts", "does not go with speculative decoding"),
        ("adapters", "does not go with LoRA adapters"),
        ("prompt", "gives no prompt_logprobs"),
    ],
)
def test_what_a_dial_cannot_do_is_refused(found, name, said):
    assert said in found[name].get("error", "")
