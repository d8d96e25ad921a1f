"""Items without end: scenes are chained at random, labelled by the oracle, balanced over relations, put into words."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from trimtab.data.geometry import wording
from trimtab.data.geometry.constructions import ALL, Construction, sides
from trimtab.data.geometry.oracle import (
    Judgement,
    Query,
    Realisation,
    Scene,
    Step,
    Undecided,
    draw,
    judge,
)
from trimtab.data.geometry.plane import Degenerate
from trimtab.data.geometry.questions import CANNOT, NONE, QUESTIONS, NotAsked

DEPTHS = (1, 2, 3, 4, 5)
DISTRACTED = 0.25
"""share of the items with a fact that does not matter"""
TRIES = 3000
"""random scenes for one target before another is taken"""


class Target(NamedTuple):
    """What a row is to be about; the oracle decides if a scene is."""

    kinds: tuple[str, ...]
    answer: str

    @property
    def code(self) -> str:
        return QUESTIONS[self.kinds[0]].codes[self.answer]


LINES = [Target(("line-line",), name) for name in ("parallel", "perpendicular", "intersecting", CANNOT)]
POINTS = [Target(("line-point",), name) for name in ("yes", "no", CANNOT)]
SEGMENTS = [Target(("segment-shape",), name) for name in ("yes", "no", CANNOT)]
INSIDE = [Target(("point-shape",), name) for name in ("yes", "no", CANNOT)]
ROLES = [
    Target(("median", "altitude", "bisector", "side", "diagonal", "radius", "diameter"), name) for name in ("yes", "no")
] + [Target(("median", "altitude", "bisector"), CANNOT)]
BASIC_ANGLES = [Target(("angles at a crossing",), name) for name in ("vertical", "supplementary", CANNOT)] + [
    Target(("angles in some order",), name) for name in ("opposite", "adjacent", CANNOT)
]
ANGLES = [
    Target(("angles at a transversal",), name) for name in QUESTIONS["angles at a transversal"].codes
] + [
    Target(("angles at a diagonal",), name) for name in QUESTIONS["angles at a diagonal"].codes
]  # fmt: skip


def targets(depth: int) -> list[list[Target]]:
    """By group: groups come equally often, and within a group its relations."""
    if depth == 1:
        return [LINES, POINTS, BASIC_ANGLES, SEGMENTS]
    return [LINES, POINTS, ANGLES, SEGMENTS, ROLES, INSIDE]


# ---------------------------------------------------------------- scenes

_FIRST = [c for c in ALL.values() if c.begins and c.family == "any"]
_NEXT = [c for c in ALL.values() if c.family == "any"]
_ALONG = [ALL[name] for name in ("midpoint", "between", "beyond", "on line")]
_QUADS = [c for c in _FIRST if c.polygons and len(c.polygons[0]) == 4]
_PLAIN_QUADS = [c for c in _QUADS if len(c.letters) == 5]
_SECOND = [c for c in ALL.values() if c.family == "transversal"]


def _begin(c: Construction) -> list[Step]:
    return [(c.name, tuple(range(len(c.letters.replace(">", "")))))]


def _add(drawn: random.Random, steps: list[Step], choices: Sequence[Construction]) -> None:
    """Chain one more construction: it takes points that are there, one of the last step among them if it can."""
    scene, c = Scene(tuple(steps)), drawn.choice(choices)
    if c.takes in ("triangle", "quad", "circle"):
        corners = {"triangle": 3, "quad": 4, "circle": 2}[c.takes]
        there = [shape for shape in shapes(scene) if len(shape) == corners]
        if not there:
            return _add(drawn, steps, [other for other in choices if other is not c])
        taken = list(drawn.choice(there))
        if corners > 2:
            turned = drawn.randrange(corners)
            taken = taken[turned:] + taken[:turned]
    else:
        number, last = len(c.taken), steps[-1][1]
        if number > scene.size:
            return _add(drawn, steps, [other for other in choices if other is not c])
        taken = drawn.sample(range(scene.size), number)
        if not set(taken) & set(last):
            taken[drawn.randrange(number)] = drawn.choice(last)
        if len(set(taken)) < number:
            return None
    steps.append((c.name, (*taken, *range(scene.size, scene.size + len(c.given)))))
    return None


def shapes(scene: Scene) -> list[tuple[int, ...]]:
    """Polygons by their corners, circles by centre and a point on them."""
    return [
        tuple(used[c.letters.index(role)] for role in shape)
        for c, (_, used) in zip(scene.constructions, scene.steps)
        for shape in (*c.polygons, *c.circles)
    ]


def lines(scene: Scene, *, with_sides: bool = True) -> list[set[int]]:
    """Sets of points that the text puts on one line."""
    found: list[set[int]] = []
    for c, (_, used) in zip(scene.constructions, scene.steps):
        words = [*c.lines, *(side for polygon in c.polygons if with_sides for side in sides(polygon))]
        for word in words:
            line = {used[c.letters.index(role)] for role in word}
            for known in [known for known in found if len(known & line) > 1]:
                found.remove(known)
                line |= known
            found.append(line)
    return found


# ---------------------------------------------------------------- queries


def _candidate(drawn: random.Random, kind: str, depth: int) -> tuple[Scene, tuple[tuple[int, ...], ...]] | None:
    """A random scene and arguments for a question of this kind that rest on all its steps."""
    make = _MAKERS.get(kind, _role_query)
    steps, query = make(drawn, depth, kind)
    scene = Scene(tuple(steps))
    if len(steps) != depth or query is None or scene.size > len(wording.ALPHABET):
        return None
    used = [n for argument in query[: 2 if kind in _MAKERS else 1] for n in argument]
    rests = scene.ancestors([n for argument in query for n in argument])
    needed = {0, *range(len(steps))} - {i for i, c in enumerate(scene.constructions) if not c.given}
    if not needed <= (rests if used else set()):
        return None
    return scene, query


def _chain(drawn: random.Random, depth: int, first: Sequence[Construction] = _FIRST) -> list[Step]:
    steps = _begin(drawn.choice(first))
    while len(steps) < depth:
        before = len(steps)
        _add(drawn, steps, _NEXT)
        if len(steps) == before:
            break
    return steps


def _two(drawn: random.Random, steps: list[Step]) -> list[int]:
    """All points in random order, one that the last step gave at the front."""
    scene = Scene(tuple(steps))
    order = drawn.sample(range(scene.size), scene.size)
    c, used = ALL[steps[-1][0]], steps[-1][1]
    new = drawn.choice(used[len(c.taken) :])
    order.remove(new)
    return [new, *order]


def _line_line_query(drawn: random.Random, depth: int, kind: str):
    steps = _chain(drawn, depth)
    new, a, b, *rest = _two(drawn, steps)
    other = drawn.choice([b, new, *rest]) if depth == 1 else drawn.choice([b, *rest])
    one, two = [new, a], [b, drawn.choice([n for n in (a, new, *rest) if n != b])]
    if other == new:
        two = [b, new]
    drawn.shuffle(one)
    drawn.shuffle(two)
    return steps, None if set(one) == set(two) else (tuple(one), tuple(two))


def _line_point_query(drawn: random.Random, depth: int, kind: str):
    steps = _chain(drawn, depth)
    three = _two(drawn, steps)[:3]
    drawn.shuffle(three)
    return steps, ((three[0],), (three[1], three[2]))


def _point_shape_query(drawn: random.Random, depth: int, kind: str):
    steps = _chain(drawn, depth)
    new = _two(drawn, steps)[0]
    there = [shape for shape in shapes(Scene(tuple(steps))) if new not in shape]
    return steps, ((new,), drawn.choice(there)) if there else None


def _segment_shape_query(drawn: random.Random, depth: int, kind: str):
    steps = _chain(drawn, depth)
    ends = _two(drawn, steps)[:2]
    drawn.shuffle(ends)
    there = shapes(Scene(tuple(steps)))
    return steps, (tuple(ends), drawn.choice(there)) if there else None


def _role_query(drawn: random.Random, depth: int, kind: str):
    steps = _chain(drawn, depth)
    ends = _two(drawn, steps)[:2]
    drawn.shuffle(ends)
    corners = {"radius": (2,), "diameter": (2,), "side": (3, 4, 6), "diagonal": (4, 6)}.get(kind, (3,))
    there = [shape for shape in shapes(Scene(tuple(steps))) if len(shape) in corners]
    if kind in ("median", "altitude", "bisector"):
        there = [shape for shape in there if set(ends) & set(shape)]
    return steps, (tuple(ends), drawn.choice(there)) if there else None


def _angle(drawn: random.Random, vertex: int, there: list[set[int]]) -> tuple[int, ...] | None:
    through = [line for line in there if vertex in line]
    if len(through) < 2:
        return None
    one, other = drawn.sample(through, 2)
    return drawn.choice(sorted(one - {vertex})), vertex, drawn.choice(sorted(other - {vertex}))


def _two_angles(drawn: random.Random, steps: list[Step], vertices: Sequence[int], *figure: tuple[int, ...]):
    there = lines(Scene(tuple(steps)))
    one, other = (_angle(drawn, drawn.choice(vertices), there) for _ in range(2))
    if one is None or other is None or set(one) == set(other):
        return steps, None
    return steps, (one, other, *figure)


def _along(drawn: random.Random, steps: list[Step], vertices: Sequence[int], depth: int) -> None:
    """Further points on the arms of angles."""
    while len(steps) < depth:
        scene, vertex = Scene(tuple(steps)), drawn.choice(vertices)
        line = drawn.choice([line for line in lines(scene) if vertex in line])
        arm, c = drawn.choice(sorted(line - {vertex})), drawn.choice(_ALONG)
        steps.append((c.name, (vertex, arm, scene.size)))


def _crossing_query(drawn: random.Random, depth: int, kind: str):
    steps = _begin(drawn.choice([ALL["crossing lines"], ALL["two rays"]]))
    return _two_angles(drawn, steps, (4,))


def _order_query(drawn: random.Random, depth: int, kind: str):
    c = drawn.choice([ALL["corners in some order"], drawn.choice(_QUADS)])
    one, other = drawn.sample(range(4), 2)
    return _begin(c), ((one,), (other,), (0, 1, 2, 3))


def _transversal_query(drawn: random.Random, depth: int, kind: str):
    steps = _begin(ALL["crossing lines"])
    steps.append((drawn.choice(_SECOND).name, tuple(range(8))))  # A B E F G and C D H
    _along(drawn, steps, (4, 7), depth)
    return _two_angles(drawn, steps, (4, 7), (0, 1, 2, 3, 4, 5, 6, 7))


def _diagonal_query(drawn: random.Random, depth: int, kind: str):
    plain = [ALL["rectangle"], ALL["square"], ALL["parallelogram"], ALL["quadrilateral"], ALL["rhombus"]]
    steps = _begin(drawn.choice(plain))
    steps.append(("diagonal", (0, 1, 2, 3)))
    _along(drawn, steps, (0, 1, 2, 3), depth)
    return _two_angles(drawn, steps, (0, 1, 2, 3), (0, 1, 2, 3))


_MAKERS: dict[str, Callable[..., Any]] = {
    "line-line": _line_line_query,
    "line-point": _line_point_query,
    "point-shape": _point_shape_query,
    "segment-shape": _segment_shape_query,
    "angles at a crossing": _crossing_query,
    "angles in some order": _order_query,
    "angles at a transversal": _transversal_query,
    "angles at a diagonal": _diagonal_query,
}


# ---------------------------------------------------------------- labels


@lru_cache(maxsize=20_000)
def _judged(steps: tuple[Step, ...], query: Query) -> Judgement | None:
    try:
        return judge(Scene(steps), query)
    except Undecided:
        return None


def _offered(drawn: random.Random, kind: str, held: frozenset[str], answer: str) -> tuple[str, ...]:
    """The names that are offered: all, or for angles three, the right one among them unless none is."""
    names = [name for name in QUESTIONS[kind].answers if name not in (NONE, CANNOT)]
    if kind not in wording.SHUFFLED:
        return tuple(names)
    if answer == CANNOT:
        right = drawn.sample(sorted(held), min(1, len(held)))
        wrong = [name for name in names if name not in right]
    else:
        right = [answer] if answer in held else []
        wrong = [name for name in names if name not in held]
    return tuple(name for name in names if name in {*right, *drawn.sample(wrong, min(3 - len(right), len(wrong)))})


def _find(drawn: random.Random, target: Target, depth: int) -> tuple[Scene, Query, Judgement] | None:
    """A scene whose answer is the target's. A few realisations tell quickly whether it may be; then the oracle does."""
    for _ in range(TRIES):
        kind = drawn.choice(target.kinds)
        found = _candidate(drawn, kind, depth)
        if found is None:
            continue
        scene, arguments = found
        held = _glance(drawn, scene, kind, arguments)
        if not held:
            continue
        if target.answer == CANNOT:
            if len(set(held)) == 1 and drawn.random() > 0.1:
                continue
        elif len(set(held)) > 1 or (target.answer == NONE) == bool(held[0]):
            continue
        elif target.answer != NONE and target.answer not in held[0]:
            continue
        query = Query(kind, arguments, _offered(drawn, kind, held[0], target.answer))
        judged = _judged(scene.steps, query)
        if judged is not None and judged.answer == target.answer:
            return scene, query, judged
    return None


def _glance(drawn: random.Random, scene: Scene, kind: str, arguments: tuple) -> list[frozenset[str]]:
    """Relations in four realisations, or none at all if the question cannot be asked."""
    held = []
    try:
        for number in range(4):
            points = draw(scene, drawn, special=number % 2 == 1).points
            held.append(QUESTIONS[kind].relations(scene.plane, *([points[n] for n in a] for a in arguments)))
    except NotAsked:
        return held if len(set(held)) > 1 else []
    except (Degenerate, Undecided):
        return []
    return held


def _distract(drawn: random.Random, scene: Scene, query: Query, judged: Judgement) -> Scene:
    """Add a construction that shares at most one point with the query; its label is computed anew."""
    touched = {n for argument in query.arguments for n in argument}
    for _ in range(6):
        steps = list(scene.steps)
        _add(drawn, steps, _NEXT)
        if len(steps) == len(scene.steps) or len(touched & set(steps[-1][1])) > 1:
            continue
        longer = Scene(tuple(steps))
        if longer.size > len(wording.ALPHABET):
            continue
        again = _judged(longer.steps, query)
        if again is not None and again.answer == judged.answer:
            return longer
    return scene


# ---------------------------------------------------------------- rows


def coordinates(found: Realisation, letters: str) -> dict[str, list[str]]:
    """letter -> [x, y] as fractions, y in units of sqrt(unit)."""
    return {
        letter: [str(Fraction(x, w)), str(Fraction(y, w))] for letter, (x, y, w) in zip(letters, found.points)
    }


def _drawable(drawn: random.Random, scene: Scene) -> Realisation:
    """Of several realisations the one whose closest points are farthest apart, compared to its size."""
    best, widest = None, -1.0
    for _ in range(8):
        try:
            found = draw(scene, drawn, special=True)
        except Undecided:
            continue
        flat = [(x / w, y / w * math.sqrt(scene.plane.k)) for x, y, w in found.points]
        apart = [math.dist(p, q) for i, p in enumerate(flat) for q in flat[:i]]
        if min(apart) / max(apart) > widest:
            best, widest = found, min(apart) / max(apart)
    return best or draw(scene, drawn, special=False)


def row(drawn: random.Random, scene: Scene, query: Query, judged: Judgement, depth: int, seed: int) -> dict[str, Any]:
    """An item in words, with the official keys and those that the oracle adds."""
    letters = wording.names(scene, drawn)
    asked, texts = wording.asked(query, letters, drawn)
    text = f"{wording.sentences(scene, letters, drawn)} {wording.CONVENTION} {asked}"
    options = dict(zip("ABCDE", texts.values()))
    answer = "ABCDE"[list(texts).index(judged.answer)]
    question = wording.question(text, options)
    evidence = judged.evidence
    witnesses = evidence.witnesses if evidence.kind == "counterexample" else ()
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"Answer: {answer}."}],
        "question": question,
        "answer": answer,
        "relation": QUESTIONS[query.kind].codes[judged.answer],
        "level": "basic" if depth == 1 else "advanced",
        "depth": depth,
        "scene": {
            "steps": [[name, "".join(letters[n] for n in used)] for name, used in scene.steps],
            "query": {
                "kind": query.kind,
                "arguments": ["".join(letters[n] for n in argument) for argument in query.arguments],
                "offered": list(query.offered),
            },
            "unit": scene.plane.k,
            "points": coordinates(_drawable(drawn, scene), letters),
        },
        "options": options,
        "seed": seed,
        "evidence": {
            "kind": evidence.kind,
            "realisations": evidence.number,
            "witnesses": [{"answer": name, "points": coordinates(found, letters)} for name, found in witnesses],
        },
    }


def generate(
    seed: int = 0,
    depths: Sequence[int] = DEPTHS,
    keep: Callable[[str], bool] = lambda question: True,
) -> Iterator[dict[str, Any]]:
    """Rows without end, balanced: depths by turns, then groups, then relations.

    Args:
        seed: two iterators with the same arguments give the same rows.
        depths: numbers of chained constructions, from 1 to 5.
        keep: of a question, whether it belongs here, such as to one split; no question comes twice.

    Raises:
        ValueError: if a depth is not 1 to 5.
    """
    if not depths or not set(depths) <= set(DEPTHS):
        raise ValueError(f"depths are 1 to 5, not {list(depths)}")
    drawn = random.Random(f"geomrel-{seed}")
    turns = {depth: _turns(depth) for depth in depths}
    seen: set[str] = set()
    while True:
        for depth in depths:
            target = next(turns[depth])
            for _ in range(100):  # of one target, until its question is new and belongs here
                found = _find(drawn, target, depth)
                if found is None:
                    break
                scene, query, judged = found
                if drawn.random() < DISTRACTED:
                    scene = _distract(drawn, scene, query, judged)
                    judged = _judged(scene.steps, query) or judged
                made = row(drawn, scene, query, judged, depth, seed)
                if keep(made["question"]) and made["question"] not in seen:
                    seen.add(made["question"])
                    yield made
                    break


def _turns(depth: int) -> Iterator[Target]:
    at = 0
    groups = targets(depth)
    while True:
        for group in groups:
            yield group[at % len(group)]
        at += 1
