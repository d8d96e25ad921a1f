"""How long until the first token is on the screen of `trimtab serve`, against the engine's own time to first token.

    python benchmarks/serve.py MODEL [--repeats 20] [--seed 0]

The same prompts, drawn from the seed, are asked of the engine directly (until the first piece of text of its stream)
and written into the page in Chromium (until the first piece stands in the document), in turns. Reported: medians, their
ratio, and its 95 % interval by a paired bootstrap. MODEL is a run or folder with a dial.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from statistics import median

import httpx
import psutil
from playwright.sync_api import sync_playwright

WORDS = ("rain", "river", "bridge", "lamp", "winter", "garden", "letter", "window", "bread", "market", "ocean", "piano")
MEASURED = """() => new Promise((done) => {
  const start = performance.now();
  document.querySelector("#composer").requestSubmit();
  const look = () => document.querySelector(".turn:last-child .text").textContent && done(performance.now() - start);
  const what = {childList: true, subtree: true, characterData: true};
  new MutationObserver(look).observe(document.querySelector("#turns"), what);
})"""


def engine_of(process: psutil.Process) -> tuple[str, str]:
    """Address and key of the engine below a server."""
    child = next(one for one in process.children() if "trimtab.serving.transformers_app" in one.cmdline())
    host, port = child.cmdline()[-2:]
    return f"http://{host}:{port}", child.environ()["TRIMTAB_ENGINE_KEY"]


def by_engine(url: str, key: str, prompt: str, strength: float) -> float:
    """Milliseconds."""
    body = {
        "messages": [{"role": "user", "content": prompt}], "stream": True, "max_completion_tokens": 4,
        "generation_config": json.dumps({"strength": strength, "do_sample": False}),
    }  # fmt: skip
    start = time.perf_counter()
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=120
    ) as answer:
        took = None
        for line in answer.iter_lines():
            if took is None and '"content":' in line:
                took = 1e3 * (time.perf_counter() - start)
    assert took is not None
    return took


def on_screen(tab, prompt: str) -> float:
    """Milliseconds."""
    tab.locator("#prompt").fill(prompt)
    took = tab.evaluate(MEASURED)
    tab.locator("#status", has_text="All answers are there").wait_for()
    tab.locator(".note", has_text="nats each").wait_for()
    tab.locator("#clear").click()
    return took


def interval(pairs: list[tuple[float, float]], draw: random.Random) -> tuple[float, float]:
    """Of the ratio of medians."""
    found = []
    for _ in range(2000):
        some = draw.choices(pairs, k=len(pairs))
        found.append(median(screen for _, screen in some) / median(engine for engine, _ in some))
    found.sort()
    return found[50], found[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    draw, words = random.Random(given.seed), [sys.executable, "-u", "-m", "trimtab", "serve", given.model]
    with subprocess.Popen(
        [*words, "--port", "0", "--engine", "transformers"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            page = next(found[1] for line in process.stdout if (found := re.match(r"page: (\S+)", line)))
            url, key = engine_of(psutil.Process(process.pid))
            with sync_playwright() as api:
                browser = api.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
                tab = browser.new_page()
                tab.goto(page)
                tab.get_by_role("button", name="Half").click()
                tab.locator("#most").evaluate("e => { e.value = 4 }")
                pairs = []
                for turn in range(given.repeats + 1):
                    prompt = f"Tell me about {' '.join(draw.choices(WORDS, k=30))}."
                    one = (by_engine(url, key, prompt, 0.5), on_screen(tab, prompt))
                    pairs += [one] if turn else []  # the first warms up
                browser.close()
        finally:
            process.terminate()
    engine, screen = (median(values) for values in zip(*pairs, strict=True))
    low, high = interval(pairs, draw)
    print("| seed | repeats | engine, ms | on the screen, ms | ratio | 95 % |\n| --- | --- | --- | --- | --- | --- |")
    ratio = f"{screen / engine:.3f} | {low:.3f} to {high:.3f}"
    print(f"| {given.seed} | {len(pairs)} | {engine:.1f} | {screen:.1f} | {ratio} |")


if __name__ == "__main__":
    main()
