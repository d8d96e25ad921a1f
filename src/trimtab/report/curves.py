"""Every logged number over training steps, one small drawing each, as SVG for the page."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.report.labels import label
from trimtab.report.measures import MEASURES
from trimtab.report.reading import Run

COLOURS = 8
"""distinct colours the page defines; further runs repeat them dashed"""
COUNTERS = ("epoch", "answer_tokens", "tokens_read", "num_tokens", "seconds")
"""these only grow: drawn as they are, on a linear scale"""
LAST = ("learning_rate", "grad_norm", *COUNTERS)
NO_METRIC = {"event", "step", "time"}
NO_EVAL_METRIC = NO_METRIC | {"rows", "tokens"}
MEANINGS = {
    "loss": "What the optimizer minimises. Its scale depends on the method: compare trends, not levels.",
    "nll": "Negative log-likelihood of an answer token, in nats; the logarithm of perplexity.",
    "matched": "Share of answer tokens at which the vocabularies of policy and teacher were compared.",
    "aligned": "Share of answer tokens inside a stretch of text that ends where a token ends on both sides.",
    "covered_mass": "The teacher's probability of the most likely tokens, which were compared one by one.",
    "divergence": "How far the policy's next-token distribution is from its teacher's, in nats per answer token.",
    "ratio": "Probability of an answer token over that under the snapshot; 1 at the start of a window.",
    "log_ratio": "Logarithm of that ratio.",
    "clip_fraction": "Share of answer tokens whose ratio is beyond the clip, so that they have no gradient.",
    "strong_ratio": "Log-ratio of the policy to its reference, in nats per answer token.",
    "weak_ratio": "Log-ratio of the weak pair, in nats per answer token: the change that is transferred.",
    "consistency": "Divergence between the distributions over an answer's token after two rationales, in nats.",
    "answer_agreement": "Share of compared answer tokens with the same most likely token after both rationales.",
    "accuracy": "Share of pairs whose chosen answer has the higher implicit reward.",
    "margin": "How much more reward the chosen answer has than the rejected one.",
    "reward_chosen": "beta times the log-ratio of a whole chosen answer to the reference.",
    "reward_rejected": "beta times the log-ratio of a whole rejected answer to the reference.",
    "learning_rate": "Step size of the optimizer.",
    "grad_norm": "Length of the gradient before clipping; sudden peaks are a sign of instability.",
    "epoch": "Passes over the training rows.",
    "answer_tokens": "Answer tokens trained on so far.",
    "seconds": "Seconds of training so far, evaluations left out.",
    "teacher_nll": "The teacher's negative log-likelihood of a held-out answer token, in nats; constant.",
} | {measure.event_key: measure.meaning for measure in MEASURES}

Points = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Curve:
    key: str
    title: str
    """in words"""
    meaning: str
    remarks: str
    """what a reader must know of the drawing: log scale, smoothing, values left out"""
    svg: str
    """empty where no value is finite"""


def curves(runs: Sequence[Run]) -> list[Curve]:
    """Draw each scalar of the training and evaluation events, held-out measures first."""
    measured = _keys([event for run in runs for event in run.evals], NO_EVAL_METRIC)
    trained = _keys([event for run in runs for event in run.train], NO_METRIC)
    first = [*(measure.event_key for measure in MEASURES if measure.event_key in measured), "loss"]
    middle = [key for key in (*measured, *trained) if key not in LAST]
    logged = {*measured, *trained}
    return [_curve(key, runs) for key in dict.fromkeys([*first, *middle, *LAST]) if key in logged]


def is_log(values: NDArray[np.float64]) -> bool:
    """True for positive values that span more than two decades."""
    return bool(values.size and values.min() > 0 and values.max() / values.min() > 100)


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of up to `width` values around each one, fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, end = np.maximum(index - width // 2, 0), np.minimum(index + (width + 1) // 2, len(values))
    return (sums[end] - sums[start]) / (end - start)


def points(events: Sequence[dict[str, Any]], key: str) -> Points:
    """Steps and values of a metric; null stands for a NaN."""
    found = [(event["step"], event[key]) for event in events if key in event and _is_number(event[key])]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _keys(events: Sequence[dict[str, Any]], without: set[str]) -> list[str]:
    return list(
        dict.fromkeys(
            key for event in events for key, entry in event.items() if _is_number(entry) and key not in without
        )
    )


def _is_number(entry: Any) -> bool:
    return entry is None or (isinstance(entry, int | float) and not isinstance(entry, bool))


def _curve(key: str, runs: Sequence[Run]) -> Curve:
    trained = [points(run.train, key) for run in runs]
    measured = [points([] if key in NO_EVAL_METRIC else run.evals, key) for run in runs]
    values = np.concatenate([values for _, values in trained + measured])
    finite = values[np.isfinite(values)]
    width = 1 if key in (*COUNTERS, "learning_rate") else max(1, max(len(steps) for steps, _ in trained) // 40)
    log = is_log(finite) and key not in COUNTERS
    remarks = []
    if log:
        remarks.append("logarithmic scale")
    if width > 1:
        remarks.append(f"thick: mean of {width} logged values")
    if len(finite) < len(values):
        remarks.append(f"{len(values) - len(finite)} non-finite values are omitted")
    svg = _draw(key, trained, measured, log, width) if finite.size else ""
    return Curve(key, label(key), MEANINGS.get(key, ""), "; ".join(remarks), svg)


def _draw(key: str, trained: list[Points], measured: list[Points], log: bool, width: int) -> str:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    one_run = len(trained) == 1

    def paint(axes: Any) -> None:
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        for index, ((steps, values), (eval_steps, eval_values)) in enumerate(zip(trained, measured, strict=True)):
            colour = run_colour(index)
            eval_colour = run_colour(1) if one_run else colour
            dash = "-" if index < COLOURS else "--"
            good = np.isfinite(values)
            if width > 1 and good.any():
                axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
                axes.plot(steps[good], running_mean(values[good], width), dash, color=colour, linewidth=1.8)
            else:
                axes.plot(steps, values, dash, color=colour, linewidth=1.5, marker="." if len(steps) < 3 else "")
            good = np.isfinite(eval_values)
            axes.plot(
                *(eval_steps[good], eval_values[good], dash),
                color=eval_colour,
                linewidth=1.5,
                marker="o",
                markersize=4.5,
                clip_on=False,
            )

    return drawing(key, "step", log, paint)


INK, GRID = "#0a0b01", "#0a0b02"
"""placeholders: the page's style sheet gives the colours, light or dark"""


def run_colour(index: int) -> str:
    """A placeholder for the colour that the page gives a run."""
    return f"#0c00{index % COLOURS:02x}"


def drawing(salt: str, xlabel: str, log: bool, paint: Callable[[Any], None]) -> str:
    """SVG of axes that `paint` draws on.

    Args:
        salt: of the ids in the drawing, different for each drawing of a page.
        xlabel: what runs along the horizontal axis.
        log: whether the vertical axis is logarithmic.
        paint: is given matplotlib's axes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 9.5}):
        figure = Figure(figsize=(4.4, 2.3))
        figure.subplots_adjust(left=0.14, right=0.985, bottom=0.2, top=0.97)
        axes = figure.add_subplot()
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.4g}"))
        axes.set_xlabel(xlabel, color=INK, parse_math=False)
        axes.tick_params(which="both", colors=INK, length=0)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(INK)
        paint(axes)
        target = io.StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    return _inline(target.getvalue())


def _inline(svg: str) -> str:
    """Only what a page needs: no header, no metadata, no sizes, no unused ids; colours from the style sheet."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    viewbox = re.search(r'viewBox="([^"]*)"', svg)
    assert viewbox, "matplotlib writes a viewBox"
    svg = re.sub(r"^<svg[^>]*>", f'<svg viewBox="{viewbox[1]}" role="img">', svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r" font-family: [^;\"]*;|<g/>", "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = svg.replace("xlink:href", "href").replace(INK, "var(--muted)").replace(GRID, "var(--line)")
    return re.sub(r"#0c00([0-9a-f]{2})", lambda found: f"var(--run-{int(found[1], 16)})", svg)
