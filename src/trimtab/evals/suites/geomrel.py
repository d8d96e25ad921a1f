"""GeomRel: which relation holds between lines, points, angles and shapes that are described in words.

Rows are trimtab's own, labelled by computation, or the authors' from a folder of the user: these carry no licence and
do not come with trimtab. Chance and the commonest answer differ by relation, so look at the groups.

Source: arXiv:2501.13773. Its accuracy is the parser "official" with answers that were not understood counted as wrong.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trimtab.data.generators.geometry import items, official_rows, wording
from trimtab.data.generators.geometry.constructions import ALL
from trimtab.data.synthetic import geomrel as bundled
from trimtab.evals import prompts
from trimtab.evals.suite import Item, Messages, Options, Suite, SuiteError, Verdict, chosen, user
from trimtab.rewards.parsing import letter_of


class GeomRelOptions(Options):
    rows: int | None = Field(None, ge=1)
    """How many rows: of the bundled 2,000 or of the folder the first ones, with a seed freshly made ones. None: all."""
    seed: int | None = Field(None, ge=0)
    """Make fresh test rows with this seed; None takes the bundled ones."""
    folder: Path | None = None
    """The authors' files: data/basic and data/advanced of their repository."""
    level: Literal["all", "basic", "advanced"] = "all"
    """Basic rows rest on one construction, advanced ones on several."""
    depths: tuple[int, ...] = ()
    """Keep rows with these numbers of chained constructions; empty for all. The authors' rows do not say theirs."""


# ---------------------------------------------------------------- items


def make(options: GeomRelOptions) -> list[Item]:
    """The items, always the same for the same options.

    Raises:
        SuiteError: if options contradict each other, or nothing is left.
        DataError: if the folder or a row of it is not as expected.
    """
    if unknown := set(options.depths) - set(items.DEPTHS):
        raise SuiteError(f"geomrel.depths is {sorted(unknown)}; depths are 1 to 5")
    if options.folder is not None:
        if options.seed is not None or options.depths:
            raise SuiteError("geomrel.folder cannot go with seed or depths; the authors' rows have neither")
        rows = official_rows.load(options.folder)
    elif options.seed is not None:
        depths = [d for d in options.depths or items.DEPTHS if options.level == "all" or _level(d) == options.level]
        fresh = items.generate(options.seed, depths, keep=wording.is_test) if depths else iter(())
        rows = list(islice(fresh, options.rows or 200))
    else:
        rows = list(bundled("test"))
    rows = [row for row in rows if options.level in ("all", row["level"])]
    if options.depths:
        rows = [row for row in rows if row["depth"] in options.depths]
    if not rows:
        raise SuiteError(f"geomrel: no row has level {options.level} and depths {list(options.depths)}")
    return [_item(number, row) for number, row in enumerate(rows[: options.rows])]


def _level(depth: int) -> str:
    return "basic" if depth == 1 else "advanced"


def _item(number: int, row: Mapping[str, Any]) -> Item:
    groups = {"relation": row["relation"], "level": row["level"], "depth": str(row.get("depth", "unknown"))}
    return Item(
        id=f"{row.get('source', 'geomrel')}-{number}",
        text=row["question"].partition(f"\n{wording.CHOICES}")[0] if "scene" in row else row["text"],
        options=row["options"],
        target=(row["answer"],),
        groups=groups,
        data={key: row[key] for key in ("scene", "evidence") if key in row},
    )


# ---------------------------------------------------------------- prompts


def bare(item: Item, before: Sequence[str] = ()) -> Messages:
    """The question as the rows of `trimtab:geomrel` ask it, and nothing else: for a model that was trained on them."""
    return user(wording.question(item.text, item.options))


# ---------------------------------------------------------------- parsers


def official(answer: str) -> str | None:
    """The last capital letter with a period behind it, as the authors' evaluator takes it: also of "line AB.", and not
    of "(B)"."""
    found = re.findall(r"([A-Z])\.", answer)
    return found[-1] if found else None


def score(item: Item, answer: str) -> dict[str, Verdict]:
    return {"robust": chosen(item, letter_of(answer, item.options)), "official": chosen(item, official(answer))}


# ---------------------------------------------------------------- examples and drawings

EXAMPLES = (
    prompts.Example(
        "KLMN is a rectangle. Which statement about line KL and line LM is right?\n\nA. Parallel\nB. Perpendicular\n"
        "C. Intersecting but not perpendicular\nD. Cannot be inferred",
        "KL and LM are neighbouring sides of the rectangle, so they form its right angle at L.",
        "B",
    ),
    prompts.Example(
        "The point R lies on line ST. Is R between S and T, so that segment ST contains it?\n\nA. Yes\nB. No\n"
        "C. Cannot be inferred",
        "A point of the infinite line may be between S and T or beyond either of them; the text fits both.",
        "C",
    ),
    prompts.Example(
        "Segments WX and YZ cross at V. How are the angles WVY and XVZ related?\n\nA. Vertical angles\n"
        "B. Supplementary angles (a linear pair)\nC. None of the above\nD. Cannot be inferred",
        "VX is opposite to VW and VZ is opposite to VY, so both pairs of arms are opposite.",
        "A",
    ),
    prompts.Example(
        "G is the midpoint of side HJ of triangle HJK. Is segment KG, apart from its ends, strictly inside triangle "
        "HJK?\n\nA. Yes\nB. No\nC. Cannot be inferred",
        "K is a corner and G is inside the opposite side, so every point between them is in the interior.",
        "A",
    ),
)
SIZE, MARGIN = 260, 24


def draw(item: Item) -> str:
    """The stored realisation as an SVG: lines of the text, polygons, circles, and the points' letters."""
    scene = item.data.get("scene")
    if scene is None:
        return f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="20"><text y="14">no scene</text></svg>'
    high = math.sqrt(scene["unit"])
    at = {name: (float(Fraction(x)), high * float(Fraction(y))) for name, (x, y) in scene["points"].items()}
    circles, strokes = [], []
    for name, used in scene["steps"]:
        c = ALL[name]
        named = dict(zip(c.letters, used))
        for centre, rim in c.circles:
            centre_at, rim_at = at[named[centre]], at[named[rim]]
            circles.append((centre_at, math.dist(centre_at, rim_at)))
        for polygon in c.polygons:
            strokes.append([at[named[role]] for role in polygon + polygon[0]])
        for line in c.lines:
            points = sorted(at[named[role]] for role in line)
            strokes.append([points[0], points[-1]])
    for argument in scene["query"]["arguments"][:2]:
        if scene["query"]["kind"] == "line-line" or len(argument) == 3:
            strokes.append([at[letter] for letter in argument])
    boxes = [(x - r, y - r, x + r, y + r) for (x, y), r in circles] + [(x, y, x, y) for x, y in at.values()]
    left, low = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
    scale = (SIZE - 2 * MARGIN) / max(right - left, top - low)

    def spot(p: tuple[float, float]) -> str:
        return f"{MARGIN + (p[0] - left) * scale:.1f},{MARGIN + (top - p[1]) * scale:.1f}"

    width, height = 2 * MARGIN + (right - left) * scale, 2 * MARGIN + (top - low) * scale
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" fill="none" stroke="currentColor" font-family="sans-serif" font-size="12">',
        f"<title>{html.escape(item.text)}</title>",
    ]
    for centre, radius in circles:
        x, y = spot(centre).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="{radius * scale:.1f}"/>')
    parts += [f'<polyline points="{" ".join(map(spot, stroke))}"/>' for stroke in strokes]
    for letter, p in at.items():
        x, y = spot(p).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="2.5" fill="currentColor"/>')
        parts.append(
            f'<text x="{float(x) + 5:.1f}" y="{float(y) - 5:.1f}" fill="currentColor" stroke="none">{letter}</text>'
        )
    return "".join([*parts, "</svg>"])


SUITE = Suite(
    paper="arXiv:2501.13773",
    version="2",
    options=GeomRelOptions,
    items=make,
    prompts={**prompts.variants(EXAMPLES), "bare": (bare,)},
    score=score,
    max_new_tokens=768,
    draw=draw,
)
