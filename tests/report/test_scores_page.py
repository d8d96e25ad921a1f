"""The page of `trimtab score` in a browser without a network."""

import json
import math
import os
import re
from typing import Any

import pytest

from trimtab.evals.scored import Answer, Scored
from trimtab.evals.worth import dumped, worth
from trimtab.report import scores as page

TEXT = "2 + 3 = 6</script> 6"


def answer(row: int, right: bool, scores: list[float], side: Any = "answer", **known: Any) -> tuple[Answer, Scored]:
    """Tokens are words, with the space before each, and an end."""
    given = {"prompt": [{"role": "user", "content": f"sum {row // 2}?"}], "completion": []}
    words = re.findall(r"\s*\S+", TEXT)
    ends = [sum(map(len, words[: i + 1])) for i in range(len(words))]
    offsets = [(end - len(word.strip()), end) for word, end in zip(words, ends)] + [(len(TEXT), len(TEXT))]
    values = [10 * sum(scores[: t + 1]) / (t + 1) for t in range(len(scores))]
    scored = Scored(row, side, TEXT, [*words, "<end>"], offsets, scores, values)
    return Answer(row, side, given, TEXT, right, final=str(row), **known), scored


def facts(found: list[tuple[Answer, Scored]], form: str, outcomes: bool, source: str = "ratio") -> dict:
    result = worth(found, source, outcomes=outcomes)  # type: ignore[arg-type]
    reading = {"source": source, "gathered": "prefix_mean", "beta": 10.0}
    return {
        "model": "the <model>", "source": "rows", "form": form, "method": "ipvrm", "reading": reading,
        "outcomes": outcomes, "counts": {"answers": len(found)}, "cautions": ["careful"], **dumped(result),
        "signature": {"model": "the <model> 1234"},
    }  # fmt: skip


WRONG = {"error": (8, 18), "consequences": ((19, 20),), "kind": "slip"}
ANSWERS = [
    answer(i, i % 2 == 0, [0.1 * (1 - i % 2 * 3), -0.5, 0.2, -0.1, 0.5 - i % 3, 0.3, -0.2], **(WRONG if i % 2 else {}))
    for i in range(24)
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    return page.write(facts(ANSWERS, "answers", True), ANSWERS, output)


@pytest.fixture
def tab(browser, written):
    yield from opened(browser, written)


def opened(browser, path, **how):
    context = browser.new_context(offline=True, **how)
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    asked, problems = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(path.as_uri())
    yield tab
    assert asked == [path.as_uri()]
    assert problems == []
    context.close()


def colour(token) -> tuple[list[float], float]:
    """Red, green and blue, and how strong."""
    found = [float(x) for x in re.findall(r"[\d.]+", token.evaluate("e => getComputedStyle(e).backgroundColor"))]
    return found[:3], (found[3] if len(found) > 3 else 1.0)


def test_it_opens_from_disk_with_tables_and_drawings(tab):
    heading = tab.locator("h1").inner_text()
    assert heading.startswith("24 answers of rows scored by the <model>: accuracy of the sign")
    titles = tab.locator("section h3").all_inner_texts()
    assert titles == ["Over all answers", "By kind of the error", "Best of n", "Best of n minus the majority vote"]
    assert tab.locator("figure svg").count() == 2
    assert tab.get_by_text("careful").is_visible()
    if os.environ.get("TRIMTAB_SCREENSHOT"):
        tab.screenshot(path=os.environ["TRIMTAB_SCREENSHOT"], full_page=True)


def test_every_token_is_shown_with_its_white_space_and_its_mark(tab):
    first = tab.locator(".answer").nth(1)
    assert first.locator(".tokens").inner_text() == f"{TEXT}<end>"
    assert first.locator(".error").all_inner_texts() == [" 6</script>"]
    assert first.locator(".follows").all_inner_texts() == [" 6"]
    assert first.locator(".special").all_inner_texts() == ["<end>"]
    assert tab.locator(".answer").nth(0).locator(".error").count() == 0


def test_colours_diverge_from_zero_and_follow_the_switch(tab):
    token = tab.locator(".answer").nth(0).locator("[data-at]")  # scores 0.1, -0.5, ...; values 1, -2, ...; all right
    (red, _, blue), weak = colour(token.nth(0))
    assert blue > red
    (red, _, blue), strong = colour(token.nth(1))
    assert red > blue
    assert strong > weak > 0
    scored = ANSWERS[0][1]
    for what, numbers in (("values", scored.values), ("td", scored.td)):
        tab.get_by_label("Colour").select_option(what)
        for at, number in enumerate(numbers):
            (red, _, blue), strength = colour(token.nth(at))
            assert (blue > red) == (number > 0), (what, at)
            assert 0 < strength <= 0.62
    scale = page._data(facts(ANSWERS, "answers", True), ANSWERS)
    reach = json.loads(scale)["scales"]["td"][1]
    assert tab.locator("#highest").inner_text() == f"{reach:#.3g}"
    assert tab.locator("#middle").inner_text() == "no colour: 0"


def test_numbers_of_a_token_are_told_on_hover_and_by_the_keyboard(tab):
    tokens = tab.locator(".answer").nth(1).locator("[data-at]")
    tokens.nth(4).hover()
    scored = ANSWERS[1][1]
    value = scored.values[4]
    wanted = f'row 2, token 5 of 7 " 6</script>": score −0.500, value −{-value:#.3g} '
    wanted += f"(probability {1 / (1 + math.exp(-value)):.3f}), change −{-scored.td[4]:#.3g}, error"
    assert tab.locator("#numbers").inner_text() == wanted
    tokens.nth(0).focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert "token 3 of 7" in tab.locator("#numbers").inner_text()
    tab.keyboard.press("ArrowLeft")
    assert "token 2 of 7" in tab.locator("#numbers").inner_text()


def test_answers_are_filtered_turned_over_and_searched(tab):
    def about() -> str:
        return tab.locator("#about").inner_text()

    assert about() == "1 to 10 of 24"
    tab.get_by_role("button", name="further answers").click()
    assert about() == "11 to 20 of 24"
    tab.locator("#which").select_option("wrong")
    assert about() == "1 to 10 of 12"
    assert set(tab.locator(".answer h4 > span").all_inner_texts()) == {"wrong"}
    tab.get_by_label("Judged").select_option("well")
    wanted = sum(scored.values[-1] <= 0 for asked, scored in ANSWERS if not asked.correct)
    assert about().endswith(f"of {wanted}")
    tab.locator("#which").select_option("")
    tab.get_by_label("Judged").select_option("")
    tab.get_by_label("words of prompt or answer").fill("sum 3?")
    assert about() == "1 to 2 of 2"
    tab.get_by_label("words of prompt or answer").fill("nothing like it")
    assert about() == "none"


def test_pairs_are_judged_against_each_other_and_scores_without_a_zero_around_their_median(browser, tmp_path):
    low, high = [5.0, 6.0, 7.0, 5.0, 6.0, 7.0, 7.0], [5.0, 6.0, 7.0, 5.0, 6.0, 7.0]
    found = [
        answer(row, side == "chosen", [*high, 6.0 + row] if side == "chosen" else low, side)
        for row in range(3)
        for side in ("chosen", "rejected")
    ]
    path = page.write(facts(found, "pairs", False, "scalar"), found, tmp_path / "pairs.html")
    for tab in opened(browser, path, color_scheme="dark"):
        assert tab.locator("#middle").inner_text() == "no colour: 6.00, the median"
        tab.get_by_label("Judged").select_option("well")
        assert tab.locator("#about").inner_text() == "1 to 2 of 2"  # 6 + row > 7 in the last pair alone
        assert tab.locator(".answer h4").first.inner_text().startswith("row 3 chosen")
        assert tab.locator("figure").count() == 0


def test_answers_of_which_nothing_is_known_have_no_filters(browser, tmp_path):
    found = [(Answer(0, "answer", ANSWERS[0][0].given, TEXT), ANSWERS[0][1])]
    path = page.write(facts(found, "answers", True), found, tmp_path / "bare.html")
    for tab in opened(browser, path):
        assert tab.get_by_text("nothing was measured").is_visible()
        assert not tab.locator("#judged").is_visible()
        assert not tab.locator("#which").is_visible()


def test_a_page_holds_so_many_answers_and_says_so(tmp_path):
    found = [answer(i, True, [0.1] * 7) for i in range(page.SHOWN + 5)]
    html = page.write(facts(found, "answers", False), found, tmp_path / "x.html").read_text()
    assert f"The first {page.SHOWN} of {page.SHOWN + 5} answers" in html
    assert html.count('"prompt":') == page.SHOWN


def test_texts_of_rows_cannot_become_markup(written):
    assert "</script> 6" not in written.read_text()
