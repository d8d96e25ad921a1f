"""Attribution of a language model's answer: identities of the maps, and their gradient against finite differences."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
from trimtab.core import IGNORE, Head, Plan, predicting
from trimtab.core.auxiliary import ReadInside
from trimtab.core.batch import ATTRIBUTED, answer_mask
from trimtab.models.classifier import twice_differentiable
from trimtab.models.forward import InsideCall, add_objective_forward
from trimtab.objectives.answer_maps import (
    MAPS,
    AnswerAttribution,
    TeacherMaps,
    Views,
    answer_maps,
    answers_at,
    attributable,
    draw_views,
)
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.matching import Match
from trimtab.signals.attributed import AttributedTeacher
from trimtab.signals.frozen import FrozenModel

NEOX = {
    "vocab_size": tiny.VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.4,
}  # fmt: skip
GEMMA = {
    **NEOX, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
OTHERS = {"gpt_neox": NEOX, "gemma": GEMMA}
KINDS = ("llama", "llama_tied", "qwen2", "qwen3", "gpt2", "gemma", "gemma2", "gemma3", "gpt_neox", "cohere", "granite")


def model(kind: str = "llama_tied", seed: int = 0):
    """One that can be differentiated twice."""
    if kind in OTHERS:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **OTHERS[kind])).eval()
    else:
        made = tiny.model(kind, seed=seed)
    add_objective_forward(twice_differentiable(made))
    return made


def plan_of(teacher, weight: float = 1.0, positions: int | None = None, candidates: int = 1, **how) -> Plan:
    reads = AttributedTeacher(FrozenModel(teacher), positions, candidates, **how)
    return Plan(Match(forward_kl, 1.0, 1.0), signals=(reads,), auxiliary=AnswerAttribution(weight))


def attribution(policy, teacher, rows: tiny.Rows | None = None, *, changed: dict | None = None, **how) -> Tensor:
    """The term alone, with its graph; `changed` goes into the batch."""
    inputs = {**(tiny.rows() if rows is None else rows).inputs(), **(changed or {})}
    plan = plan_of(teacher, **how)
    assert plan.auxiliary is not None
    call = InsideCall(inputs["labels"], plan.auxiliary, plan.signals[0](policy, inputs))
    output = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
    return output.unreduced.sum() / plan.auxiliary.number(inputs)


def map_by_hand(policy, rows: tiny.Rows, row: int, kind: str) -> Tensor:
    """[P] the map of a row's prompt, from the embeddings fed to the whole model."""
    length = int(rows.attention_mask[row].sum())
    ids, labels = rows.input_ids[row : row + 1, :length], rows.labels[row, :length]
    embedded = policy.get_input_embeddings()(ids).detach().requires_grad_()
    logits = policy(inputs_embeds=embedded, use_cache=False).logits[0].float()
    answer = (labels != IGNORE).nonzero()[:, 0]
    answer = answer[answer > 0]
    logits[answer - 1].log_softmax(-1)[range(len(answer)), labels[answer]].sum().backward()
    found = (embedded.grad * embedded)[0, : int(answer[0])].norm(dim=-1).detach()
    return found / found.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_is_the_gradient_times_input_of_the_answers_log_probability(kind):
    policy, rows = model(kind), tiny.rows(((3, 5), (2, 1), (4, 7)))
    found = AttributedTeacher(FrozenModel(policy))(None, rows.inputs())[MAPS]
    for row, (prompt, _) in enumerate(((3, 5), (2, 1), (4, 7))):
        wanted = map_by_hand(model(kind), rows, row, kind)
        torch.testing.assert_close(found.maps[0, row, :prompt], wanted, rtol=2e-4, atol=2e-5)
        assert (found.maps[0, row, prompt:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_no_attribution_loss_and_no_gradient_of_it(kind):
    policy = model(kind)
    loss = attribution(policy, copy.deepcopy(policy))
    assert loss.item() == pytest.approx(0, abs=1e-9)
    loss.backward()
    assert max(float(grad.abs().max()) for grad in tiny.gradients(policy).values()) < 1e-4


@pytest.mark.parametrize("how", [{}, {"positions": 2, "candidates": 2}], ids=["answer", "views"])
@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gemma", "gpt_neox"])
def test_its_gradient_is_that_of_finite_differences(kind, how):
    """Norms and attention of transformers compute in float32, which bounds what can be seen; see the next test."""
    policy, teacher, rows = model(kind).double(), model(kind, seed=5).double(), tiny.rows(((3, 5), (4, 2)))
    attribution(policy, teacher, rows, **how).backward()
    direction = directions(policy)
    slope = sum(float((p.grad * direction[name]).sum()) for name, p in policy.named_parameters() if p.grad is not None)
    ahead, behind = (attribution(moved(policy, direction, step), teacher, rows, **how).item() for step in (1e-3, -1e-3))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ahead - behind) / 2e-3, rel=1e-2, abs=2e-3)


def directions(policy: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn_like(p) * p.detach().abs().mean() for name, p in policy.named_parameters()}


def moved(policy, direction: dict[str, Tensor], step: float):
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.add_(step * direction[name])
    return other


class Net(nn.Module):
    """Embeddings, a causal mixture of them, tanh, and a head: float64 throughout."""

    def __init__(self, seed: int = 0, width: int = 5):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.mix, self.out = nn.Embedding(9, width), nn.Linear(width, width), nn.Linear(width, 9)
        self.double()

    def read(self, rows: tiny.Rows, signals: dict) -> ReadInside:
        embedded = self.words(rows.input_ids)
        ahead = torch.ones(rows.labels.size(1), rows.labels.size(1)).triu(1).bool()
        mixed = (embedded @ self.mix(embedded).mT).masked_fill(ahead, -torch.inf).softmax(-1)
        states = predicting(torch.tanh(mixed @ self.mix(embedded)), rows.labels)
        return ReadInside(embedded, states, Head(self.out, 9), rows.labels, signals)


@pytest.mark.parametrize("many", [False, True], ids=["answer", "views"])
@pytest.mark.parametrize("how", [{}, {"norm": 1, "kind": "absolute"}, {"kind": "smooth_l1"}])
def test_to_ten_digits_its_gradient_is_that_of_finite_differences(how, many):
    rows, policy, teacher = tiny.rows(((3, 5), (4, 2)), vocab=9), Net(), Net(seed=5)
    there = teacher.read(rows, {})
    views = draw_views(rows.labels, rows.row_id, 2, 2, there.states, there.head, 9, 0, 0) if many else None
    mask, norm = attributable(rows.inputs()), how.get("norm", 2)
    values = answers_at(there.states, there.head, rows.labels, 9, views)
    maps = torch.stack(list(answer_maps(values, there.embedded, mask, norm=norm))).detach()
    term, signals = AnswerAttribution(3.0, **how), {MAPS: TeacherMaps(maps, mask, 9, views)}

    def loss(net: Net) -> Tensor:
        return term(net.read(rows, signals)).values.sum()

    loss(policy).backward()
    direction = directions(policy)
    slope = sum(float((p.grad * direction[name]).sum()) for name, p in policy.named_parameters())
    ahead, behind = (loss(moved(policy, direction, step)).item() for step in (1e-6, -1e-6))
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("scale", [3.0, -0.01])
def test_a_map_does_not_change_with_a_factor_of_what_is_attributed(scale):
    rows, net = tiny.rows(((3, 5), (4, 2)), vocab=9), Net()
    read, mask = net.read(rows, {}), attributable(rows.inputs())
    values = answers_at(read.states, read.head, rows.labels, 9)
    (one,), (other,) = (list(answer_maps(c * values, read.embedded, mask)) for c in (1.0, scale))
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(2).double())


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("how", [{}, {"positions": 2, "candidates": 2}], ids=["answer", "views"])
def test_a_batch_of_rows_is_as_its_rows_alone_and_padding_says_nothing(kind, how):
    policy, teacher, rows = model(kind), model(kind, seed=5), tiny.rows(((3, 5), (4, 7), (2, 1)))
    whole = attribution(policy, teacher, rows, **how)
    parts = [attribution(policy, teacher, rows.pick([row]), **how) for row in range(3)]
    units = [3, 4, 2]
    assert whole.item() == pytest.approx(sum(n * part.item() for n, part in zip(units, parts)) / 9, rel=1e-4)
    padded = rows.input_ids.masked_fill(rows.attention_mask == 0, 17)
    assert attribution(policy, teacher, rows, changed={"input_ids": padded}, **how).item() == whole.item()
    wide = attribution(policy, teacher, tiny.rows(((3, 5), (4, 7), (2, 1)), width=20), **how)
    assert wide.item() == pytest.approx(whole.item(), rel=1e-4)


def test_several_views_are_the_sum_of_single_ones():
    rows, policy, teacher = tiny.rows(((3, 5), (4, 2)), vocab=9), Net(), Net(seed=5)
    there, mask = teacher.read(rows, {}), attributable(rows.inputs())
    views = draw_views(rows.labels, rows.row_id, 2, 2, there.states, there.head, 9, 0, 0)

    def loss(some: Views) -> Tensor:
        values = answers_at(there.states, there.head, rows.labels, 9, some)
        maps = torch.stack(list(answer_maps(values, there.embedded, mask))).detach()
        return AnswerAttribution(1.0)(policy.read(rows, {MAPS: TeacherMaps(maps, mask, 9, some)})).values

    single = [Views(views.tokens[:, q : q + 1], views.ids[:, q : q + 1, c : c + 1]) for q in (0, 1) for c in (0, 1)]
    torch.testing.assert_close(loss(views), torch.stack([loss(one) for one in single]).sum(dim=0))
    assert len({round(loss(one).sum().item(), 9) for one in single}) == 4


def test_a_single_next_token_is_attributed_by_its_own_log_probability():
    rows, net = tiny.rows(((3, 5), (4, 2)), vocab=9), Net()
    read = net.read(rows, {})
    views = Views(torch.tensor([[1, 4], [5, -1]]), torch.tensor([[[2, 3], [4, 5]], [[6, 7], [8, 0]]]))
    found = answers_at(read.states, read.head, rows.labels, 9, views)
    table = read.head(read.states).log_softmax(-1)
    nothing = table.new_zeros(())
    wanted = [table[1, 2], table[5, 6], table[1, 3], table[5, 7], table[4, 4], nothing, table[4, 5], nothing]
    torch.testing.assert_close(found, torch.stack(wanted).view(4, 2))


def test_the_drawn_positions_are_different_ones_of_each_row_and_depend_on_row_and_update_alone():
    rows = tiny.rows(((3, 5), (4, 1), (2, 0), (2, 6)), vocab=9)
    there = Net().read(rows, {})

    def drawn(labels: Tensor, row_id: Tensor, states: Tensor, step: int = 0) -> Views:
        return draw_views(labels, row_id, 3, 2, states, there.head, 9, 0, step)

    views = drawn(rows.labels, rows.row_id, there.states)
    row = answer_mask(rows.labels).nonzero()[:, 0]
    for number, places in enumerate(views.tokens.tolist()):
        kept = [place for place in places if place >= 0]
        assert len(kept) == len(set(kept)) == min(3, (5, 1, 0, 6)[number])
        assert all(row[place] == number for place in kept)
    best = there.head(there.states).topk(2).indices
    assert torch.equal(views.ids[0, 0], best[views.tokens[0, 0]])
    alone = drawn(rows.labels[3:], rows.row_id[3:], there.states[6:])
    assert torch.equal(alone.tokens[0] + 6, views.tokens[3])
    steps = {tuple(drawn(rows.labels, rows.row_id, there.states, step).tokens[3].tolist()) for step in range(20)}
    assert len(steps) > 5


def test_maps_are_made_of_prompts_marked_tokens_before_the_last_answer_token():
    labels = torch.tensor([[-100, -100, 5, 6, -100, 7, -100, -100], [-100, -100, -100, -100, -100, -100, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0], [1] * 8])
    found = attributable({"labels": labels, "attention_mask": mask})
    assert found.tolist() == [[True, True, False, False, True, False, False, False], [False] * 8]
    marked = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [1] * 8])
    given = attributable({"labels": labels, "attention_mask": mask, ATTRIBUTED: marked})
    assert given.tolist() == [[False, True, False, False, True, False, False, False], [False] * 8]


def test_tokens_that_are_left_out_are_left_out_before_the_map_is_scaled():
    policy, rows = model(), tiny.rows(((3, 5),))
    reads = AttributedTeacher(FrozenModel(model()))
    whole = reads(policy, rows.inputs())[MAPS].maps[0, 0]
    marks = rows.attention_mask.clone()
    marks[0, 0] = 0
    found = reads(policy, {**rows.inputs(), ATTRIBUTED: marks})[MAPS].maps[0, 0]
    torch.testing.assert_close(found[1:], whole[1:] / whole[1:].norm())
    assert found[0] == 0


def test_fused_attention_has_no_second_derivative_and_eager_attention_has():
    policy, rows = tiny.model("llama_tied"), tiny.rows(((3, 5),))
    add_objective_forward(policy)
    policy.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError, match="derivative"):
        attribution(policy, model(seed=5), rows).backward()
    attribution(twice_differentiable(policy), model(seed=5), rows).backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters())
