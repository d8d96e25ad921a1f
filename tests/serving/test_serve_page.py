"""The page of `trimtab serve` in Chromium: dials, answers side by side, colours, export, nothing from elsewhere."""

import json

import pytest

from trimtab.data.sources import load_rows

WAIT = 60_000


@pytest.fixture
def tab(site, browser):
    yield from opened(site, browser)


def opened(site, browser, problems_wanted=0, **how):
    context = browser.new_context(**how)
    tab = context.new_page()
    tab.set_default_timeout(WAIT)
    asked, problems = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(f"{site.url}/#token={site.token}")
    tab.locator("#composer").wait_for()
    yield tab
    assert all(url.startswith((site.url, "data:", "blob:")) for url in asked), asked
    assert not any(site.token in url for url in asked[1:])
    assert len(problems) == problems_wanted, problems
    context.close()


def send(tab, text, tokens=12):
    tab.locator("#most").evaluate("(e, value) => { e.value = value }", tokens)
    tab.locator("#prompt").fill(text)
    tab.locator("#prompt").press("Enter")
    tab.locator("#status", has_text="All answers are there").wait_for()
    cards = tab.locator(".turn").last.locator(".answer")
    for at in range(cards.count()):
        cards.nth(at).locator(".note", has_text="nats each").wait_for()
    return cards


def test_the_slider_has_the_recommended_range_and_moves_by_keyboard(tab):
    slider = tab.get_by_label("Strength 1", exact=True)
    assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("-0.5", "1.5")
    slider.focus()
    slider.press("ArrowRight")
    assert tab.locator(".dial output").first.inner_text() == "0.1"
    assert slider.get_attribute("aria-valuetext") == "strength 0.1"
    slider.press("End")
    assert tab.locator(".dial output").first.inner_text() == "1.5"
    assert tab.evaluate("() => location.hash") == ""


def test_answers_at_several_strengths_stand_side_by_side_and_are_coloured(tab, site):
    tab.get_by_role("button", name="0, ½, 1").click()
    cards = send(tab, "count 3")
    assert cards.locator("h3").all_inner_texts() == ["strength 0", "strength 0.5", "strength 1"]
    boxes = [card.bounding_box() for card in cards.all()]
    assert len({box["y"] for box in boxes}) == 1
    assert len({card.locator(".text").inner_text() for card in cards.all()}) == 3
    painted = [card.locator(".text span[style*=background]").count() for card in cards.all()]
    assert painted[0] == 0
    assert min(painted[1:]) > 0
    tab.locator("#colours").uncheck()
    assert [card.locator(".text span[style*=rgba]").count() for card in cards.all()] == [0, 0, 0]


def test_a_token_says_its_change_by_keyboard(tab):
    card = send(tab, "count 3").nth(1)
    card.locator(".text").focus()
    tab.keyboard.press("ArrowRight")
    assert "times as likely as at 0" in card.locator(".note").inner_text()
    assert card.locator(".now").count() == 1
    tab.keyboard.press("Escape")
    assert card.locator(".now").count() == 0


def test_a_conversation_goes_on_from_the_chosen_answer_and_is_exported_as_rows(tab, tmp_path):
    first = send(tab, "count 3")
    first.nth(1).get_by_role("radio").check()
    chosen = tab.evaluate("() => turns[0].answers[1].text")
    send(tab, "and 4?")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["strength"] for row in rows] == [0, 1, 0, 1]
    assert [one["role"] for one in rows[3]["messages"]] == ["user", "assistant", "user", "assistant"]
    assert rows[2]["messages"][1]["content"] == chosen == rows[1]["messages"][1]["content"]
    assert [row["messages"] for row in load_rows(str(path))] == [row["messages"] for row in rows]


def test_text_of_a_model_or_user_is_never_markup(tab):
    cards = send(tab, "<img src=x onerror=alert(1)><b>bold</b>")
    assert tab.locator("#turns b, #turns img").count() == 0
    assert tab.locator(".asked").inner_text() == "<img src=x onerror=alert(1)><b>bold</b>"
    assert cards.count() == 2


STOP_AT_ONCE = """() => {
  const watch = new MutationObserver(() => {
    const stop = [...document.querySelectorAll("button")].find((one) => one.textContent.trim() === "Stop");
    if (stop && document.querySelector(".answer .text:not(.waiting)")) { watch.disconnect(); stop.click(); }
  });
  watch.observe(document.body, { childList: true, subtree: true, characterData: true, attributes: true });
}"""
"""in the page itself: the model of the tests has written its answer before a busy browser hears of a click"""


def test_answers_stream_and_stop(tab):
    tab.locator("#most").evaluate("e => { e.value = 450 }")
    tab.locator("#prompt").fill("count 3")
    tab.evaluate(STOP_AT_ONCE)
    tab.locator("#prompt").press("Enter")
    tab.locator("#status", has_text="All answers are there").wait_for()
    assert 0 < len(tab.locator(".answer .text").first.inner_text()) < 440


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_columns_stand_below_each_other_and_nothing_is_cut_off(site, browser, scheme):
    size = {"width": 360, "height": 740}
    for tab in opened(site, browser, viewport=size, color_scheme=scheme, is_mobile=True, has_touch=True):
        cards = send(tab, "count " + "3" * 80)
        boxes = [card.bounding_box() for card in cards.all()]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        assert tab.evaluate("() => document.documentElement.scrollWidth") == 360
        paper = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 23, 26)") == (scheme == "dark")
        small = tab.locator("button:visible, #prompt").evaluate_all(
            "all => all.filter((e) => e.getBoundingClientRect().height < 32).length"
        )
        assert small == 0


def test_every_control_has_a_name(tab):
    unnamed = tab.locator("input:visible, textarea:visible, button:visible").evaluate_all(
        "all => all.filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map((e) => e.id)"
    )
    assert unnamed == []


def test_an_error_is_said_in_its_column(site, browser):
    for tab in opened(site, browser, problems_wanted=2):  # Chromium logs each HTTP 400
        tab.locator("#prompt").fill("x" * 600)
        tab.locator("#prompt").press("Enter")
        tab.locator("#status", has_text="2 of 2 answers failed").wait_for()
        assert "the model reads 512" in tab.locator(".note").first.inner_text()


def test_without_a_token_the_page_asks_for_one(site, browser):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(site.url)
    tab.locator("#token").fill("wrong-token")
    tab.locator("#token").press("Enter")
    tab.get_by_text("This token is wrong.").wait_for()
    tab.locator("#token").fill(site.token)
    tab.locator("#token").press("Enter")
    tab.locator("#composer").wait_for()
    assert tab.locator("h1").inner_text() == "tiny"
    context.close()
