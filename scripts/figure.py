"""Write docs/assets/step.svg: memory and time of a training step beside plain PyTorch and TRL, as recorded."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

from pages import DOCS, command

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
PAGE = DOCS / "assets" / "step.svg"
WIDTH, LEFT, BAR, GAP = 720, 210, 20, 8
SPAN = 175
"""pixels of the longest bar of a column"""
COLUMNS = (LEFT, LEFT + SPAN + 85)
STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .quiet { fill: #59636e }
.other { fill: #afb8c1 } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .quiet { fill: #9198a1 } .other { fill: #484f58 } .ours { fill: #4493f8 } }"""


class Bar(NamedTuple):
    """A contestant."""

    name: str
    memory: float
    """MiB at the peak"""
    seconds: float
    ours: bool


def panels() -> dict[str, list[Bar]]:
    """What is compared, and the measurements of each contestant."""
    distil = json.loads((RESULTS / "distill_step.json").read_text(encoding="utf-8"))["cells"]
    rl = json.loads((RESULTS / "rl_step.json").read_text(encoding="utf-8"))
    names = {"trimtab": "trimtab", "plain": "plain PyTorch", "trl-distillation": "TRL, chunked", "trl-gkd": "TRL, GKD"}
    return {
        "Distillation: forward KL, 4 x 512 tokens": [
            Bar(name, distil[key]["memory_mib"], distil[key]["time"]["seconds"], key == "trimtab")
            for key, name in names.items()
        ],
        "RL: an update of GRPO, 16 completions": [
            Bar(name, rl["memory_mib"][key], rl["steps"][key]["seconds"], key == "grpo")
            for key, name in (("grpo", "trimtab"), ("trl", "TRL, GRPO"))
        ],
    }


def picture() -> str:
    """The figure as SVG; the same for the same results."""
    y, parts = 26, [_text(x, 18, what, "quiet") for x, what in zip(COLUMNS, ("peak memory", "time"))]
    for title, bars in panels().items():
        y += 20
        parts.append(_text(10, y, title, "title"))
        y += 12
        for bar in bars:
            parts.append(_text(LEFT - 10, y + 15, bar.name, anchor="end"))
            for x, value, most, said in (
                (COLUMNS[0], bar.memory, max(b.memory for b in bars), f"{bar.memory:,.0f} MiB"),
                (COLUMNS[1], bar.seconds, max(b.seconds for b in bars), f"{bar.seconds:.1f} s"),
            ):
                width = SPAN * value / most
                kind = "ours" if bar.ours else "other"
                parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>')
                parts.append(_text(x + width + 6, y + 15, said))
            y += BAR + GAP
    y += 14
    parts.append(
        _text(10, y, "SmolLM2-135M, float32, two CPU cores; losses and gradients agree. Shorter is better.", "quiet")
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 12}" role="img">'
    title = "<title>Peak memory and time of one training step, trimtab beside plain PyTorch and TRL</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    cls = f' class="{kind}"' if kind else ""
    return f'<text{cls} x="{x:.0f}" y="{y}" text-anchor="{anchor}">{text}</text>'


if __name__ == "__main__":
    sys.exit(command(PAGE, picture, __file__))
