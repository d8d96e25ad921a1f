"""The comparison of a dial with the scale of an adapter: its measures, two dials at once, and the whole script."""

import json
import math

import dials_language
import pytest
import torch
from dials_language import Asked, by_dial, by_two, letters, ranked, unevenness

import tiny_dial
import tiny_folder
from trimtab.models.identity_layer import identity_layer


def test_short_words_are_preferred_and_a_straight_line_is_even():
    assert letters("I am, say, 12 years_old") == (1 + 2 + 3 + 5 + 3) / 5
    assert math.isnan(letters("12 + 4"))
    short, long, few = "a b c d e f g h", "aa bb cc dd ee ff gg hh", "a b"
    assert ranked([long, few, short]) == (short, long)
    assert ranked([short, few]) is None
    assert ranked([short, short]) is None
    assert unevenness([4, 3, 2, 1, 0]) == 1
    assert unevenness([4, 4, 0, 0, 0]) == 4


def test_two_dials_decode_from_the_sum_of_their_changes():
    (first, _), (second, _) = tiny_dial.expanded(), tiny_dial.expanded()
    with torch.no_grad():
        for weight in identity_layer(second).parameters():
            weight.mul_(-0.7)
    asked = Asked(tiny_folder.byte_tokenizer(), ["a bc", "defgh i"], new=6)
    found = by_two(asked, first, second, (0.5, 2.0))
    answers = asked.answers(first, **dials_language.two_dials(asked, second, (0.5, 2.0)))
    for prompt, mask, answer in zip(asked.inputs["input_ids"], asked.inputs["attention_mask"].bool(), answers):
        ids = prompt[mask]
        for token in answer:
            (a, zero), (b, _) = (dials_language.two_streams(one, ids)[:, -1] for one in (first, second))
            assert int((zero + 0.5 * (a - zero) + 2.0 * (b - zero)).argmax()) == token
            ids = torch.cat([ids, ids.new_tensor([token])])
    alone = by_dial(asked, first, 0.5)["kl"]
    assert by_two(asked, first, second, (0.5, 0.0))["kl"] == pytest.approx(alone)
    assert found["kl"] != pytest.approx(alone)


@pytest.mark.slow  # a dozen trainings
def test_the_script_runs_from_end_to_end(tmp_path):
    words = "--policy pieces-3m --updates 2 --pairs 4 --number 2 --new 24 --seeds 0 --out"
    dials_language.main([*words.split(), str(tmp_path / "out.json")])
    summary = json.loads((tmp_path / "out.json").read_text())["summary"]
    assert summary["brief, dial"]["table"]["0"]["kl"] == 0
    assert summary["two dials"]["0,0"]["kl"] == 0
