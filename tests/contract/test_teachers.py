"""Every method that reads a teacher goes through one battery with a cached one: it is the live teacher, or it is
refused with the reason; and with several, or with the policy itself behind another prompt, which are one worked out by
hand. A new method needs no line here."""

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch

import tiny
import tiny_folder
from method_bench import allowed, gates
from trimtab import methods
from trimtab.core import IGNORE, LazyLogits, MethodConfig, Signal, Teacher, TokenBatch, TopKError
from trimtab.models.forward import add_objective_forward
from trimtab.models.stored_head import StoredTeacher, load_head, store_head
from trimtab.runs.cached_teacher import CacheError, check_objective
from trimtab.runs.models_key import SELVES
from trimtab.runs.parse import parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.teacher_key import forms
from trimtab.runs.teacher_reader import given
from trimtab.signals.base import call_plan
from trimtab.signals.cached import CachedTeacher
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.other_prompt import OtherPrompt
from trimtab.signals.row_store import RowStore, write_tensors
from trimtab.signals.self_teacher import AveragePolicy
from trimtab.signals.several import Teachers


def taught(config: MethodConfig, name: str) -> Teacher | None:
    return methods.load(name).requirements(config).model(Teacher)


LOOPS = {name: methods.load(name).loop for name in methods.names()}
TAUGHT = [name for name in LOOPS if taught(methods.load(name).config(), name)]
"""methods that read a teacher by default"""


def settings() -> Iterator[tuple[str, dict[str, Any]]]:
    """Methods that learn from given rows, by each option that changes what of the teacher is read."""
    for name in TAUGHT:
        for options in gates(methods.load(name).config) if LOOPS[name] == "supervised" else ():
            config = allowed(methods.load(name).config, **options)
            teacher = None if config is None else taught(config, name)
            if teacher is not None and not (teacher.own_tokenizer or teacher.inside):
                yield name, options


SETTINGS = {f"{name} {options}": (name, options) for name, options in settings()}
every_setting = pytest.mark.parametrize(("name", "options"), SETTINGS.values(), ids=SETTINGS.keys())
ROWS = tiny.rows(((3, 5), (1, 1), (4, 7)))


@pytest.fixture(scope="module")
def live() -> FrozenModel:
    return FrozenModel(tiny.model("llama_tied", seed=11))


@pytest.fixture(scope="module")
def head(live, tmp_path_factory) -> StoredTeacher:
    folder = tmp_path_factory.mktemp("head")
    store_head(live.model, folder, write_tensors)
    return load_head(folder)


def cached(live: FrozenModel, teacher: StoredTeacher, k: int | None = None) -> CachedTeacher:
    """What it gave for the rows, with its hidden states or its K most likely tokens."""
    store = RowStore()
    for key, fields, counted in given(live, ROWS.inputs(), k, torch.float32):
        store.put(key, fields, **counted)
    return CachedTeacher(store, teacher)


def step(name: str, options: dict[str, Any], teacher: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Loss, gradient and objective of one step.

    Args:
        teacher: a signal, or what makes it of the policy.
    """
    method, policy = methods.load(name), tiny.model("llama_tied")
    add_objective_forward(policy)
    made = teacher if isinstance(teacher, Signal) else teacher(policy)
    plan = method.build(method.config(**options), policy, teacher=made)
    for signal in plan.signals:
        signal.before_training(policy, [ROWS.inputs()])
    out = call_plan(plan, policy, ROWS.inputs())
    assert out.loss is not None
    out.loss.backward()
    return out.loss.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()]), plan.objective


@every_setting
def test_hidden_states_give_the_live_teachers_loss_and_gradient(name, options, live, head):
    loss, gradient, _ = step(name, options, live)
    found, its_gradient, _ = step(name, options, cached(live, head))
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
    assert (its_gradient - gradient).norm() <= 1e-5 * gradient.norm()


@every_setting
def test_the_most_likely_tokens_are_all_it_needs_or_it_is_refused_before_a_row_is_read(name, options, live):
    some = cached(live, StoredTeacher(tiny.VOCAB), 4)
    if refused := why_not(name, options, some):
        assert refused.startswith(f"method {name}: ")
        assert any(way in refused for way in ("--teacher hidden", "leave top_k out")), refused
        assert "its 4 most likely tokens" in refused
        with pytest.raises(TopKError):
            step(name, options, some)
        return
    assert step(name, options, some)[0].isfinite()
    whole = cached(live, StoredTeacher(tiny.VOCAB), tiny.VOCAB)
    (loss, gradient, _), (found, its_gradient, _) = step(name, options, live), step(name, options, whole)
    torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-5)
    assert (its_gradient - gradient).norm() <= 1e-3 * gradient.norm()


class ByHand(Signal):
    """A teacher whose log-probabilities [N, V] were worked out here."""

    name = "teacher"
    provides = frozenset({name})
    distribution = True

    def __init__(self, logprobs: torch.Tensor):
        self.logprobs, self.vocab_size = logprobs, logprobs.size(-1)

    def __call__(self, policy, inputs) -> dict[str, Any]:
        return {"teacher": LazyLogits(self.logprobs, lambda states: states, self.vocab_size)}


@pytest.fixture(scope="module")
def other() -> FrozenModel:
    """A teacher of another width."""
    return FrozenModel(tiny.model("llama_tied", seed=12, hidden_size=32))


@every_setting
@pytest.mark.parametrize("averaged", [True, False], ids=["averaged", "of each row"])
def test_several_teachers_are_read_as_the_distributions_worked_out_by_hand(name, options, averaged, live, other):
    inputs, routes = ROWS.inputs(), torch.zeros(int(ROWS.row_id.max()) + 1, dtype=torch.long)
    routes[ROWS.row_id[1]] = 1
    first, second = (one(None, inputs)["teacher"].compute().log_softmax(-1) for one in (live, other))
    of_second = TokenBatch.from_labels(inputs["labels"]).row == 1  # [N]
    average = (0.75 * first + 0.25 * second).log_softmax(-1)
    wanted = average if averaged else torch.where(of_second[:, None], second, first)
    assert 0 < ((wanted - first).abs().amax(-1) > 0.01).sum() < len(first) + averaged
    how: dict[str, Any] = {"weights": [3.0, 1.0]} if averaged else {"routes": routes}
    loss, gradient, _ = step(name, options, ByHand(wanted))
    found, its_gradient, _ = step(name, options, Teachers([live, other], **how))
    torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-6)
    assert (its_gradient - gradient).norm() <= 1e-4 * gradient.norm()


def swapped_by_hand(model: torch.nn.Module, prompts: list[list[int]]) -> torch.Tensor:
    """[N, V] log-probabilities of what comes next at each answer token, row by row, behind another prompt."""
    found = []
    for ids, labels, prompt in zip(ROWS.input_ids, ROWS.labels, prompts, strict=True):
        answer = ids[labels != IGNORE]
        read = torch.cat([torch.tensor(prompt), answer])[None]
        with torch.no_grad():
            found.append(model(input_ids=read).logits[0, len(prompt) - 1 : -1].log_softmax(-1))
    return torch.cat(found)


def itself(kind: str, policy: Any) -> Signal:
    """The policy as its own teacher, as a run makes it; its average is of weights that were half as large before."""
    if kind == "self":
        return InitialPolicy(nullcontext, "teacher", policy, "distribution")
    if kind == "self:initial":
        return FrozenModel(deepcopy(policy), name="teacher")
    average = AveragePolicy(0.75, policy)
    average.load_state_dict({name: value.detach() / 2 for name, value in policy.named_parameters()})
    return average


@every_setting
@pytest.mark.parametrize("kind", SELVES)
def test_the_policy_itself_behind_another_prompt_is_the_distribution_worked_out_by_hand(name, options, kind):
    prompts = [[9, 8, 7], [3], [5, 6, 4, 2, 1, 7]]
    by_row_id: list[list[int]] = [[]] * (int(ROWS.row_id.max()) + 1)
    for row, prompt in zip(ROWS.row_id.tolist(), prompts, strict=True):
        by_row_id[row] = prompt
    model = tiny.model("llama_tied")
    if kind == "self:average":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
    loss, gradient, _ = step(name, options, ByHand(swapped_by_hand(model, prompts)))
    found, its_gradient, _ = step(name, options, lambda policy: OtherPrompt(itself(kind, policy), by_row_id))
    torch.testing.assert_close(found, loss, rtol=1e-4, atol=1e-6)
    assert (its_gradient - gradient).norm() <= 1e-4 * gradient.norm()


FORMS = {
    "MODEL": "t", "{NAME: MODEL, ...}": {"a": "t", "b": "u"}, "cache:FOLDER": "cache:.",
    "vllm://HOST:PORT": "vllm://127.0.0.1:8000", "self": "self", "self:initial": "self:initial",
    "self:average": "self:average",
}  # fmt: skip


@pytest.mark.parametrize("name", methods.names())
def test_a_recipe_takes_the_teachers_that_show_names_and_no_others(name, tmp_path, trimtab):
    method = methods.load(name)
    named = forms(method, method.requirements(method.config()))
    assert named == [form for form in FORMS if form in named]
    if name in TAUGHT:
        code, out, _ = trimtab("show", name)
        assert (code, f"models.teacher: {', '.join(named)}" in " ".join(out.split())) == (0, True)
        assert ("data.teacher_prompt" in out) == ("self" in named)
    elif LOOPS[name] == "classification":  # reads none, and has one evaluated by none
        return
    reward = {"reward": "exact"} if LOOPS[name] == "rollouts" else {}
    for form, teacher in FORMS.items():
        tree = {**tiny_folder.recipe(tmp_path, name), "training": {"max_steps": 1}, **reward}
        tree["models"] = {"policy": "p", "teacher": teacher, **needed(name)}
        if form.startswith("{"):
            tree["models"]["teacher_weights"] = {"a": 1, "b": 1}
        if form == "self":
            tree["data"]["teacher_prompt"] = "hint"
        if form in named:
            parse(tree, "test", "run")
        elif form.startswith(("self", "{")):
            with pytest.raises(RecipeError):
                parse(tree, "test", "run")


def needed(name: str) -> dict[str, str]:
    """The other models that a method needs."""
    method = methods.load(name)
    required = method.requirements(method.config())
    return {key: "m" for model in required.models if not isinstance(model, Teacher) for key in model.keys}


def why_not(name: str, options: dict[str, Any], teacher: CachedTeacher) -> str:
    """What a run says before it begins; empty if it would train."""
    objective = methods.load(name).build(methods.load(name).config(**options), None, teacher=teacher).objective
    try:
        check_objective(objective, teacher, f"method {name}", 4)
    except CacheError as error:
        return str(error)
    return ""


def test_some_are_refused_and_some_are_not(live):
    """A battery of which one branch is never taken would not notice."""
    some = cached(live, StoredTeacher(tiny.VOCAB), 4)
    refused = {key for key, (name, options) in SETTINGS.items() if why_not(name, options, some)}
    assert {"hpd {}", "kd {'divergence': 'akl'}"} <= refused
    assert {"kd {}", "kd {'divergence': 'reverse_kl'}", "proxy_kd {}"} <= SETTINGS.keys() - refused


INSIDE = [name for name in TAUGHT if methods.load(name).requirements(methods.load(name).config()).inside]


@pytest.mark.parametrize("name", [name for name in TAUGHT if LOOPS[name] != "supervised" or name in INSIDE])
def test_a_method_whose_teacher_is_not_asked_about_given_rows_is_refused_by_both_commands(name, tmp_path):
    (tmp_path / "cache").mkdir()
    reward = {"reward": "exact"} if LOOPS[name] == "rollouts" else {}
    tree = {**tiny_folder.recipe(tmp_path, name), "training": {"max_steps": 1}, **reward}
    why = "samples new completions" if LOOPS[name] == "rollouts" else "reads inside its teacher"
    tree["models"] = {"policy": "p", "teacher": f"cache:{tmp_path / 'cache'}"}
    with pytest.raises(RecipeError, match=f"method {name} {why}"):
        parse(tree, "test", "run")
    stages = [{"name": "store", "precompute": "hidden", "models": {"policy": "p", "teacher": "t"}}, {"name": "run"}]
    with pytest.raises(RecipeError, match=f"method {name} {why}"):
        parse({**tree, "models": {"policy": "p", "teacher": "t"}, "stages": stages}, "test", "run")
