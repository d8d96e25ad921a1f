"""Penalty decoding: who is penalised and by how much, what is forgotten, and when the end may come."""

import itertools
import math

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

import tiny
from trimtab import decoding
from trimtab.decoding.penalty import PenaltyProcessor, penalty

SCORES = torch.tensor([[2.0, -2.0, 0.0, 1.0, -1.0, 3.0], [1.0, 1.0, -4.0, 0.5, 2.0, -3.0]])
IDS = torch.tensor([[0, 1, 2, 0], [4, 5, 5, 2]])


def test_scores_of_repeated_tokens_by_hand():
    found = penalty(SCORES, IDS, 2.0)
    assert found.tolist() == [[1.0, -4.0, 0.0, 1.0, -1.0, 3.0], [1.0, 1.0, -8.0, 0.5, 1.0, -6.0]]


def test_a_window_forgets_what_is_further_back():
    assert penalty(SCORES, IDS, 2.0, window=2).tolist() == [
        [1.0, -2.0, 0.0, 1.0, -1.0, 3.0],
        [1.0, 1.0, -8.0, 0.5, 2.0, -6.0],
    ]
    assert torch.equal(penalty(SCORES, IDS, 2.0, window=4), penalty(SCORES, IDS, 2.0))
    assert torch.equal(penalty(SCORES, IDS, 2.0, window=99), penalty(SCORES, IDS, 2.0))


@pytest.mark.parametrize(("strength", "window"), [(1.0, None), (5.0, 0)])
def test_nothing_changes_without_strength_or_window_and_the_callers_tensor_never(strength, window):
    before = SCORES.clone()
    found = penalty(SCORES, IDS, strength, window)
    assert torch.equal(found, before)
    assert found.data_ptr() != SCORES.data_ptr()
    penalty(SCORES, IDS, 2.0)
    assert torch.equal(SCORES, before)


@pytest.mark.parametrize("strength", [0.5, 1.3, 7.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_the_whole_context_it_is_transformers_processor(strength, dtype):
    generator = torch.Generator().manual_seed(0)
    scores, ids = torch.randn(3, 50, generator=generator).to(dtype), torch.randint(50, (3, 20), generator=generator)
    theirs = RepetitionPenaltyLogitsProcessor(strength)(ids, scores.clone())
    assert torch.equal(penalty(scores, ids, strength), theirs)


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_a_place_that_does_not_count_hides_none_that_does(strength):
    ids = torch.tensor([[3, 3, 4]])
    seen = torch.tensor([[False, True, True]])
    scores = torch.tensor([[0.0, 0.0, 0.0, 1.0, -1.0, 1.0]])
    found = penalty(scores, ids, strength, seen=seen)
    assert found.tolist() == [[0, 0, 0, 1 / strength, -strength, 1.0]]
    assert penalty(scores, ids, strength, seen=torch.tensor([[True, False, False]]))[0, 3] == 1 / strength
    assert penalty(scores, ids, strength, excluded=torch.tensor([3]))[0, 3] == 1.0


def test_rows_know_nothing_of_each_other():
    alone = torch.cat([penalty(SCORES[i : i + 1], IDS[i : i + 1], 3.0, 3) for i in range(2)])
    assert torch.equal(penalty(SCORES, IDS, 3.0, 3), alone)


def test_left_padding_does_not_count_as_generated():
    processor = PenaltyProcessor(2.0, pad_token_id=0)
    ids = torch.tensor([[0, 0, 1, 2], [1, 2, 0, 3]])
    scores = torch.ones(2, 5)
    assert processor(ids, scores).tolist() == [[1, 0.5, 0.5, 1, 1], [0.5, 0.5, 0.5, 0.5, 1]]
    said = torch.cat([ids, torch.tensor([[0], [4]])], dim=1)  # pad as a token that was generated
    assert processor(said, scores).tolist() == [[0.5, 0.5, 0.5, 1, 1], [0.5] * 5]


def test_the_prompt_may_be_left_out():
    processor = PenaltyProcessor(2.0, prompt=False)
    assert processor(IDS, SCORES).tolist() == SCORES.tolist()
    grown = torch.cat([IDS, torch.tensor([[5], [3]])], dim=1)
    found = processor(grown, SCORES)
    assert (found != SCORES).nonzero().tolist() == [[0, 5], [1, 3]]


def ends(mode: str, scores: float, said: bool = False, steps: int = 1, **settings) -> list[float]:
    """The end's score (id 2) after 0, 1, ... generated tokens."""
    processor = PenaltyProcessor(2.0, eos=mode, least=4, eos_token_id=2, **settings)
    ids = torch.tensor([[1, 2 if said else 1]])
    found = []
    for _ in range(steps):
        found.append(processor(ids, torch.tensor([[0.0, 0.0, scores, 0.0]]))[0, 2].item())
        ids = torch.cat([ids, torch.tensor([[1]])], dim=1)
    return found


def test_the_end_token_is_held_back_until_enough_tokens_are_generated():
    assert ends("repeat", 4.0, steps=6) == [2, 2, 2, 2, 4, 4]
    assert ends("repeat", -4.0, steps=1) == [-8]
    assert ends("repeat", 4.0, eos_strength=8.0) == [0.5]
    assert ends("linear", 4.0, steps=6, eos_strength=8.0) == [-4, -2, 0, 2, 4, 4]
    assert ends("block", 4.0, steps=5) == [-math.inf] * 4 + [4]
    assert ends("none", 4.0, steps=2) == [4, 4]


def test_a_generated_end_token_is_penalised_once_like_any_token():
    assert ends("repeat", 4.0, said=True, eos_strength=4.0) == [1.0]
    assert ends("none", 4.0, said=True) == [2.0]


def test_a_processor_begins_anew_with_a_new_sequence():
    processor = PenaltyProcessor(2.0, eos="block", least=1, eos_token_id=2)
    ids, scores = torch.tensor([[1, 1]]), torch.zeros(1, 4)
    assert processor(ids, scores)[0, 2] == -math.inf
    assert processor(torch.cat([ids, ids[:, :1]], dim=1), scores)[0, 2] == 0
    assert processor(ids, scores)[0, 2] == -math.inf
    assert processor(ids.expand(3, 2), scores.expand(3, 4))[2, 2] == -math.inf


def test_log_probabilities_may_be_penalised_in_place_of_logits():
    found = PenaltyProcessor(2.0, normalize=True)(IDS, SCORES)
    shifted = PenaltyProcessor(2.0, normalize=True)(IDS, SCORES + 5)
    torch.testing.assert_close(found, shifted)
    torch.testing.assert_close(found, penalty(SCORES.log_softmax(-1), IDS, 2.0))
    assert not torch.allclose(penalty(SCORES, IDS, 2.0) + 5, penalty(SCORES + 5, IDS, 2.0))  # so logits are not


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength must be a number above 0"),
        ({"strength": -1.0}, "strength must be a number above 0"),
        ({"strength": math.inf}, "strength must be a number above 0"),
        ({"strength": 2.0, "window": -1}, "window must be 0 or more"),
        ({"strength": 2.0, "least": -1}, "least must be 0 or more"),
        ({"strength": 2.0, "eos_strength": 0.0}, "eos_strength must be a number above 0"),
        ({"strength": 2.0, "eos": "repeat", "least": 5}, "eos=repeat needs the model's end token, but it has none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PenaltyProcessor(**settings)


def bigrams(strength: float, window: int | None, steps: int = 200, seeds: int = 5) -> float:
    """rep-2 of greedy text from random bigrams whose tokens grow likelier each time they are said."""
    repeated = []
    for seed in range(seeds):
        table = torch.randn(200, 200, generator=torch.Generator().manual_seed(seed))
        ids = [0]
        for _ in range(steps):
            counts = torch.bincount(torch.tensor(ids), minlength=200)
            scores = table[ids[-1]] + 0.15 * counts
            ids.append(int(penalty(scores[None], torch.tensor([ids]), strength, window).argmax()))
        pairs = list(itertools.pairwise(ids))
        repeated.append(1 - len(set(pairs)) / len(pairs))
    return sum(repeated) / seeds


@pytest.mark.slow
def test_more_strength_repeats_less_and_a_shorter_window_more():
    greedy, weak, strong = bigrams(1.0, None), bigrams(1.2, None), bigrams(1.5, None)
    assert greedy > 0.85 > weak > strong
    assert bigrams(1.5, 20) > bigrams(1.5, 60) > strong


class Tokenizer:
    eos_token_id, pad_token_id = 2, 0


def test_generate_repeats_less_with_it():
    model = tiny.model("llama", initializer_range=0.4)

    def repeated(**settings) -> float:
        arguments = decoding.arguments("penalty", Tokenizer, least=0, **settings)
        ids = torch.arange(3, 9).view(2, 3)
        texts = model.generate(ids, max_new_tokens=40, pad_token_id=0, eos_token_id=None, **arguments).tolist()
        return sum(1 - len(set(itertools.pairwise(t))) / (len(t) - 1) for t in texts) / 2

    assert repeated(strength=1.0) > 0.15
    assert repeated(strength=3.0, window=None) < 0.5 * repeated(strength=1.0)


@pytest.mark.parametrize("new", [1, 4])
def test_what_it_remembers_belongs_to_one_call(new):
    """The second prompt is the first text: by its ids alone it would be the same call going on."""
    model = tiny.model("llama", initializer_range=0.4)
    ids = torch.tensor([[5, 6, 7]])

    def made():
        return PenaltyProcessor(2.0, eos="block", least=3, eos_token_id=2, prompt=False)

    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    shared, found, wanted = made(), [], []
    for length in range(3):
        said = torch.cat([ids, torch.full((1, length), 8)], dim=1)
        first = model.generate(said, max_new_tokens=new, logits_processor=[shared], **settings)
        found.append(model.generate(first, max_new_tokens=6, logits_processor=[shared], **settings))
        wanted.append(model.generate(first, max_new_tokens=6, logits_processor=[made()], **settings))
    assert [text.tolist() for text in found] == [text.tolist() for text in wanted]


def test_ids_of_the_same_length_that_do_not_continue_begin_anew():
    processor = PenaltyProcessor(2.0, eos="block", least=1, eos_token_id=2)
    scores = torch.zeros(1, 9)
    processor(torch.tensor([[5, 6]]), scores)
    assert processor(torch.tensor([[7, 8, 1]]), scores)[0, 2] == -math.inf


def test_beams_that_change_places_continue():
    processor = PenaltyProcessor(2.0, eos="block", least=1, eos_token_id=2)
    scores = torch.zeros(2, 9)
    processor(torch.tensor([[5, 6], [5, 6]]), scores)
    processor(torch.tensor([[5, 6, 1], [5, 6, 3]]), scores)
    assert (processor(torch.tensor([[5, 6, 3, 4], [5, 6, 3, 7]]), scores)[:, 2] == 0).all()


def test_every_end_token_is_held_back():
    class Several(Tokenizer):
        eos_token_id = (2, 3)

    (processor,) = decoding.arguments("penalty", Several, eos="block", least=5)["logits_processor"]
    assert (processor(torch.tensor([[5, 6]]), torch.zeros(1, 9))[0] == -math.inf).nonzero().flatten().tolist() == [2, 3]
    model = tiny.model("llama")
    model.generation_config.eos_token_id = [2, 7]
    (processor,) = decoding.arguments("penalty", Tokenizer, model=model, eos="block")["logits_processor"]
    assert (processor(torch.tensor([[5, 6]]), torch.zeros(1, 9))[0] == -math.inf).nonzero().flatten().tolist() == [2, 7]


def test_without_a_tokenizer_it_says_what_it_needs():
    with pytest.raises(decoding.DecodingError, match="penalty needs the tokenizer"):
        decoding.arguments("penalty")
    with pytest.raises(decoding.DecodingError, match="it has none; choose eos=none"):
        decoding.arguments("penalty", type("None", (), {"eos_token_id": None, "pad_token_id": None}))
