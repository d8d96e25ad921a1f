"""Clean-Eval with stand-ins for every model: what is made, dropped, chosen, and written down."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, BertConfig

import tiny
import tiny_folder
from tiny_server import completion
from tiny_table import table
from trimtab.evals.models import Reply
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.suite import Answered, Item, Verdict, user
from trimtab.rewriting import bleurt, contamination, detectors, similarity, wording
from trimtab.rewriting.clean_eval import CleanEvalSettings, clean, middle_third, pieces, select
from trimtab.rewriting.protected import broken
from trimtab.rewriting.questions import COLUMNS, CleanEvalError, PairScorer, cleaned, read
from trimtab.rewriting.rewriters import Request, Rewritten, Way, causal, endpoint, seq2seq, ways
from trimtab.rewriting.rules import Rules

GAS = {
    "id": "q7",
    "fields": {"question": "Which gas do plants take in for photosynthesis?"},
    "options": ["oxygen", "carbon dioxide", "helium", "neon"],
    "answer": 1,
    "rewritable": ["question"],
}
LENGTH = PairScorer("length", lambda pairs: [len(candidate) / len(original) for original, candidate in pairs])
YES = PairScorer("yes", lambda pairs: [1.0] * len(pairs))
NO = PairScorer("no", lambda pairs: [0.2] * len(pairs))


class Stand:
    """A rewriter that says what it was told to, for each draw."""

    def __init__(self, *said: str, name: str = "stand"):
        self.said, self.name, self.asked = said, name, []
        self.ways = tuple(Way("said", (f"say {i}: {{text}}",), i) for i in range(len(said)))

    def __call__(self, requests):
        self.asked += requests
        return [Rewritten(self.said[request.way.draw].replace("{text}", request.text)) for request in requests]


def whys(row, field="question") -> list[str | None]:
    return [candidate["why"] for candidate in row["candidates"][field]]


# ---------------------------------------------------------------- what is dropped


class Reads:
    """A reader that gives the answer of the first word that the prompt holds."""

    batch = 2

    def __init__(self, **said):
        self.said, self.asked = said, []

    def answer(self, chats, max_new_tokens):
        assert 0 < len(chats) <= self.batch
        self.asked += [chat[0]["content"] for chat in chats]
        return [
            next(Reply(*given) for word, given in self.said.items() if word in asked)
            for asked in self.asked[-len(chats) :]
        ]


def test_candidates_that_change_the_reader_s_answer_are_dropped_and_counted():
    stand = Stand("Plants absorb what?", "Plants emit what?", "Plants hum what?", "Plants absorb which gas?", "")
    reader = Reads(absorb=["Answer: B"], emit=["Answer: A"], hum=["I cannot tell."], Which=["The answer is (B)."])
    (row,) = clean([GAS], stand, YES, LENGTH, reader=reader).rows
    assert whys(row) == [None, "answer", "answer", None, "empty"]
    assert row["dropped"] == {"answer": 2, "empty": 1}
    assert len(reader.asked) == len(set(reader.asked)) == 5  # the original once, and no candidate dropped before
    assert "A. oxygen\nB. carbon dioxide\nC. helium\nD. neon" in reader.asked[0]
    assert GAS["fields"]["question"] in reader.asked[0]
    without = clean([GAS], stand, YES, LENGTH)
    assert "answer" not in without.dropped


def test_an_original_that_the_reader_cannot_answer_drops_nothing():
    reader = Reads(absorb=["Answer: B"], Which=["I cannot tell."])
    (row,) = clean([GAS], Stand("Plants absorb what?"), YES, LENGTH, reader=reader).rows
    assert whys(row) == [None]


@pytest.mark.parametrize("failing", ["absorb", "Which"])
def test_a_reader_s_error_is_an_error_of_the_candidate_and_no_change_of_the_answer(failing):
    said = {"absorb": ["Answer: B"], "Which": ["Answer: B"]} | {failing: ["", "Timeout in 5 tries"]}
    (row,) = clean([GAS], Stand("Plants absorb what?"), YES, LENGTH, reader=Reads(**said)).rows
    (candidate,) = row["candidates"]["question"]
    assert (candidate["why"], candidate["error"]) == ("error", "Timeout in 5 tries")


def test_a_reader_sees_all_texts_of_a_row_in_their_order_and_the_options_under_letters():
    row = {
        "fields": {"passage": "Ann came.", "question": "Who?", "title": None},
        "options": {"1": "Ann", "2": "Bob", "3": None},
        "answer": "1",
    }
    reader = Reads(person=["Answer: B"], Ann=["Answer: A"])
    (found,) = clean([row], Stand("Which person?"), YES, LENGTH, reader=reader).rows
    assert whys(found) == ["answer"]
    assert [asked.partition("\n\nGive")[0] for asked in reader.asked] == [
        "Ann came.\n\nWho?\n\nA. Ann\nB. Bob",
        "Ann came.\n\nWhich person?\n\nA. Ann\nB. Bob",
    ]


def test_a_text_whose_candidates_all_change_the_answer_is_tried_again_and_the_original_is_asked_once(monkeypatch):
    texts = iter(["Plants emit what?", "Plants emit which?", "Plants emit which gas?"])
    stand = Stand("")
    monkeypatch.setattr(Stand, "__call__", lambda self, requests: [Rewritten(next(texts)) for _ in requests])
    reader = Reads(emit=["Answer: A"], Which=["Answer: B"])
    how = CleanEvalSettings(unrewritten="retry", retries=2)
    (row,) = clean([GAS], stand, YES, LENGTH, how, reader=reader).rows
    assert row["clean"] == GAS["fields"]
    assert whys(row) == ["answer", "answer", "answer"]
    assert len(reader.asked) == 4


def test_a_reader_needs_options_to_compare():
    rows = [GAS, {"id": "open", "question": "Why?", "answer": "because"}]
    with pytest.raises(CleanEvalError, match="row 2 has no options, by which a reader's answers are compared"):
        clean(rows, Stand("x"), YES, LENGTH, reader=Reads())


def test_identical_empty_and_repeated_candidates_are_dropped():
    stand = Stand(
        "{text}", " WHICH gas do plants take in for photosynthesis ?", "", "Plants absorb what?", "plants absorb WHAT"
    )
    (row,) = clean([GAS], stand, YES, LENGTH).rows
    assert whys(row) == ["identical", "identical", "empty", None, "duplicate"]
    assert row["clean"] == {"question": "Plants absorb what?"}
    assert (row["kept"], row["generated"]) == (1, 5)
    assert row["dropped"] == {"identical": 2, "empty": 1, "duplicate": 1}


def test_a_detector_that_says_no_empties_the_set_and_each_fallback_does_what_it_says():
    stand = Stand("Plants absorb what?")
    kept = clean([GAS], stand, NO, LENGTH)
    assert kept.rows[0]["clean"] == GAS["fields"]
    assert (kept.rows[0]["rewritten"], kept.rows[0]["origin"], kept.rows[0]["score"]) == (
        False, {"question": None}, {"question": None},
    )  # fmt: skip
    assert kept.rows[0]["candidates"]["question"][0]["same"] == 0.2
    assert kept.dropped == {"meaning": 1}
    left = clean([GAS], stand, NO, LENGTH, CleanEvalSettings(unrewritten="drop"))
    assert left.rows == []
    assert whys(left.left_out[0]) == ["meaning"]
    assert left.dropped == {"meaning": 1}


def test_retry_asks_with_other_seeds_until_something_survives():
    texts = iter(("One way?", "Two ways more?", "Plants absorb what?"))

    class Late(Stand):
        def __call__(self, requests):
            self.asked += requests
            return [Rewritten(next(texts)) for _ in requests]

    stand = Late("")
    late = PairScorer("late", lambda pairs: [float(len(stand.asked) == 3)] * len(pairs))
    (row,) = clean([GAS], stand, late, LENGTH, CleanEvalSettings(unrewritten="retry", retries=5)).rows
    assert [candidate["seed"] for candidate in row["candidates"]["question"]] == [0, 1000, 2000]
    assert row["clean"]["question"] == "Plants absorb what?"
    assert row["rewritten"]


def test_retry_gives_up_and_keeps_the_text():
    stand = Stand("{text}")
    (row,) = clean([GAS], stand, YES, LENGTH, CleanEvalSettings(unrewritten="retry", retries=2)).rows
    assert len(stand.asked) == 3
    assert not row["rewritten"]
    assert row["clean"] == GAS["fields"]


def test_detector_and_scorer_are_given_the_original_first():
    given = []
    look = PairScorer("look", lambda pairs: given.extend(pairs) or [1.0] * len(pairs))
    clean([GAS], Stand("Plants absorb what?"), look, look)
    assert given == [(GAS["fields"]["question"], "Plants absorb what?")] * 2


def test_the_threshold_itself_means_the_same():
    at = PairScorer("at", lambda pairs: [0.85] * len(pairs), threshold=0.85)
    assert clean([GAS], Stand("Plants absorb what?"), at, LENGTH).rows[0]["rewritten"]


@table(
    "original, candidate, kind",
    [
        ("Add 12 apples.", "Put 13 apples to it.", "numbers"),
        ("Add 1,000 apples.", "Put 1000 apples to it.", None),
        ("It is -3 here.", "Here it is 3.", "numbers"),
        ("Add two apples.", "Put three apples to it.", "numbers"),
        ("It is 5 km long.", "Its length is 5 miles.", "units"),
        ("It is 5 km long.", "Its length is 5 kilometres.", None),
        ("It costs $5 now.", "Now the price is €5.", "units"),
        ("It is 20% full.", "It holds 20 percent.", None),
        ("Plants do not eat.", "Plants eat.", "negations"),
        ("Plants don't eat.", "Plants do not feed.", None),
        ("Which is true?", "Which is not untrue?", "negations"),
        ("Some plants eat.", "All plants feed.", "quantifiers"),
        ("At least 3 eat.", "At most 3 feed.", "quantifiers"),
        ("Call `foo(x)` now.", "Now call `foo(y)`.", "code"),
        ("What is x = 3 + y?", "What is x = 3 * y?", "code"),
        ("Let $x^2$ be big.", "Let $x^3$ be large.", "code"),
        ("Where did Paul go?", "Where did he go?", "names"),
        ("How much CO2 is it?", "Of CO2 there is how much?", None),
        ("Is the first metal rust?", "Is the first metal iron?", "options"),
        ("Does iron rust?", "Does metal rust?", "options"),
        ("Which rusts?", "Which rusts, steel perhaps?", "answer"),
    ],
)
def test_what_carries_the_label_is_carried_over(original, candidate, kind):
    assert broken(original, candidate, ["iron"], ["steel"]) == kind
    if kind is not None:
        row = {"question": original, "options": ["iron", "steel"], "answer": "steel"}
        assert whys(clean([row], Stand(candidate), YES, LENGTH).rows[0]) == [kind]


# ---------------------------------------------------------------- what is chosen


def test_each_rule_picks_its_element_of_a_list_made_by_hand():
    scores = [0.9, 0.5, 0.2, 0.62, 0.9]

    def chosen(rule, band=(0.55, 0.75)):
        return select(scores, CleanEvalSettings(select=rule, seed=3), band, "place")

    assert chosen("lowest") == 2
    assert chosen("highest") == 0
    assert chosen("moderate") == 3  # .62 is nearest to .65
    assert chosen("moderate", (0.3, 0.64)) == 1  # .5 is nearer to .47 than .62
    assert chosen("moderate", (0.7, 0.8)) == 3  # nothing inside: the median of .2 .5 .62 .9 .9
    assert select([0.1, 0.4, 0.2, 0.3], CleanEvalSettings(), (0.8, 0.9)) == 2  # of an even number the lower
    picks = {select(scores, CleanEvalSettings(select="random", seed=seed), (0, 1), "place") for seed in range(40)}
    assert picks == set(range(5))
    assert chosen("random") == chosen("random")


def test_the_band_is_the_middle_third_of_all_survivors():
    assert middle_third([0.0, 0.3, 0.6, 0.9]) == pytest.approx((0.3, 0.6))
    rows = [{"id": i, "question": "q" * 100} for i in range(3)]
    stand = Stand("a" * 10, "a" * 20, "a" * 30, "a" * 40, "a" * 50, "a" * 60, "a" * 70)
    found = clean(rows, stand, None, LENGTH)
    assert found.bands["question"] == pytest.approx((0.3, 0.5))
    assert {row["score"]["question"] for row in found.rows} == {0.4}
    given = clean(rows, stand, None, LENGTH, CleanEvalSettings(band=(0.55, 0.7)))
    assert {row["score"]["question"] for row in given.rows} == {0.6}


# ---------------------------------------------------------------- what is written down


def test_order_columns_options_and_answer_stay_and_every_candidate_is_there():
    rows = [
        {"id": i, "question": f"Is plant {i} big?", "options": {"B": "ja", "A": "nein"}, "answer": "A", "more": [i]}
        for i in (5, 3, 4)
    ]
    before = copy.deepcopy(rows)
    found = clean(rows, Stand("Plant size?", "{text} So?", "Say if it is big: {text}"), YES, LENGTH).rows
    assert rows == before
    assert [{key: value for key, value in row.items() if key not in COLUMNS} for row in found] == before
    for row in found:
        candidates = row["candidates"]["question"]
        assert [one["seed"] for one in candidates] == [0, 1, 2]
        assert [one["prompts"] for one in candidates] == [(f"say {i}: {{text}}",) for i in range(3)]
        assert all(one["origin"] == "said" for one in candidates)
        assert whys(row) == ["numbers", None, None]
        assert [one["score"] is None for one in candidates] == [True, False, False]
        assert row["clean"]["question"] in [one["text"] for one in candidates if one["why"] is None]
    json.dumps(found)


def test_the_same_arguments_give_the_same_rows_and_another_seed_others():
    rows = [GAS, {"question": "If a car costs 5 dollars, what is the price of 3 cars in a big shop?", "answer": "15"}]
    one, other = (clean(rows, Rules(6), None, LENGTH, CleanEvalSettings(select="random")) for _ in range(2))
    assert one == other
    seeds = {json.dumps(clean(rows, Rules(6), None, LENGTH, CleanEvalSettings(seed=seed)).rows) for seed in range(4)}
    assert len(seeds) > 1


def test_what_is_stored_is_not_asked_again_and_changes_nothing():
    stored: dict = {}
    first = clean([GAS], Stand("Plants absorb what?", "x"), YES, LENGTH, stored=stored)
    again = Stand("another text", "y")
    assert clean([GAS], again, YES, LENGTH, stored=stored) == first
    assert again.asked == []
    for changed in (Stand("Plants absorb what?", "x", name="other"), Rules(2)):
        before = len(stored)
        clean([GAS], changed, YES, LENGTH, stored=stored)
        assert len(stored) == before + 2
    before = len(stored)
    clean([GAS], again, YES, LENGTH, CleanEvalSettings(seed=9), stored=stored)
    assert len(stored) == before + 2


def test_cleaning_again_starts_from_the_original_and_can_go_on_from_the_clean_text():
    once = clean([GAS], Rules(4), None, LENGTH).rows
    assert clean(once, Rules(4), None, LENGTH).rows == once
    row = cleaned(once[0])
    assert row["fields"]["question"] == once[0]["clean"]["question"]
    assert row.keys() == GAS.keys()
    flat = clean([{"question": "Big plants absorb which gas?"}], Rules(4), None, LENGTH).rows[0]
    assert cleaned(flat)["question"] == flat["clean"]["question"]


WORDS = """
what is the big car that not all 3 km of Paris oxygen in 1990 , if a doctor children bought `x` find . ? helium some
"""


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS.split()), min_size=2, max_size=25).map(" ".join), st.integers(0, 5))
def test_rules_keep_the_label_of_any_text_twice(text, seed):
    row = {"question": text, "options": ["oxygen", "helium", "Paris"], "answer": 0}
    once = clean([row], Rules(3), None, LENGTH, CleanEvalSettings(seed=seed)).rows[0]
    twice = clean([cleaned(once)], Rules(3), None, LENGTH, CleanEvalSettings(seed=seed + 1)).rows[0]
    assert twice["answer"] == 0
    assert twice["options"] == row["options"]
    for kind in ("answer", "options", "numbers", "negations", "code"):
        assert broken(text, twice["clean"]["question"], ["helium", "Paris"], ["oxygen"]) != kind
    for one in once["candidates"]["question"]:
        # words in a row are no sentence, of which the rules of wording may think that parts changed places
        assert one["why"] in (None, "empty", "identical", "duplicate", *wording.KINDS), one


def test_rules_do_what_their_page_says():
    rules = Rules(12)

    def said(text):
        return {rules([Request(text, way, way.draw)])[0].text for way in rules.ways}

    assert "During photosynthesis, which gas do plants absorb?" in said(
        "Which gas do plants take in during photosynthesis?"
    )
    assert "What is the price if an automobile breaks?" in said("If a car breaks, what is the price?")
    assert "Name the person who painted the Mona Lisa." in said("Who painted the Mona Lisa?")
    assert said("Zebra?") == {""}
    kept = rules([Request("The big car is here.", rules.ways[0], 0, ("big car",))])[0].text
    assert kept == ""


def test_long_texts_are_rewritten_in_pieces_that_join_to_the_text():
    text = "One is here. Two is there!  Three?\n\nFour. " + "x" * 50 + ". Five."
    found = list(pieces(text, 30))
    assert "".join(piece + gap for piece, gap in found) == text
    assert [piece for piece, _ in found][:2] == ["One is here. Two is there!", "Three?\n\nFour."]
    stand = Stand("<{text}>")
    row = {"question": "Plants eat here. Plants feed there.", "answer": "x"}
    assert clean([row], stand, YES, LENGTH, CleanEvalSettings(longest=20)).rows[0]["candidates"]["question"][0][
        "text"
    ] == ("<Plants eat here.> <Plants feed there.>")


@pytest.mark.parametrize(
    "row, message",
    [
        ({"text": "x"}, "row 1 has no text 'question' to rewrite; its texts: text"),
        ({"question": "x", "options": ["a", "a"], "answer": 0}, "row 1: options .* must be two or more different"),
        (
            {"question": "x", "options": ["a", "b"], "answer": 2},
            "row 1: answer 2 is not one of the options; give",
        ),
        ({"question": "x", "options": ["a", None], "answer": 0}, "row 1: option B is null; expected a text"),
        ({"question": "x", "options": {"A": "a", "text": ["b"]}, "answer": 0}, "row 1: option text is a list"),
        ({"question": "x", "options": "a, b", "answer": 0}, "row 1: options are 'a, b'; expected"),
        ({"question": "x", "rewritable": "question"}, "rewritable a list"),
        ({"fields": {"question": 3}}, "has no text 'question'"),
    ],
)
def test_rows_that_make_no_sense_are_named(row, message):
    with pytest.raises(CleanEvalError, match=message):
        read([row])


def test_ids_must_differ():
    with pytest.raises(CleanEvalError, match="such as '1'; each row needs its own"):
        read([{"id": 1, "question": "x"}, {"id": "1", "question": "y"}])


# ---------------------------------------------------------------- models


def byte_model(**changes):
    return tiny.model(
        "llama_tied",
        vocab_size=tiny_folder.VOCAB,
        max_position_embeddings=1024,
        eos_token_id=0,
        pad_token_id=0,
        **changes,
    )


@pytest.mark.slow
def test_a_model_s_candidate_depends_on_its_request_and_not_on_its_neighbours():
    rewriter = causal(
        byte_model(), tiny_folder.byte_tokenizer(), ways(2, ["zh"]), name="m", temperature=1.5, max_new_tokens=120
    )
    requests = [Request(text, way, 5) for text in ("a long question of plants?", "b?") for way in rewriter.ways]
    together = rewriter(requests)
    assert [rewriter([request])[0] for request in requests[::2]] == together[::2]
    assert any(one.text for one in together)
    for one, request in zip(together, requests):
        assert not one.text or len(one.via) == len(request.way.prompts) - 1
    told = {rewriter([requests[0]._replace(seed=seed)])[0].text for seed in range(6)}
    assert len(told - {""}) > 1
    assert "m " in rewriter.name
    assert "temperature=1.5" in rewriter.name


def test_sampling_follows_the_temperature_s_distribution():
    from trimtab.rewriting.rewriters import _Drawn

    logits = torch.tensor([0.0, 1.0, 2.0]).repeat(4000, 1)
    drawn = _Drawn(range(4000), temperature=2.0)(logits, logits).argmax(dim=-1)
    wanted = torch.softmax(torch.tensor([0.0, 0.5, 1.0]), dim=0)
    assert torch.bincount(drawn, minlength=3) / 4000 == pytest.approx(wanted, abs=0.03)


def test_an_answer_that_is_cut_off_is_no_candidate():
    model = byte_model()
    rewriter = causal(model, tiny_folder.byte_tokenizer(), ways(1, []), max_new_tokens=1, temperature=0)
    assert rewriter([Request("plants?", rewriter.ways[0], 0)])[0].text == ""


def new_text(asked):
    english = "into English" in asked["messages"][0]["content"]
    return "“New”" if english else '<think>hm</think> Text: "Neu {text}"'


def server_rewriter(server, by, **given):
    return endpoint(OpenAIModel(server.url, "m", pause=0.0, tries=2, temperature=0.3), by, **given)


def test_a_server_is_asked_step_by_step_and_its_answers_are_tidied(server):
    server.reply = new_text
    rewriter = server_rewriter(server, ways(1, ["de"]), max_new_tokens=50)
    first, second = rewriter([Request("Old {text}?", way, 0) for way in rewriter.ways])
    assert second == Rewritten("New", ("Neu {text}",))
    assert first.text == "Neu {text}"
    contents = sorted(asked["messages"][0]["content"] for asked in server.seen)
    assert [content.partition("Text: ")[2] for content in contents] == ["Old {text}?", "Neu {text}", "Old {text}?"]
    assert "into German" in contents[2]
    assert {(asked["model"], asked["temperature"], asked["max_tokens"]) for asked in server.seen} == {("m", 0.3, 50)}
    assert rewriter.name == f"m at {server.url} temperature=0.3 max_new_tokens=50"
    assert len({way.prompts for way in ways(4, [])}) == 4


def test_each_request_to_a_server_has_its_seed_and_keeps_it(server):
    rewriter = server_rewriter(server, ways(5, []))
    requests = [Request("Old?", way, 7 + way.draw) for way in rewriter.ways]
    rewriter(requests)
    rewriter(requests[:1])
    seeds = [asked["seed"] for asked in server.seen]
    assert len(set(seeds)) == 5
    assert seeds.count(seeds[-1]) == 2
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_server_s_answer_that_was_cut_off_is_no_candidate(server):
    server.script = [(200, completion("Plants take", "length"))]
    rewriter = server_rewriter(server, ways(1, []))
    assert rewriter([Request("plants?", rewriter.ways[0], 0)]) == [Rewritten("")]
    assert OpenAIModel(server.url, "m").answer([user("x")], 5)[0].text == "you said x"  # a suite reads what there is
    server.script = [(200, completion("Plants take", "length"))]
    assert OpenAIModel(server.url, "m").answer([user("x")], 5)[0].text == "Plants take"


def test_an_error_of_a_server_is_no_candidate_and_is_asked_again(server):
    server.reply = lambda asked: "Plants absorb what?"
    server.script = [(500, "{}")] * 2
    stored = {}
    rewriter = server_rewriter(server, ways(2, []))
    one_by_one = CleanEvalSettings(batch=1)
    (row,) = clean([GAS], rewriter, YES, LENGTH, one_by_one, stored=stored).rows
    first, second = row["candidates"]["question"]
    assert (first["why"], first["text"], first["via"]) == ("error", "", [])
    assert "InternalServerError in 2 tries" in first["error"]
    assert (second["why"], second["text"], second["error"]) == (None, "Plants absorb what?", None)
    assert row["dropped"] == {"error": 1}
    assert [text for text, _ in stored.values()] == ["Plants absorb what?"]
    before = len(server.seen)
    again = clean([GAS], rewriter, YES, LENGTH, one_by_one, stored=stored).rows
    assert len(server.seen) == before + 1
    assert again == clean([GAS], rewriter, YES, LENGTH, one_by_one).rows


def test_an_error_on_the_way_back_ends_the_way_and_the_intermediate_text_is_kept(server):
    server.reply = new_text
    server.script = [(200, ""), (503, "{}"), (503, "{}")]
    rewriter = server_rewriter(server, ways(0, ["de"]))
    (found,) = rewriter([Request("Old?", rewriter.ways[0], 0)])
    assert (found.text, found.via) == ("", ("Neu {text}",))
    assert "in 2 tries" in found.error


def test_a_text_of_which_a_piece_ended_in_an_error_has_no_candidate(server):
    server.reply = lambda asked: "Said otherwise."
    server.script = [(200, ""), (500, "{}"), (500, "{}")]
    row = {"question": "The first sentence. The second sentence."}
    how = CleanEvalSettings(longest=20, batch=1)
    stored = {}
    (found,) = clean([row], server_rewriter(server, ways(1, [])), None, LENGTH, how, stored=stored).rows
    (candidate,) = found["candidates"]["question"]
    assert (candidate["why"], candidate["text"]) == ("error", "")
    assert len(stored) == 1


def test_what_was_stored_is_kept_when_its_batch_is_asked_again():
    stand = Stand("one", "two")
    stored = {}
    clean([{"question": "Q?"}], stand, None, LENGTH, stored=stored)
    first, second = stored
    del stored[second]
    stand.said = ("other", "zwei")
    clean([{"question": "Q?"}], stand, None, LENGTH, stored=stored)
    assert [stored[first][0], stored[second][0]] == ["one", "zwei"]


@pytest.mark.slow
def test_encoder_decoder_models_are_asked_one_after_another():
    config = AutoConfig.for_model(
        "t5", vocab_size=tiny_folder.VOCAB, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model, tokenizer = AutoModelForSeq2SeqLM.from_config(config), tiny_folder.byte_tokenizer()
    pair = [Way("backtranslate:de", ("{text}", "{text}"), draw) for draw in range(2)]
    rewriter = seq2seq([(model, tokenizer), (model, tokenizer)], pair, temperature=1.0, max_new_tokens=150)
    requests = [Request(text, way, way.draw) for text in ("plants?", "a longer one?", "b") for way in pair]
    together = rewriter(requests)
    assert [rewriter([request])[0] for request in requests[::3]] == together[::3]
    assert any(one.via for one in together)
    told = [one.via for one in together if one.via]
    assert len(set(told)) == len(told)
    model.generation_config.update(repetition_penalty=9.0, num_beams=3, no_repeat_ngram_size=1, min_new_tokens=9)
    assert rewriter(requests) == together  # what the translator's own config says of drawing does not act
    model.generation_config.forced_bos_token_id = 70  # the language to translate into does
    assert rewriter(requests) != together


def test_embeddings_compare_by_cosine():
    table = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [0.0, 2.0]}
    found = similarity.cosines(lambda texts: torch.tensor([table[text] for text in texts]), "table")
    assert found([("a", "b"), ("a", "c"), ("c", "c")]) == pytest.approx([0.5**0.5, 0, 1])
    assert found.threshold == 0.85


def bert(num_labels: int, **changes):
    config = BertConfig(
        vocab_size=tiny_folder.VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        num_labels=num_labels, initializer_range=0.5, **changes,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def test_nli_takes_the_smaller_of_both_directions():
    model = bert(3, id2label={0: "CONTRADICTION", 1: "entailment", 2: "neutral"}, label2id={"entailment": 1})
    tokenizer = tiny_folder.byte_tokenizer()
    pairs = [("ab", "cde"), ("cde", "ab")]
    found = detectors.nli(model, tokenizer)(pairs)
    for value, (one, other) in zip(found, pairs, strict=True):
        both = []
        for pair in ((one, other), (other, one)):
            logits = model(**tokenizer(*pair, return_tensors="pt")).logits
            both.append(torch.softmax(logits, dim=-1)[0, 1].item())
        assert value == pytest.approx(min(both), abs=1e-5)
    with pytest.raises(CleanEvalError, match="one must be named entailment"):
        detectors.nli(bert(2), tokenizer)


def test_yes_and_no_are_weighed_by_their_first_tokens():
    ids = {"vocab_size": tiny_folder.VOCAB, "eos_token_id": 0, "pad_token_id": 0}
    model, tokenizer = tiny.model("gpt2", n_positions=1024, **ids), tiny_folder.byte_tokenizer()  # absolute positions
    pairs = [("a question?", "b"), ("c", "a much longer text than that {original}")]
    found = detectors.yes_or_no(model, tokenizer)(pairs)
    for value, (original, candidate) in zip(found, pairs):
        asked = [{"role": "user", "content": detectors._ask(original, candidate)}]
        chat = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        encoded = torch.tensor([tokenizer(chat, add_special_tokens=False).input_ids])
        p = torch.softmax(model(encoded).logits[0, -1], dim=-1)
        ids = {c: tokenizer(c).input_ids[0] for c in "yYnN"}
        yes, no = p[ids["y"]] + p[ids["Y"]], p[ids["n"]] + p[ids["N"]]
        assert value == pytest.approx((yes / (yes + no)).item(), abs=1e-4)
        assert candidate in detectors._ask(original, candidate)
        assert original in detectors._ask(original, candidate)


def test_a_written_yes_is_a_word_of_its_own():
    assert [detectors._says_yes(text) for text in ("Yes.", "no", "yesterday", " **yes**")] == [True, False, False, True]


def test_chrf_is_that_of_sacrebleu_with_the_original_as_reference():
    import sacrebleu

    pair = ("the cat sat on the mat", "a cat sat")
    assert similarity.chrf()([pair]) == pytest.approx([sacrebleu.sentence_chrf(pair[1], [pair[0]]).score / 100])
    assert similarity.chrf()([pair]) != pytest.approx(similarity.chrf()([pair[::-1]]))
    assert similarity.bleu()([("a b c d e", "a b c d e")]) == pytest.approx([1.0])


def test_rouge_and_copied_ngrams_by_hand():
    assert similarity.rouge_l("the cat sat here", "The cat, here!") == pytest.approx(2 * 3 / 7)
    assert similarity.rouge_l("a", "b") == 0
    text = " ".join(f"w{i}" for i in range(14))
    assert similarity.copied(text, text) == (2, 2)
    assert similarity.copied(text, "x " + text.replace("w13", "y")) == (1, 3)


# ---------------------------------------------------------------- BLEURT


def pair_tokenizer():
    """Bytes between special tokens, with the second text of type 1."""
    from tokenizers.processors import TemplateProcessing

    made = tiny_folder.byte_tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A <|end|>",
        pair="<|user|> $A <|end|> $B:1 <|end|>:1",
        special_tokens=[("<|user|>", 1), ("<|end|>", 0)],
    )
    return made


def bleurt_folder(path, model, config: dict):
    from safetensors.torch import save_file

    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file({name: weight.contiguous() for name, weight in model.items()}, path / "model.safetensors")
    pair_tokenizer().save_pretrained(path)
    return path


def test_bleurt_of_bert_s_shape_is_its_forward_on_reference_and_candidate(tmp_path):
    model = bert(1)
    model.save_pretrained(tmp_path / "b")
    tokenizer = pair_tokenizer()
    tokenizer.save_pretrained(tmp_path / "b")
    pairs = [("abc", "defgh"), ("defgh", "abc")]
    types = {"return_tensors": "pt", "return_token_type_ids": True}
    wanted = [model(**tokenizer(*pair, **types)).logits.item() for pair in pairs]
    found = bleurt.bleurt(tmp_path / "b")(pairs)
    assert found == pytest.approx(wanted, abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-4  # the reference comes first


def test_bleurt_s_value_is_that_of_a_forward_by_hand(tmp_path):
    """Weights under the names of the public conversions of BLEURT-20; one layer, two heads, narrow embeddings."""
    narrow, wide, mid, heads, vocab = 6, 8, 12, 2, tiny_folder.VOCAB
    shapes = {
        "bleurt.embeddings.word_embeddings.weight": (vocab, narrow),
        "bleurt.embeddings.position_embeddings.weight": (64, narrow),
        "bleurt.embeddings.token_type_embeddings.weight": (2, narrow),
        "bleurt.embeddings.LayerNorm": (narrow,),
        "bleurt.encoder.embedding_projection": (wide, narrow),
        "bleurt.encoder.layer.0.attention.self.query": (wide, wide),
        "bleurt.encoder.layer.0.attention.self.key": (wide, wide),
        "bleurt.encoder.layer.0.attention.self.value": (wide, wide),
        "bleurt.encoder.layer.0.attention.output.dense": (wide, wide),
        "bleurt.encoder.layer.0.attention.output.LayerNorm": (wide,),
        "bleurt.encoder.layer.0.intermediate.dense": (mid, wide),
        "bleurt.encoder.layer.0.output.dense": (wide, mid),
        "bleurt.encoder.layer.0.output.LayerNorm": (wide,),
        "bleurt.pooler.dense": (wide, wide),
        "classifier": (1, wide),
    }
    w = {}
    for name, shape in shapes.items():
        if "embeddings.weight" in name:
            w[name] = torch.randn(shape)
        else:
            w[f"{name}.weight"], w[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])
    config = {
        "model_type": "bleurt", "architectures": ["BleurtForSequenceClassification"], "embedding_size": narrow,
        "hidden_size": wide, "num_hidden_layers": 1, "num_attention_heads": heads, "intermediate_size": mid,
        "vocab_size": vocab, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0, "pad_token_id": 0,
        "classifier_dropout": None, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    }  # fmt: skip
    folder = bleurt_folder(tmp_path / "BLEURT", w, config)

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / x.var(-1, unbiased=False, keepdim=True).add(1e-12).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    encode = tiny_folder.byte_tokenizer()
    ids = torch.tensor([1, *encode("abc").input_ids, 0, *encode("de").input_ids, 0])
    types = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    e = "bleurt.embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.position_embeddings.weight"][: len(ids)]
    x = norm(f"{e}.LayerNorm", x + w[f"{e}.token_type_embeddings.weight"][types])
    x = linear("bleurt.encoder.embedding_projection", x)
    a = "bleurt.encoder.layer.0.attention"
    q, k, v = (
        linear(f"{a}.self.{n}", x).view(-1, heads, wide // heads).transpose(0, 1) for n in ("query", "key", "value")
    )
    mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(wide // heads), dim=-1) @ v
    x = norm(f"{a}.output.LayerNorm", x + linear(f"{a}.output.dense", mixed.transpose(0, 1).reshape(-1, wide)))
    h = "bleurt.encoder.layer.0"
    inner = torch.nn.functional.gelu(linear(f"{h}.intermediate.dense", x))
    x = norm(f"{h}.output.LayerNorm", x + linear(f"{h}.output.dense", inner))
    wanted = linear("classifier", torch.tanh(linear("bleurt.pooler.dense", x[0]))).item()

    assert bleurt.bleurt(folder)([("abc", "de"), ("a longer one", "b")])[0] == pytest.approx(wanted, abs=1e-4)
    config["hidden_size"] = 10
    with pytest.raises(CleanEvalError, match="do not fit its config"):
        bleurt.bleurt(bleurt_folder(tmp_path / "wrong", w, config))


def test_what_is_no_bleurt_is_named(tmp_path):
    with pytest.raises(CleanEvalError, match="holds no config.json"):
        bleurt.bleurt(tmp_path)
    bert(2).save_pretrained(tmp_path / "two")
    with pytest.raises(CleanEvalError, match="has 2 labels; BLEURT has one"):
        bleurt.bleurt(tmp_path / "two")
    bert(1).save_pretrained(tmp_path / "bare")
    with pytest.raises(CleanEvalError, match="no tokenizer.json and no vocab.txt"):
        bleurt.bleurt(tmp_path / "bare")
    (tmp_path / "two" / "model.safetensors").rename(tmp_path / "two" / "pytorch_model.bin")
    with pytest.raises(CleanEvalError, match="save its pytorch_model.bin as model.safetensors"):
        bleurt.bleurt(tmp_path / "two")


# ---------------------------------------------------------------- the triangle and the report


def answered(values, prefix="q"):
    return [
        Answered(Item(f"{prefix}{i}", "?"), ("x",), {"p": Verdict(None if v is None else "A", v)})
        for i, v in enumerate(values)
    ]


def sets(original, clean_, control):
    return {"original": answered(original), "clean": answered(clean_), "control": answered(control, "f")}


def test_gaps_and_recovery_by_hand():
    seen = sets([1.0] * 40, [1.0] * 24 + [None] * 16, [0.5, 0.5] * 10)
    base = sets([1.0] * 20 + [0.0] * 20, [1.0] * 18 + [0.0] * 22, [0.5] * 20)
    (alone,) = contamination.triangles({"seen": seen}, rewriter="rules")
    assert alone.gap.estimate == pytest.approx(0.4)
    assert alone.gap.low > 0.2
    assert alone.excess == pytest.approx((0.5, 0.5, 0.5))
    assert alone.recovery == pytest.approx(0.4 / 0.5)
    assert alone.shift is None
    one, own = contamination.triangles({"seen": seen, "base": base}, rewriter="rules", baseline="base")
    assert one.recovery == pytest.approx((1 - 0.6) / (1 - 0.5))
    assert one.shift is not None
    assert one.shift.estimate == pytest.approx(0.4 - 0.05)
    assert own.recovery is None  # b - a is 0
    assert one.scores["clean"].estimate == pytest.approx(0.6)


def test_recovery_is_cut_and_is_none_where_nothing_was_gained():
    low = sets([1.0] * 30, [0.0] * 30, [0.75] * 30)
    assert contamination.triangles({"m": low}, rewriter="r")[0].recovery == 1.5
    up = sets([0.9] * 30, [1.0] * 30, [0.5] * 30)
    assert contamination.triangles({"m": up}, rewriter="r")[0].recovery == 0.0
    noise = sets([1.0, 0.0] * 5, [0.0] * 10, [1.0, 0.0, 0.0] * 3)
    found = contamination.triangles({"m": noise}, rewriter="r")[0]
    assert found.excess.estimate > 0
    assert found.recovery is None


def test_items_are_paired_by_id_and_errors_count_nowhere():
    original, fresh = answered([1.0, 0.0, 1.0]), answered([0.0, 0.0], "f")
    other = list(reversed(answered([1.0, 0.0, 1.0])))
    broken_ = Answered(Item("q9", "?"), (), {}, error="no answer")
    found = contamination.triangles(
        {"m": {"original": [*original, broken_], "clean": other[:2], "control": fresh}}, rewriter="r"
    )
    assert found[0].gap == (0, 0, 0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rewriter": "tiny 12ab temperature=0.7"}, "made the clean set"),
        ({"rewriter": "other 34cd"}, "made the clean set"),
        ({"baseline": "none"}, "none of the models"),
        ({"parser": "z"}, "there is no parser 'z'; parsers: p"),
    ],
)
def test_the_triangle_refuses(changes, message):
    models = {"tiny 34cd": sets([1.0], [1.0], [1.0])}
    with pytest.raises(CleanEvalError, match=message):
        contamination.triangles(models, **{"rewriter": "rules", **changes})
    if "rewriter" in changes:
        assert contamination.triangles(models, **changes, allow_same=True)


def test_the_triangle_names_a_missing_set():
    with pytest.raises(CleanEvalError, match="no answered items of the control set"):
        contamination.triangles({"m": {"original": answered([1]), "clean": answered([1])}}, rewriter="r")
    apart = {"original": answered([1]), "clean": answered([1], "x"), "control": answered([1])}
    with pytest.raises(CleanEvalError, match="share no ids"):
        contamination.triangles({"m": apart}, rewriter="r")


def test_the_report_counts_and_measures_the_rewritten_texts_alone():
    rows = [GAS, {"id": "z", "question": "Do they?"}]
    found = clean(rows, Stand("Plants absorb what?", "{text}"), None, LENGTH)
    report = contamination.surface(found, [LENGTH])
    assert (report["items"], report["rewritten"], report["candidates"], report["survivors"]) == (2, 1.0, 4, 2)
    assert report["dropped"] == {"identical": 2}
    assert report["13-grams kept"] is None
    lengths = [len("Plants absorb what?") / len(text) for text in (GAS["fields"]["question"], "Do they?")]
    assert report["length"][0] == pytest.approx(sum(lengths) / 2)
    nothing = contamination.surface(clean([GAS], Stand("{text}"), None, LENGTH), [LENGTH])
    assert "length" not in nothing
    assert nothing["rewritten"] == 0
