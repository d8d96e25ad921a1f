"""The recipe's `rollouts`: what it takes, what it refuses, and what of it a signature says."""

from pathlib import Path

import pytest

import tiny_rollout_runs
from trimtab.runs.parse import parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.rollouts_key import computes_in, said

VLLM = {"engine": "vllm", "server": "http://127.0.0.1:8000"}


def made(method: str = "grpo", **changes):
    return parse(tiny_rollout_runs.tree(Path("files"), Path("run"), method, **changes), "here", "run")


def test_by_default_the_policy_samples_itself():
    recipe = made()
    assert recipe.rollouts.engine == "generate"
    assert said(recipe, None) is None


def test_the_signature_says_dtype_and_correction_and_not_where_the_server_is(tmp_path):
    from trimtab.train import settings

    recipe = made(rollouts=VLLM)
    args = settings.build({**recipe.training, "use_cpu": True}, tmp_path, 0, "rollouts")
    assert said(recipe, args) == "vllm in float32, correction sequence_mask, no bound to 3"


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({}, "float32"),
        ({"training": {"bf16": True}}, "bfloat16"),
        ({"models": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"rollouts": {**VLLM, "dtype": "bfloat16"}}, "bfloat16"),
    ],
)
def test_the_server_computes_as_training_does_unless_it_is_said(changes, wanted):
    assert computes_in(made(**{"rollouts": VLLM, **changes})) == wanted


REFUSED = {
    "no server": ({"rollouts": {"engine": "vllm"}}, "rollouts.engine: vllm asks a server; add rollouts.server"),
    "no address": (
        {"rollouts": {**VLLM, "server": "localhost:8000"}},
        "rollouts.server is 'localhost:8000'; no address; write http://localhost:8000",
    ),
    "another engine": ({"rollouts": {"engine": "sglang"}}, "rollouts.engine"),
    "an unknown key": ({"rollouts": {**VLLM, "timout": 3}}, "did you mean 'timeout'"),
    "no time at all": ({"rollouts": {**VLLM, "timeout": 0}}, "rollouts.timeout"),
    "a server for nobody": ({"rollouts": {"server": "http://h:1"}}, "rollouts.server is read by rollouts.engine: vllm"),
    "generate's": (
        {"rollouts": VLLM, "training": {"cache_implementation": "dynamic"}},
        "training.cache_implementation is an argument of transformers' generate, which vLLM does not know",
    ),
    "a correction of nothing": (
        {"training": {"vllm_importance_sampling_clip_max": 2.0}},
        "training.vllm_importance_sampling_clip_max corrects for an engine",
    ),
    "TRL's switch": (
        {"training": {"use_vllm": True}},
        "the recipe names the engine: rollouts: {engine: vllm, server: http://HOST:PORT}",
    ),
    "TRL's server": (
        {"training": {"vllm_server_port": 1}},
        "training.vllm_server_port is set by the recipe's `rollouts`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused(what):
    changes, message = REFUSED[what]
    with pytest.raises(RecipeError) as caught:
        made(**changes)
    assert message in str(caught.value)


def test_a_method_that_samples_nothing_has_no_engine():
    tree = tiny_rollout_runs.tree(Path("files"), Path("run"))
    tree = {"method": "sft", "models": tree["models"], "data": tree["data"], "output": "run"}
    parse({**tree, "rollouts": {}}, "here", "run")
    with pytest.raises(RecipeError, match="method sft samples no completions; leave out rollouts"):
        parse({**tree, "rollouts": VLLM}, "here", "run")
