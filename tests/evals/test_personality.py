"""The suite `personality`: its pairs, questions, parser, read-outs and measures."""

import collections
import dataclasses
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_table import table
from trimtab.data.sources import DataError
from trimtab.evals import suites
from trimtab.evals.suite import Answered, SuiteError, Verdict
from trimtab.evals.suites._agreement import GATE, tabulate
from trimtab.evals.suites._pairs import load_pairs
from trimtab.evals.suites.personality import PERSONAS, SUITE, PersonalitySettings, parse, read, score
from trimtab.metrics import consistency

FAST = settings(max_examples=500, deadline=None)
SLOW = settings(max_examples=10_000, deadline=None)


def items(**chosen):
    return SUITE.items(suites.check("personality", chosen))


def prompt(item) -> str:
    (message,) = SUITE.prompts["scale"][0](item, ())
    assert message["role"] == "user"
    return message["content"]


def answer(asked, rating) -> list[Answered]:
    """Everybody's answers, as if generated: rating(item) is what the answerer means, told in the order shown."""
    found = []
    for item in asked:
        meant = rating(item)
        shown = "no comment" if meant is None else str(8 - meant if item.data["order"] == "descending" else meant)
        found.append(Answered(item, (shown,), score(item, shown)))
    return found


def measured(answered) -> dict[tuple[str, str], float]:
    return {(m.name, m.group): m.value.estimate for m in SUITE.measures(answered)}


def of_pair(seed: int = 0, spread=range(1, 8)):
    """A rating for each pair, the same for both parts, orders and repeats."""
    generator = np.random.default_rng(seed)
    by_pair = collections.defaultdict(lambda: int(generator.choice(list(spread))))
    return lambda item: by_pair[item.data["pair_id"]]


def trait_like(level=None):
    """A consistent person of the trait levels given, 1 to 7."""
    level = level or {"E": 6, "A": 5, "C": 2, "ES": 3, "I": 7}

    def rating(item):
        amount = level[item.groups["trait"]]
        return amount if item.data["key"] == 1 else 8 - amount

    return rating


# ---------------------------------------------------------------- pairs


def test_every_trait_has_twelve_pairs_and_six_of_each_key():
    counts = collections.Counter((pair.trait, pair.key) for pair in load_pairs())
    assert counts == {(trait, key): 6 for trait in ("E", "A", "C", "ES", "I") for key in (1, -1)}


def test_partners_point_to_each_other_and_say_the_opposite():
    pairs = {pair.pair_id: pair for pair in load_pairs()}
    for pair in pairs.values():
        partner = pairs[pair.statement.reverse_of]
        assert partner.statement.reverse_of == pair.pair_id
        assert (partner.trait, partner.facet, partner.key) == (pair.trait, pair.facet, -pair.key)


def test_no_text_comes_twice():
    pairs = load_pairs()
    for texts in (
        [p.statement.text for p in pairs],
        [p.scenario.text for p in pairs],
        [text for p in pairs for text in (p.scenario.low, p.scenario.high)],
    ):
        assert len(set(texts)) == len(texts)


def test_no_option_is_given_away_by_its_length():
    pairs = load_pairs()
    for pair in pairs:
        ratio = len(pair.scenario.low) / len(pair.scenario.high)
        assert 0.8 < ratio < 1.25, pair.pair_id
    longer = np.sign([len(p.scenario.high) - len(p.scenario.low) for p in pairs])
    more = np.array([p.key for p in pairs]) * longer  # is more of the trait the longer option?
    assert abs(longer.sum()) <= 15
    assert abs(more.sum()) <= 15


def test_bundled_pairs_are_free_and_say_where_they_come_from():
    for pair in load_pairs():
        assert pair.licence == "CC0-1.0"
        assert pair.source == "own" or re.fullmatch(r"statement: IPIP marker \d+; scenario: own", pair.source)
        assert pair.framework == "big5"
        assert all(text.isascii() or "é" in text for text in (pair.statement.text, pair.scenario.text))


def own(tmp_path, change, rows=2):
    """A file of the first bundled pairs, changed."""
    kept = [json.loads(pair.model_dump_json()) for pair in load_pairs()[:rows]]
    change(kept)
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, kept)))
    return str(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows[1].pop("trait"), "row 2: trait is missing"),
        (lambda rows: rows[1]["scenario"].pop("high"), "row 2: scenario.high is missing"),
        (lambda rows: rows[0].update(key=2), "row 1: key is 2; it must be -1 or 1"),
        (lambda rows: rows[0]["statement"].update(reverse="E-002"), "row 1: statement.reverse .*extra inputs"),
        (lambda rows: rows[1].update(pair_id="E-001"), "row 2: pair_id 'E-001' was there before"),
        (lambda rows: rows[0]["statement"].update(reverse_of="E-009"), "row 1: .* 'E-009', which is not in the file"),
        (lambda rows: rows[1]["statement"].update(reverse_of=None), "row 1: .* 'E-002', which points elsewhere"),
        (lambda rows: rows[1].update(key=1), "row 1: .* the same key"),
        (lambda rows: rows[1].update(trait="A"), "row 1: .* another trait"),
    ],
)
def test_a_bad_pair_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        load_pairs(own(tmp_path, change))


def test_own_pairs_are_asked_in_their_language(tmp_path):
    def translate(rows):
        for row in rows:
            row["lang"] = "zh"
        rows[0]["statement"]["text"] = "我会主动跟人聊天。"

    chinese = items(path=own(tmp_path, translate), lang="zh", repeats=1)
    assert "我会主动跟人聊天。" in prompt(chinese[0])
    assert "1. 完全不同意" in prompt(chinese[0])
    assert "请只用1到7" in prompt(chinese[0])
    assert not re.search("[a-z]{4}", prompt(chinese[0]))

    def nowhere(rows):
        for row in rows:
            row["lang"] = "fr"

    with pytest.raises(SuiteError, match="no questions in 'fr'; there are: en, zh"):
        items(path=own(tmp_path, nowhere))


# ---------------------------------------------------------------- questions


def test_there_is_an_item_for_each_pair_part_order_and_repeat():
    asked = items(repeats=3)
    assert len(asked) == 60 * 2 * 2 * 3
    assert len({item.id for item in asked}) == len(asked)
    assert len(items(repeats=1, order="descending", traits=["E", "C"])) == 24 * 2
    assert {item.groups["trait"] for item in items(traits=["ES"])} == {"ES"}
    assert [item.id for item in asked] == [item.id for item in items(repeats=3)]
    for item in asked:
        json.dumps(item.data)
        assert list(item.options) == list("1234567")


def test_repeats_word_the_question_anew():
    first = [prompt(item) for item in items(repeats=6, order="ascending")[:6]]
    assert len(set(first[:5])) == 5
    assert first[5] == first[0]


def test_descending_turns_the_scale_of_a_statement_and_swaps_the_options_of_a_scenario():
    up, down, scene, swapped = items(repeats=1)[:4]
    assert (up.data["order"], down.data["order"], scene.data["part"]) == ("ascending", "descending", "scenario")
    assert up.options["1"] == down.options["7"] == "fully disagree"
    assert up.text == down.text
    pair = load_pairs()[0]
    assert scene.options == swapped.options
    assert f"A: {pair.scenario.low}\nB: {pair.scenario.high}" in prompt(scene)
    assert f"A: {pair.scenario.high}\nB: {pair.scenario.low}" in prompt(swapped)


def test_a_part_is_asked_without_the_other():
    for statement, scene in zip(*[iter(items(repeats=1, order="ascending"))] * 2):
        pair = next(p for p in load_pairs() if p.pair_id == statement.data["pair_id"])
        assert pair.statement.text in prompt(statement)
        assert pair.statement.text not in prompt(scene)
        assert pair.scenario.text in prompt(scene)
        assert pair.scenario.text not in prompt(statement)


def test_a_persona_opens_every_prompt():
    for item in items(persona="outgoing", repeats=1):
        assert prompt(item).startswith(PERSONAS["outgoing"] + "\n\n")
    own_text = "You are a lighthouse keeper."
    assert prompt(items(persona=own_text)[0]).startswith(own_text)
    plain, shaped = items(repeats=1)[7], items(repeats=1, persona="anxious")[7]
    assert prompt(shaped) == PERSONAS["anxious"] + "\n\n" + prompt(plain)
    with pytest.raises(SuiteError, match="no persona 'outgoin'; did you mean 'outgoing'?"):
        items(persona="outgoin")


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"traits": ["N"]}, "personality.traits: no pair is of 'N'; there are: A, C, E, ES, I"),
        ({"lang": "fr"}, "personality.lang: no pair is of 'fr'; there are: en"),
        ({"repeat": 2}, "no setting 'repeat'; did you mean 'repeats'?"),
        ({"repeats": 0}, "personality.repeats is 0"),
        ({"order": "random"}, "personality.order is 'random'"),
        ({"delta": 7}, "personality.delta is 7"),
    ],
)
def test_a_bad_setting_is_named(chosen, message):
    with pytest.raises(SuiteError, match=re.escape(message)):
        items(**chosen)


def test_the_suite_is_found_by_its_file():
    assert "personality" in suites.names()
    assert suites.summary("personality").startswith("Personality: does a model do what it says")
    assert suites.load("personality") is SUITE


# ---------------------------------------------------------------- the parser


@table(
    "text, number",
    [
        ("5", 5), (" 5.", 5), ("**6**", 6), ("6. mostly agree", 6), ("Answer: 2", 2), ("I'd say 5", 5), ("(3)", 3),
        ("7/7", 7), ("5 / 7", 5), ("5 out of 7", 5), ("a rating of 7", 7), ("On a scale of 1 to 7, I'd say 5", 5),
        ("on a scale from 1-7: 2", 2), ("Between 1 and 7, it is 4.", 4), ("5, so 5", 5), ("5.0", 5), ("５", 5),
        ("five", 5), ("Five.", 5), ("I would say six", 6), ("My answer is two!", 2), ("five out of seven", 5),
        ("选5", 5), ("我选5分。", 5), ("六", 6), ("我的答案是三。", 3), ("选择：七", 7), ("在1到7中，我选2", 2),
        ("1️⃣", 1), ("Hmm...5", 5), ("I don't have many friends, so 3", 3),
    ],
)  # fmt: skip
def test_an_answer_is_read(text, number):
    assert parse(text) == number


@table(
    "text",
    [
        "", " ", "10", "17", "71", "0", "8", "-3", "−3", "4.5", "4,5", "4.5x", "5/10", "07", "3 or 4", "3-4", "3–4",
        "1 to 7", "between 3 and 5", "1. fully disagree 2. mostly disagree", "7000000", "1,000", "A1", "GPT4", "2nd",
        "fully agree", "undecided", "no one", "No one knows.", "the one I like", "it is one of those",
        "十", "二十", "三四", "一样", "有一点", "As an AI, I have no personality, so 4",
        "As a language model I'd pick 4", "I'm just an AI. 4", "4. I don't have personal preferences.",
        "I can't choose a 4", "作为一个人工智能，我选4", "我没有性格。4", "½", "5²", "९", "9" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_answer_stays_none(text):
    assert parse(text) is None


def check_parser(text):
    found = parse(text)
    assert found is None or (type(found) is int and 1 <= found <= 7)
    (verdict,) = score(DESCENDING, text).values()
    assert verdict == (Verdict(None, None) if found is None else Verdict(found, 8 - found))


DESCENDING = items(repeats=1, order="descending")[0]
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="0123456789 .,/-–toandsix五七十选是\n:", max_size=12),
    st.lists(
        st.sampled_from(
            ["5", "7", "10", "/7", "out of", "1 to 7", "I say", "six", "一", ".", ",", " ", "-", "as an ai"]
        ),
        max_size=6,
    ).map("".join),
    st.text(alphabet=st.characters(categories=["Nd", "No", "Nl", "Cs"]), max_size=5),
)


@FAST
@given(TEXTS)
def test_no_text_breaks_the_parser(text):
    check_parser(text)


@pytest.mark.slow
@SLOW
@given(TEXTS)
def test_ten_thousand_texts_do_not_break_the_parser(text):
    check_parser(text)


# ---------------------------------------------------------------- read-outs


def test_the_order_is_undone():
    up, down = items(repeats=1)[:2]
    assert score(up, "6")["integer"] == Verdict(6, 6.0)
    assert score(down, "6")["integer"] == Verdict(6, 2.0)
    p = dict.fromkeys("1234567", 0.0) | {"1": 0.25, "3": 0.75}
    assert read(up, p) == Verdict(2.5, 2.5)
    assert read(down, p) == Verdict(2.5, 5.5)
    assert read(up, dict.fromkeys("1234567", 1 / 7)).value == pytest.approx(4)


def test_the_likeliest_label_is_constrained_decoding():
    up, down = items(repeats=1, readout="likeliest")[:2]
    p = dict.fromkeys("1234567", 0.0) | {"1": 0.4, "6": 0.6}
    assert read(up, p) == Verdict(6, 6)
    assert read(down, p) == Verdict(6, 2)


# ---------------------------------------------------------------- measures


def test_whoever_does_what_they_say_agrees_in_every_way():
    found = measured(answer(items(repeats=1), of_pair()))
    for group in ("all", "trait=A", "trait=I", "lang=en"):
        assert found["spearman", group] == pytest.approx(1)
        assert found["cosine centred", group] == pytest.approx(1)
        assert (found["VMD", group], found["PCP 0", group]) == (0, 1)
    assert found["spearman p-value", "all"] < 0.001
    assert found["answer rate", "all"] == 1


def test_whoever_does_the_opposite_disagrees():
    same = of_pair()
    asked = items(repeats=1)
    found = measured(answer(asked, lambda item: same(item) if item.data["part"] == "statement" else 8 - same(item)))
    assert found["spearman", "all"] == pytest.approx(-1)
    assert found["cosine centred", "all"] == pytest.approx(-1)
    assert found["spearman p-value", "all"] > 0.99


def test_orders_do_not_matter_to_an_answerer_who_does_not_see_them():
    generator = np.random.default_rng(0)
    table = {pair.pair_id: dict(zip(("statement", "scenario"), generator.integers(1, 8, 2))) for pair in load_pairs()}

    def rating(item):
        return table[item.data["pair_id"]][item.data["part"]]

    orders = ("ascending", "descending", "both")
    up, down, both = (measured(answer(items(repeats=1, order=o, traits=["E"]), rating)) for o in orders)
    agreement = ("spearman", "cosine", "cosine centred", "VMD", "PCP 1", "same side", "signed difference")
    for name in agreement:
        assert up[name, "all"] == pytest.approx(down[name, "all"])
        assert up[name, "all"] == pytest.approx(both[name, "all"])
    assert both["order sensitivity statement", "all"] == both["order sensitivity scenario", "all"] == 0
    assert math.isnan(up["order sensitivity statement", "all"])


def test_an_answerer_who_always_takes_the_first_label_is_found_out():
    asked = items(repeats=1)
    answered = [Answered(item, ("1",), score(item, "1")) for item in asked]
    found = measured(answered)
    assert found["order sensitivity statement", "all"] == 6
    assert found["order shift scenario", "all"] == -6
    assert math.isnan(found["spearman", "all"])  # both lists are 4 throughout
    assert found["PCP 1", "all"] == 1
    assert found["gate: order sensitivity statement <= 1", "all"] == 0
    assert found["gate", "all"] == 0


def test_an_answerer_with_noise_is_ordered_by_rho():
    asked = items(repeats=1)

    def simulated(rho, seed):
        generator = np.random.default_rng(seed)
        latent = collections.defaultdict(lambda: generator.standard_normal(2))

        def rating(item):
            said, other = latent[item.data["pair_id"]]
            level = said if item.data["part"] == "statement" else rho * said + math.sqrt(1 - rho**2) * other
            return int(np.clip(np.round(4 + 1.3 * level), 1, 7))

        s, a, _ = tabulate(answer(asked, rating)).valid()
        return {name: float(metric(s, a)) for name, metric in consistency.metrics().items()}

    for seed in range(3):
        found = [simulated(rho, seed) for rho in (0.0, 0.6, 0.98)]
        for name in ("spearman", "cosine centred", "PCP 1"):
            values = [one[name] for one in found]
            assert values == sorted(values), (seed, name)


def test_the_references_stand_beside_the_metrics():
    answered = answer(items(repeats=1), of_pair())
    by_name = {(m.name, m.group): m for m in SUITE.measures(answered)}
    blind = by_name["cosine of uniform answers", "all"]
    assert blind.value.estimate > 0.85  # means of two blind answers: raw cosine flatters
    band = by_name["spearman of uniform answers", "all"].value
    assert band.low < 0 < band.high
    broken = by_name["spearman of shuffled pairs", "all"].value
    assert broken.estimate == pytest.approx(0, abs=0.02)
    assert broken.high < by_name["spearman", "all"].value.estimate
    assert by_name["cosine of always 4", "all"].value.estimate == pytest.approx(1)
    assert math.isnan(by_name["spearman of always 7", "all"].value.estimate)
    assert math.isnan(by_name["cosine centred of always 4", "all"].value.estimate)
    assert by_name["PCP 0 of always 7", "all"].value.estimate == 1
    interval = by_name["PCP 1", "trait=E"]
    assert interval.number == 12


def test_delta_adds_a_point_to_the_curve():
    answered = answer(items(repeats=1, delta=3, traits=["E"]), of_pair())
    assert ("PCP 3", "all") in measured(answered)


def test_a_consistent_person_passes_the_gate():
    generator = np.random.default_rng(0)
    person = trait_like()

    def rating(item):
        noise = int(generator.integers(-1, 2)) if generator.random() < 0.3 else 0
        return int(np.clip(person(item) + noise, 1, 7))

    found = measured(answer(items(repeats=3), rating))
    assert found["gate", "all"] == 1
    assert [found[f"gate: {name} {sign} {limit:g}", "all"] for name, sign, limit in GATE] == [1.0] * len(GATE)
    assert found["profile statement", "trait=E"] == pytest.approx(6, abs=0.3)
    assert found["profile scenario", "trait=C"] == pytest.approx(2, abs=0.3)
    assert found["profile distance", "all"] < 0.3
    assert found["split-half statement", "all"] > 0.9
    assert found["reverse difference", "all"] < 0.5


def test_the_gate_says_why_and_hides_nothing():
    asked = items(repeats=2)
    person = trait_like()
    found = measured(answer(asked, lambda item: None if item.groups["trait"] == "E" else person(item)))
    assert found["answer rate", "all"] == pytest.approx(0.8)
    assert found["gate: answer rate >= 0.95", "all"] == 0
    assert found["gate", "all"] == 0
    assert found["spearman", "all"] == pytest.approx(1)  # over the other pairs
    assert math.isnan(found["spearman", "trait=E"])
    assert found["answer rate", "trait=E"] == 0


def test_whoever_agrees_with_everything_fails_on_reverse_wordings():
    found = measured(answer(items(repeats=1, traits=["E"]), lambda item: 7))
    assert found["reverse difference", "all"] == 6
    assert found["reverse within 1", "all"] == 0
    assert found["gate: reverse difference <= 1.5", "all"] == 0
    assert found["profile statement", "trait=E"] == 4  # the keys are balanced


def test_couples_count_once_and_statements_without_a_partner_not_at_all(tmp_path):
    def single(rows):
        for row in rows[:2]:
            row["statement"]["reverse_of"] = None

    asked = items(path=own(tmp_path, single, rows=6), repeats=1)
    found = {(m.name, m.group): m for m in SUITE.measures(answer(asked, trait_like()))}
    assert found["reverse difference", "all"].number == 2
    nobody = items(path=own(tmp_path, single, rows=2), repeats=1)
    assert math.isnan(measured(answer(nobody, trait_like()))["reverse difference", "all"])


def test_the_gate_is_open_where_something_was_not_measured():
    found = measured(answer(items(repeats=1, order="ascending", traits=["E"]), trait_like()))
    assert math.isnan(found["gate: order sensitivity statement <= 1", "all"])
    assert math.isnan(found["gate", "all"])
    assert found["gate: reverse difference <= 1.5", "all"] == 1
    always_4 = measured(answer(items(repeats=2, traits=["E"]), lambda item: 4))
    assert math.isnan(always_4["gate: split-half statement >= 0.7", "all"])
    assert math.isnan(always_4["gate", "all"])


def test_errors_are_neither_asked_nor_answered():
    answered = answer(items(repeats=1), of_pair())
    failed = [
        dataclasses.replace(one, error="timeout", verdicts={}) if n < 40 else one for n, one in enumerate(answered)
    ]
    found = {(m.name, m.group): m for m in SUITE.measures(failed)}
    assert found["answer rate", "all"].value.estimate == 1
    assert found["answer rate", "all"].number == 200
    assert found["spearman", "all"].number == 50
    broken = [dataclasses.replace(one, error="timeout", verdicts={}) for one in answered]
    assert math.isnan(measured(broken)["answer rate", "all"])


def test_the_mass_on_the_labels_is_kept():
    answered = answer(items(repeats=1, traits=["E"]), of_pair())
    with_mass = [dataclasses.replace(one, mass=0.25) for one in answered]
    assert measured(with_mass)["mass on labels", "all"] == pytest.approx(0.25)
    assert ("mass on labels", "all") not in measured(answered)


# ---------------------------------------------------------------- people


def table(tmp_path, change=None, people=4):
    """Respondent n answers both parts alike but for n points, on the pairs of I."""
    rows = []
    for n in range(people):
        row = {"respondent": f"p{n}", "age": 30}
        for place, pair in enumerate(load_pairs()):
            if pair.trait == "I":
                row[f"{pair.pair_id}.statement"] = 1 + place % 4
                row[f"{pair.pair_id}.scenario"] = 1 + place % 4 + n
        rows.append(row)
    if change:
        change(rows)
    path = tmp_path / "people.csv"
    columns = list(rows[0])
    path.write_text("\n".join([",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]))
    return str(path)


def test_a_model_is_placed_among_people(tmp_path):
    asked = items(humans=table(tmp_path), traits=["I"], repeats=1)
    person = of_pair(spread=(2, 4, 6))
    found = measured(answer(asked, person))
    assert found["VMD human mean", "all"] == pytest.approx(1.5)
    assert found["VMD human sd", "all"] == pytest.approx(np.std([0, 1, 2, 3], ddof=1))
    assert found["VMD human percentile", "all"] == 12.5  # equal to the best of four
    apart = measured(answer(asked, lambda item: person(item) + (item.data["part"] == "scenario")))
    assert apart["VMD human percentile", "all"] == 37.5
    assert apart["signed difference", "all"] == 1  # more is done than said
    assert apart["PCP 1 human mean", "trait=I"] == 0.5
    assert ("VMD human mean", "all") not in measured(answer(items(repeats=1, traits=["I"]), person))


def test_an_empty_cell_is_left_out(tmp_path):
    def change(rows):
        rows[3]["I-001.scenario"] = ""

    asked = items(humans=table(tmp_path, change), traits=["I"], repeats=1)
    found = measured(answer(asked, of_pair()))
    assert found["VMD human mean", "all"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda rows: rows[2].update({"I-003.scenario": 8}), "row 3: I-003.scenario is '8'; expected a whole number"),
        (lambda rows: rows[0].update({"I-001.statement": "often"}), "row 1: I-001.statement is 'often'"),
        (lambda rows: rows[1].update({"I-001.statement": 4.5}), "row 2: I-001.statement is '4.5'"),
        (lambda rows: [row.pop("I-004.scenario") for row in rows], "has no column 'I-004.scenario'; did you mean"),
    ],
)
def test_a_bad_table_of_people_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        items(humans=table(tmp_path, change), traits=["I"])


def test_a_missing_table_of_people_is_named(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        items(humans=str(tmp_path / "nobody.csv"))


def test_settings_explain_themselves():
    assert all(field.description for field in PersonalitySettings.model_fields.values())
