"""A teacher with another tokenizer: it reads its own ids, and what it says lies at the student's tokens."""

import pytest
import torch

import tiny
from tiny_tokenizers import TEXTS, aligned, byte_level, chat, metaspace, side
from trimtab.common.errors import UserError
from trimtab.core import IGNORE, OtherVocabulary, Plan, Signal, TokenBatch, TopK
from trimtab.data.collate import Collator
from trimtab.data.two_tokenizers import tokens_of_both
from trimtab.methods.kd import Config, build
from trimtab.models.forward import add_objective_forward
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.other_tokenizer import OtherTokenizer

ANSWERS = ["The river.", TEXTS[0], TEXTS[1], "see 🦊!", "deep"]


def model(tokenizer, seed=0, **changes):
    return tiny.model("llama", seed, vocab_size=len(tokenizer) + 3, max_position_embeddings=256, **changes)


class Two:
    """A student and a teacher with their tokenizers, and rows for both."""

    def __init__(self, student=None, teacher=None, same=False):
        student = student or byte_level()
        teacher = student if same else teacher or metaspace()
        self.rows = [{**aligned(chat(text), student, teacher), "row_id": i} for i, text in enumerate(ANSWERS)]
        self.policy = model(student)
        self.teacher = model(student) if same else model(teacher, 1)
        sizes = [one.config.vocab_size for one in (self.policy, self.teacher)]
        self.common = tokens_of_both(side(student), side(teacher, "teacher"), *sizes)
        self.signal = OtherTokenizer(FrozenModel(self.teacher), self.common)
        self.collate = Collator(0, sizes[0])


def test_what_the_teacher_says_is_that_of_its_own_row_at_the_same_byte():
    two = Two()
    batch = two.collate(two.rows)
    found = two.signal(None, batch)
    logits = found["teacher"].compute()
    at = 0
    for row in two.rows:
        own = two.teacher(torch.tensor([row["teacher_input_ids"]])).logits[0].detach()
        logprobs = own.log_softmax(-1)
        for place, (label, s, starts) in enumerate(zip(row["labels"], row["segment"], row["starts"])):
            if label == IGNORE:
                continue
            places = [i for i, one in enumerate(row["teacher_segment"]) if one == s and s >= 0]
            if starts:
                torch.testing.assert_close(logits[at], own[places[0] - 1], rtol=1e-4, atol=1e-4)
            wanted = sum(logprobs[i - 1, row["teacher_input_ids"][i]] for i in places)
            torch.testing.assert_close(found["segment_logprob"][at], torch.as_tensor(wanted), rtol=1e-4, atol=1e-4)
            assert bool(found["starts"][at]) == bool(starts)
            single = len(places) == row["segment"].count(s) == 1 and starts
            assert bool(found["merged"][at]) == (s >= 0 and not single)
            assert place > 0
            at += 1
    assert at == len(logits)


def losses(two, rows, signals=None, **settings):
    """[N] values of kd, and the gradient at the policy's head."""
    plan = build(Config(tokenizers="different", **settings), two.policy, teacher=signals or two.signal)
    add_objective_forward(two.policy)
    two.policy.zero_grad()
    output = call_plan(plan, two.policy, two.collate(rows), float(len(ANSWERS)))
    output.loss.backward()
    return output, two.policy.lm_head.weight.grad.clone()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_micro_batches_of_any_size_give_the_same_values_and_gradients(divergence):
    two = Two()
    whole, gradient = losses(two, two.rows, divergence=divergence)
    parts = [losses(two, two.rows[i : i + 2], divergence=divergence) for i in (0, 2, 4)]
    values = torch.cat([part.unreduced for part, _ in parts])
    torch.testing.assert_close(values, whole.unreduced, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sum(grad for _, grad in parts), gradient, rtol=1e-4, atol=1e-5)
    for name in ("matched", "aligned"):
        assert sum(part.metrics[name][0] for part, _ in parts) == whole.metrics[name][0]


def test_a_student_that_is_its_teacher_gets_no_loss_and_no_gradient_through_this_way_either():
    two = Two(same=True)
    found, gradient = losses(two, two.rows)
    torch.testing.assert_close(found.unreduced, torch.zeros_like(found.unreduced), rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)
    assert found.metrics["matched"][0] >= found.metrics["matched"][1] - 6  # parts of characters alone


def test_one_tokenizer_on_both_sides_is_plain_kd():
    two = Two(same=True)
    two.signal = OtherTokenizer(FrozenModel(model(byte_level(), 5)), two.common)
    found, _ = losses(two, two.rows[:2])
    plan = build(Config(), two.policy, teacher=two.signal.teacher)
    batch = two.collate(two.rows[:2])
    plain = call_plan(plan, two.policy, batch, float(len(ANSWERS)))
    # what no text holds (special tokens, rows of padding) is one class here
    assert (found.unreduced <= plain.unreduced + 1e-5).all()
    torch.testing.assert_close(found.unreduced, plain.unreduced, rtol=0.2, atol=0.02)


def test_the_temperature_is_that_of_both_sides():
    two = Two()
    plan = build(Config(tokenizers="different", temperature=2.0), two.policy, teacher=two.signal)
    assert isinstance(plan, Plan)
    hot = two.signal(None, two.collate(two.rows))["segment_logprob"]
    row = two.rows[0]
    own = two.teacher(torch.tensor([row["teacher_input_ids"]])).logits[0].detach() / 2
    first = row["teacher_segment"].index(0)
    count = row["teacher_segment"].count(0)
    places = range(first, first + count)
    wanted = sum(own.log_softmax(-1)[i - 1, row["teacher_input_ids"][i]] for i in places)
    torch.testing.assert_close(hot[0], wanted, rtol=1e-4, atol=1e-4)


def test_a_micro_batch_without_any_segment_is_read():
    two = Two()
    row = two.rows[0]
    bare = {
        **row,
        "segment": [-1] * len(row["segment"]),
        "starts": [0] * len(row["starts"]),
        "teacher_labels": [IGNORE] * len(row["teacher_labels"]),
        "teacher_segment": [-1] * len(row["teacher_segment"]),
    }
    found, gradient = losses(two, [bare])
    assert torch.equal(found.unreduced, torch.zeros_like(found.unreduced))
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_teacher_that_is_known_by_its_most_likely_tokens_alone_is_refused():
    class Few(Signal):
        provides = frozenset({"teacher"})

        def __call__(self, policy, inputs):
            number = len(TokenBatch.from_labels(inputs["labels"]))
            table = torch.zeros(number, 2)
            return {"teacher": TopK(table.long(), table, table[:, 0], table[:, 0], 5)}

    two = Two()
    with pytest.raises(UserError, match="must give whole distributions"):
        OtherTokenizer(Few(), two.common)(None, two.collate(two.rows))


def test_logits_of_another_vocabulary_do_not_crop_those_of_the_policy():
    tokens = TokenBatch.from_labels(
        torch.tensor([[0, 1]]), {"policy": torch.zeros(1, 9), "teacher": OtherVocabulary(torch.zeros(1, 4))}
    )
    assert tokens.vocab_size == 9
    assert tokens[0:1].signals["teacher"].compute().shape == (1, 4)
