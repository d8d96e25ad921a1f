"""What a request may ask of a dial in vLLM, which strength each token then has, and the mixture itself."""

import math
from types import SimpleNamespace

import pytest
import torch

from trimtab.decoding._streams import mix


@pytest.fixture
def strengths(plugin_module):
    return plugin_module("strengths")


@pytest.fixture
def folder(plugin_module):
    module = plugin_module("dial_folder")
    return module.read({"version": 1, "recommended": [0, 1.5], "limits": [-1, 3]})


def test_a_number_holds_for_the_whole_answer(strengths):
    found = strengths.schedule({"strength": 0.5}, 4)
    assert [found.at(token) for token in range(4)] == [0.5] * 4
    assert strengths.schedule(None, 4).at(3) == strengths.schedule({}, None).at(0) == 1.0


def test_a_list_divides_the_answer_into_equal_parts(strengths):
    """floor(i n / max_tokens) by hand: 3 parts of 7 tokens begin at 0, 3 and 5."""
    found = strengths.schedule({"strength": [1, 0.5, 0]}, 7)
    assert [found.at(token) for token in range(7)] == [1, 1, 1, 0.5, 0.5, 0, 0]
    by_token = strengths.schedule({"strength": [0.1, 0.2, 0.3]}, 3)
    assert [by_token.at(token) for token in range(3)] == [0.1, 0.2, 0.3]
    assert found.at(7) == 0  # behind the end, where vLLM may ask once more


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("strong", "'strong'"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (10**400, "1000"),
        (True, "True"),
        ([], r"\[\]"),
        ([0.5, "a"], r"\[0.5, 'a'\]"),
        ([[0.5]], r"\[\[0.5\]\]"),
        ([0.5, math.nan], "nan"),
        ("x" * 500, "x{59}\\.\\.\\.$"),
    ],
)
def test_what_is_no_strength_is_refused_in_one_line(strengths, folder, asked, said):
    with pytest.raises(ValueError, match=f"^strength must be a number, or a list of numbers, got .*{said}") as caught:
        strengths.check({"strength": asked}, 8, folder, 50)
    assert "\n" not in str(caught.value)


def test_more_parts_than_tokens_are_refused(strengths, folder):
    with pytest.raises(ValueError, match="strength has 3 parts, and the answer at most 2 tokens"):
        strengths.check({"strength": [0, 0.5, 1]}, 2, folder, 50)
    strengths.check({"strength": [0, 0.5, 1]}, 3, folder, 50)
    strengths.check({"strength": [0, 0.5, 1]}, None, folder, 50)


def test_beyond_the_recommended_range_is_warned_of_and_beyond_the_limits_refused(strengths, folder):
    assert strengths.check({"strength": [0, 1.5]}, 8, folder, 50) == []
    (warning,) = strengths.check({"strength": [2, 0.5, 2]}, 8, folder, 50)
    assert warning == "strength 2 is outside of the range that this model recommends, 0 to 1.5"
    for strength in (3.01, [0, -1.01]):
        with pytest.raises(ValueError, match="strength must be between -1 and 3 for this model, got"):
            strengths.check({"strength": strength}, 8, folder, 50)
    strengths.check({"strength": [-1, 3]}, 8, folder, 50)


@pytest.mark.parametrize("key", ["strenght", "Strength", "strengths", "folow"])
def test_a_misspelt_name_is_not_ignored(strengths, folder, key):
    with pytest.raises(ValueError, match=f"{key} is not a setting; did you mean '(strength|follow)'?"):
        strengths.check({key: 0.5}, 8, folder, 50)
    strengths.check({"session_id": "a", "penalty_strength": 1.2}, 8, folder, 50)


@pytest.mark.parametrize(
    ("tokens", "most", "said"),
    [
        ([], 2, "follow has no tokens"),
        ([3, 4], 3, "follow has 2 tokens, and max_tokens must be as many, got 3"),
        ([3, 4], None, "got None"),
        ([3, 50], 2, "follow has token 50, and the model's vocabulary ends at 49"),
        ([3, -1], 2, "follow must be a list of token ids"),
        ([3, 1.0], 2, "follow must be a list of token ids"),
        ("a text", 2, "follow must be a list of token ids, got 'a text'"),
    ],
)
def test_an_answer_that_cannot_be_followed_is_refused(strengths, folder, tokens, most, said):
    with pytest.raises(ValueError, match=said):
        strengths.check({"follow": tokens}, most, folder, 50)
    strengths.check({"follow": [3, 49]}, 2, folder, 50)


def test_a_folder_of_another_version_or_form_is_refused(plugin_module):
    read = plugin_module("dial_folder").read
    assert read({"version": 1}).limits == (-10, 10)
    assert read({"version": 1}).recommended is None
    for said in ({"version": 2}, {"version": "1"}, {}):
        with pytest.raises(ValueError, match="reads version 1; export the folder again, or install"):
            read(said)
    for key, value in (("limits", [3, 1]), ("recommended", [0]), ("recommended", [0, "a"]), ("limits", 3)):
        with pytest.raises(ValueError, match=rf"trimtab_dial.{key} of config.json must be two numbers"):
            read({"version": 1, key: value})
    read({"version": 1, "layers": [0], "merge": "logits", "base": "a/model"})
    for key, value in (("layers", [0, 1]), ("merge", "embedding")):
        with pytest.raises(ValueError, match=f"vLLM serves a dial with {key} .*, and this folder has"):
            read({"version": 1, key: value})
    with pytest.raises(ValueError, match="must be a mapping, got 'yes'"):
        read("yes")


def test_other_models_are_refused_by_name(plugin_module):
    check = plugin_module("dial_folder").check_family
    for family, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3")):
        check(family, f"{name}ForCausalLM")
    for family, name in (("gemma2", "Gemma2ForCausalLM"), ("llama", "LlamaForSequenceClassification")):
        with pytest.raises(ValueError, match=rf"llama, mistral, qwen2, qwen3, not for {name} \({family}\)"):
            check(family, name)


def heads(seen: list[int]):
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))

    def head(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return states @ weight.T

    return head


@pytest.mark.parametrize("strengths_", [[0.5, 0.3], [0.0, 0.5, 1.0, 1.5, -0.5], [1.0, 1.0], [0.0], [0.0, 1.0]])
def test_the_mixture_is_that_of_realign_to_the_last_bit(plugin_module, strengths_):
    generator, number, seen = torch.Generator().manual_seed(0), len(strengths_), []
    original, aligned = torch.randn(2, number, 4, generator=generator)
    found = plugin_module("mixture").mixed(strengths_, original, aligned, heads(seen))
    rows, share, head = torch.arange(number), torch.tensor(strengths_), heads([])
    wanted = mix(number, [(rows, 1 - share, head(original)), (rows, share, head(aligned))])
    assert torch.equal(found, wanted)
    assert seen == [2 * number - sum(s in (0.0, 1.0) for s in strengths_)]


def test_a_row_at_0_or_1_does_not_see_the_other_stream(plugin_module):
    states, broken = torch.randn(2, 4), torch.full((2, 4), math.nan)
    mixed, head = plugin_module("mixture").mixed, heads([])
    assert torch.equal(mixed([0.0, 0.0], states, broken, head), head(states))
    assert torch.equal(mixed([1.0, 1.0], broken, states, head), head(states))
    assert mixed([0.5], states[:1], states[:1], lambda states: None) is None


def test_bfloat16_logits_are_mixed_in_float32(plugin_module):
    states = torch.randn(2, 1, 4).bfloat16()
    found = plugin_module("mixture").mixed([0.3], states[0], states[1], lambda states: states)
    assert found.dtype == torch.float32
    share = torch.tensor(0.3)
    assert torch.equal(found, (1 - share) * states[0].float() + share * states[1].float())


def test_rows_of_the_batch_have_the_strength_of_their_next_token(plugin_module):
    """As vLLM does it: the output grows in place; of a row that it makes up it says nothing."""
    module, config, output = plugin_module("rows"), SimpleNamespace(), []
    rows = module.rows_of(config)
    assert module.rows_of(config) is rows
    assert module.rows_of(SimpleNamespace()) is not rows
    scheduled = SimpleNamespace(extra_args={"strength": [0.2, 0.8]}, max_tokens=4)
    rows.asked[1] = rows.row(scheduled, [5, 6], output)
    assert rows.strengths(3) == [1.0, 0.2, 1.0]
    output.extend([9, 9])
    assert rows.strengths(2) == [1.0, 0.8]
    resumed = rows.row(scheduled, [5, 6], [9, 9, 9])  # as after a preemption
    assert resumed.schedule.at(len(resumed.output)) == 0.8
    rows.default = 0.5
    assert rows.row(SimpleNamespace(extra_args=None, max_tokens=4), None, []).schedule.at(0) == 0.5
    assert rows.strengths(1) == [0.5]
