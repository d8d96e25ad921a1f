"""The page of `trimtab compare-decoding` in a browser without a network, and the statistics that it shows."""

import math
import os

import numpy as np
import pytest

from trimtab.metrics.intervals import Interval, bootstrap_corpus, bootstrap_ratio, bootstrap_sums
from trimtab.report.decoding import MeasureColumn, Page, Series, marked, mean_along, write

NAMES = ("greedy", "adaptive", "human")


def column(title: str, *values: float | None) -> MeasureColumn:
    found = {n: Interval(v, v - 0.1, v + 0.1) for n, v in zip(NAMES, values) if v is not None}
    return MeasureColumn(title, f"what {title} is", 2, found)


def step(token: str, p: float) -> dict:
    top = [[token, p, ["greedy", "adaptive"], True], ["</script>", 0.1, ["adaptive"], False]]
    return {"token": token, "p": p, "entropy": 1.25, "kept": {"greedy": 1, "adaptive": 1234}, "top": top}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    diversity, coherence = column("diversity", 0.1, 0.9, 0.5), column("coherence", 0.3, 0.2, 0.25)
    made = Page(
        headline="two ways <to> decode",
        strategies={"greedy": "the best", "adaptive": "some", "human": "the text"},
        columns=[diversity, coherence, column("perplexity", 2.0, 10.0, None)],
        series=[Series("Candidates", "how many", {"greedy": [1, 1, 1], "adaptive": [5.0, math.nan, 7.0]}, log=True)],
        map=(diversity, coherence),
        prompts=[("a <prompt>", {"greedy": "a b c d a b c d", "adaptive": "", "human": "x </script> y"})],
        steps=[
            {"prompt": "one", "strategy": "greedy", "steps": [step(" a", 0.5), step("\n", 0.25)]},
            {"prompt": "two", "strategy": "adaptive", "steps": [step(" b", 0.125)]},
        ],
        signature=[("model", "tiny"), ("seed", "0")],
        cautions=["small"],
    )
    return write(made, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def opened(browser, page):
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.set_default_timeout(60_000)  # a limit for a page that hangs, and no wait
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(page.as_uri())
    yield tab
    assert asked == [page.as_uri()]
    assert said == []
    context.close()


def order(tab) -> list[str]:
    return tab.locator("#measures tbody th").all_inner_texts()


def test_it_opens_from_disk_and_asks_for_nothing_else(opened):
    assert opened.locator("h1").inner_text() == "two ways <to> decode"
    assert opened.locator("figure svg").count() == 2
    if os.environ.get("TRIMTAB_SCREENSHOT"):
        opened.screenshot(path=os.environ["TRIMTAB_SCREENSHOT"], full_page=True)


def test_the_table_sorts_both_ways_with_what_is_missing_last(opened):
    assert order(opened) == ["greedy", "adaptive", "human"]
    opened.get_by_role("button", name="diversity").click()
    assert order(opened) == ["adaptive", "human", "greedy"]
    opened.get_by_role("button", name="diversity").click()
    assert order(opened) == ["greedy", "human", "adaptive"]
    opened.get_by_role("button", name="perplexity").click()
    assert order(opened) == ["adaptive", "greedy", "human"]
    opened.get_by_role("button", name="strategy").click()
    assert order(opened) == ["human", "greedy", "adaptive"]
    heads = opened.locator("#measures thead th")
    assert [heads.nth(i).get_attribute("aria-sort") for i in range(4)] == ["descending", "none", "none", "none"]


def test_the_token_view_shows_the_candidates_of_the_chosen_token(opened):
    tokens, rows = opened.locator("#tokens button"), opened.locator("#candidates tbody tr")
    assert tokens.count() == 2
    assert rows.nth(0).inner_text().split("\t")[0].strip() == "a"
    assert "token 1 of 2" in opened.locator("#about").inner_text()
    tokens.nth(1).click()
    assert "probability of it 0.250, entropy 1.25 nats" in opened.locator("#about").inner_text()
    assert rows.nth(0).locator("td").first.inner_text() == "\\n"
    assert opened.locator("#candidates thead th").all_inner_texts() == [
        *("token", "probability", "greedy (1)", "adaptive (1,234)"),
    ]
    assert rows.nth(1).locator("td").all_inner_texts()[2:] == ["", "●"]
    opened.locator("#which").select_option("1")
    assert tokens.count() == 1
    assert rows.nth(0).inner_text().split("\t")[0].strip() == "b"


def test_texts_are_shown_with_what_repeats(opened):
    assert opened.locator(".text mark").all_inner_texts() == ["a b c d"]
    assert opened.get_by_text("x </script> y").is_visible()
    assert opened.get_by_text("empty", exact=True).is_visible()


# --- statistics


def test_words_of_a_run_that_was_there_before_are_marked():
    assert str(marked("a b c d e")) == "a b c d e"
    assert str(marked("a b c d a b c d <e>")) == "a b c d <mark>a b c d</mark> &lt;e&gt;"
    assert str(marked("a b c d x a b c d a b c d")) == "a b c d x <mark>a b c d a b c d</mark>"
    assert str(marked("a b c d a b c")) == "a b c d a b c"


def test_an_interval_over_rows_is_that_of_a_ratio():
    table = np.random.default_rng(0).uniform(1, 9, size=(40, 2))
    found = bootstrap_sums(table, lambda sums: sums[..., 0] / sums[..., 1])
    wanted = bootstrap_ratio(table[:, 0], table[:, 1])
    assert found.estimate == pytest.approx(wanted.estimate)
    assert found.low == pytest.approx(wanted.low, rel=0.05)
    assert found.high == pytest.approx(wanted.high, rel=0.05)
    assert math.isnan(bootstrap_sums(table[:1], lambda sums: sums[..., 0]).low)


def test_an_interval_over_texts_surrounds_its_estimate():
    texts = [f"w{i} w{i + 1} w{i % 7}" for i in range(50)]

    def distinct(found: list[str]) -> float:
        words = " ".join(found).split()
        return len(set(words)) / len(words)

    found = bootstrap_corpus(texts, distinct)
    assert found.estimate == distinct(texts)
    assert found.low < found.estimate < found.high


def test_a_mean_along_texts_is_over_those_that_are_so_long():
    found = mean_along({"a": [[1, 2, 3], [3]], "b": [[5]]}, 4)
    assert found["a"][:3] == [2, 2, 3]
    assert math.isnan(found["a"][3])
    assert found["b"][0] == 5
