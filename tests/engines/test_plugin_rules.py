"""Penalty and adaptive decoding of the vLLM plugin are those of trimtab.decoding, row by row."""

import itertools
import math

import pytest
import torch

from trimtab.decoding.adaptive import adaptive
from trimtab.decoding.penalty import PenaltyProcessor

V = 60


@pytest.fixture
def rules(plugin_module):
    return plugin_module("rules")


def scores(rows: int, seed: int = 0) -> torch.Tensor:
    made = 3 * torch.randn(rows, V, generator=torch.Generator().manual_seed(seed))
    made[:, 7] = made[:, 11] = made[:, 13]  # ties
    made[:, 5] = 0.0
    return made


PENALTIES = {
    "penalty_strength": (1.3, 0.7),
    "penalty_window": (4, "all", 0),
    "penalty_eos": ("repeat", "linear", "block", "none"),
    "penalty_prompt": (True, False),
    "penalty_normalize": (True, False),
}


@pytest.mark.parametrize("values", itertools.product(*PENALTIES.values()))
def test_penalised_scores_are_those_of_the_strategy_at_every_token(rules, values):
    asked = dict(zip(PENALTIES, values, strict=True))
    asked |= {"penalty_least": 3, "penalty_eos_strength": 1.7, "penalty_excluded": [5, 8]}
    how = rules.Penalty.asked(asked)
    given = {name.removeprefix("penalty_"): value for name, value in asked.items()}
    given["window"] = None if given["window"] == "all" else given["window"]
    theirs = PenaltyProcessor(given.pop("strength"), **given, eos_token_id=[2, 8])
    prompt, output = [3, 9, 2, 9, 5], [8, 9, 4, 30, 31, 9]
    for token, row in enumerate(scores(len(output) + 1)):
        said = output[:token]
        before = row.clone()
        wanted = theirs(torch.tensor([prompt + said]), row[None])[0]
        assert torch.equal(rules.penalised(row, prompt, said, how, {2, 8, V + 4}), wanted)
        assert torch.equal(row, before)


def test_what_is_not_asked_for_has_the_strategys_defaults(rules):
    from trimtab.decoding.adaptive import AdaptiveSettings
    from trimtab.decoding.penalty import PenaltySettings

    assert rules.Penalty.asked(None) is rules.Penalty.asked({"strength": 0.5}) is None
    assert rules.Adaptive.asked({}) is rules.Adaptive.asked({"penalty_strength": 1.2}) is None
    for settings, asked in ((PenaltySettings(), rules.Penalty()), (AdaptiveSettings(), rules.Adaptive())):
        ours = vars(asked)
        assert {name: getattr(settings, name) for name in ours} == ours


@pytest.mark.parametrize("rule", ["threshold", "prefix", "last"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.0005, 0.02, 0.3])
@pytest.mark.parametrize("options", [{}, {"vocab": "unmasked"}, {"flat": "all", "flat_below": 0.4},
                                     {"flat": 0.8, "flat_below": 0.4}])  # fmt: skip
def test_the_candidates_are_those_of_the_strategy(rules, rule, epsilon, options):
    how = rules.Adaptive(epsilon, rule, **options)
    rows = scores(8, seed=1) * torch.linspace(0.1, 3, 8)[:, None]
    rows[:, 20:30] = -math.inf
    wanted = adaptive(rows, epsilon, rule, **options) > -math.inf
    assert torch.equal(torch.stack([rules.candidates(row, how) for row in rows]), wanted)


def test_a_sure_distribution_has_one_candidate_and_the_best_is_always_kept(rules):
    sure = torch.full((V,), -math.inf)
    sure[17] = 0.0
    assert rules.candidates(sure, rules.Adaptive()).nonzero().tolist() == [[17]]
    flat = rules.candidates(torch.zeros(V), rules.Adaptive(epsilon=0.9))
    assert flat.nonzero().tolist() == [[0]]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"penalty_strength": 0}, "penalty_strength must be a number above 0, got 0"),
        ({"penalty_strength": math.nan}, "penalty_strength must be a number above 0, got nan"),
        ({"penalty_strength": "1.2"}, "penalty_strength must be a number above 0, got '1.2'"),
        ({"penalty_strenght": 1.2}, "penalty_strenght is not a setting; known: penalty_strength, penalty_window"),
        ({"penalty_window": -1}, "penalty_window must be a whole number of at least 0, got -1"),
        ({"penalty_eos": "never"}, "penalty_eos must be one of repeat, linear, block, none, got 'never'"),
        ({"penalty_prompt": "no"}, "penalty_prompt must be true or false, got 'no'"),
        ({"penalty_excluded": [1, "a"]}, r"penalty_excluded must be a list of token ids, got \[1, 'a'\]"),
        ({"adaptive_epsilon": 1.0}, "adaptive_epsilon must be at least 0 and below 1, got 1"),
        ({"adaptive_epsilon": -0.1}, "adaptive_epsilon must be at least 0 and below 1, got -0.1"),
        ({"adaptive_rule": "legacy"}, "adaptive_rule must be one of threshold, prefix, last, got 'legacy'"),
        ({"adaptive_flat": 1.5}, "adaptive_flat must be top1, all, or a share between 0 and 1, got 1.5"),
        ({"adaptive_flat_below": 2}, "adaptive_flat_below must be between 0 and 1, got 2"),
    ],
)
def test_a_setting_that_is_none_is_refused_in_one_line(rules, asked, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        (rules.Adaptive if "adaptive" in next(iter(asked)) else rules.Penalty).asked(asked)
