"""Items without end: scenes are chained at random, labelled by the oracle, balanced over relations, put into words."""

import math
import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from trimtab.data.generators.geometry import wording
from trimtab.data.generators.geometry.conditions import NotAsked
from trimtab.data.generators.geometry.oracle import Judgement, Query, judge
from trimtab.data.generators.geometry.plane import Point
from trimtab.data.generators.geometry.plans import NEXT, RECIPES, add_step, possible, rests_on_all
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS
from trimtab.data.generators.geometry.scenes import STOCK, Realisation, Scene, Step, Undecided, scene_of

DEPTHS = (1, 2, 3, 4, 5)
DISTRACTED = 0.25
"""share of the items with a fact that does not matter"""
TRIES, ASKS, BATCH = 200, 30, 24
"""random scenes for a target, and questions to a scene, before they are given up; targets that are sought together"""
REWORDED = 12
"""wordings that are tried until a question belongs to its split and is new"""


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


# ---------------------------------------------------------------- labels


@lru_cache(maxsize=20_000)
def _judged(steps: tuple[Step, ...], query: Query) -> Judgement | None:
    try:
        return judge(scene_of(steps), query)
    except Undecided:
        return None


def forget() -> None:
    """Drop remembered scenes and labels, as in a fresh process."""
    _judged.cache_clear()
    scene_of.cache_clear()


def _offered(drawn: random.Random, kind: str, held: frozenset[str], answer: str, scene: Scene) -> tuple[str, ...]:
    """The names that are offered: all, or for angles three, the right one among them unless none is.

    Angles can be opposite, adjacent or alternate and also add up to 90 degrees, so "complementary" is offered in
    rectangles, where that is ruled out or seen, and where no answer holds always.
    """
    names = [name for name in QUESTIONS[kind].answers if name not in (NONE, CANNOT)]
    if kind not in wording.SHUFFLED:
        return tuple(names)
    right = sorted(held)[:1] if answer == CANNOT else [answer] if answer in held else []
    wrong = [name for name in names if name not in right and (answer == CANNOT or name not in held)]
    if answer != CANNOT and scene.steps[0][0] not in ("rectangle", "square"):
        wrong = [name for name in wrong if name != "complementary"]
    three = {*right, *drawn.sample(wrong, min(3 - len(right), len(wrong)))}
    return tuple(name for name in names if name in three)


def _fill(
    drawn: random.Random, depth: int, wanted: Sequence[Target]
) -> Generator[tuple[Target, Scene, Query, Judgement], Any, None]:
    """Items for the targets until all are met or nothing is found any more; send True to have an item counted.

    A scene is asked several questions. A few realisations tell quickly what the answer may be, and if any target wants
    it, the oracle decides.
    """
    pending = Counter(wanted)
    for _ in range(TRIES * len(wanted)):
        if not pending:
            return
        make = RECIPES[drawn.choice(list(pending)).kinds[0]].scene
        scene = _scene(drawn, make, depth)
        if scene is None:
            continue
        few = [found.points for found in map(scene.realisation, range(4)) if found is not None]
        if len(few) < 3:
            continue
        met = 0
        for _ in range(ASKS):
            there = [target for target in pending if RECIPES[target.kinds[0]].scene is make]
            if not there or met == 3:
                break
            kind = drawn.choice(drawn.choice(there).kinds)
            found = _asked(drawn, scene, kind, few, [target.answer for target in there if kind in target.kinds])
            target = found and next((t for t in there if kind in t.kinds and t.answer == found[1].answer), None)
            if found and target and (yield target, scene, *found):
                met += 1
                pending -= Counter([target])


def _asked(
    drawn: random.Random, scene: Scene, kind: str, few: Sequence[Sequence[Point]], answers: Sequence[str]
) -> tuple[Query, Judgement] | None:
    """A random question with its answer, or nothing if that looks to be none of `answers`."""
    arguments = RECIPES[kind].ask(drawn, scene)
    if arguments is None or not rests_on_all(scene, arguments):
        return None
    held: list[frozenset[str]] = []
    for points in few:
        try:
            held.append(QUESTIONS[kind].relations(scene.plane, *([points[n] for n in a] for a in arguments)))
        except NotAsked:
            return None
        if CANNOT not in answers and held[-1] != held[0]:
            return None
    guesses = [CANNOT] if len(set(held)) > 1 else sorted(held[0]) or [NONE]
    if kind in wording.SHUFFLED and CANNOT not in guesses:
        guesses.append(NONE)  # if the right name is not offered
    guesses = [guess for guess in guesses if guess in answers]
    if not guesses:
        return None
    query = Query(kind, arguments, _offered(drawn, kind, held[0], drawn.choice(guesses), scene))
    judged = _judged(scene.steps, query)
    return (query, judged) if judged else None


def _scene(drawn: random.Random, make: Callable[[random.Random, int], list[Step]], depth: int) -> Scene | None:
    steps = make(drawn, depth)
    scene = scene_of(tuple(steps))
    return scene if possible(steps) and scene.size <= len(wording.ALPHABET) else None


def _distracted(drawn: random.Random, scene: Scene, query: Query, judged: Judgement) -> tuple[Scene, Judgement]:
    """Add a construction that shares at most one point with the query; it counts only if the answer stays."""
    touched = {n for argument in query.arguments for n in argument}
    for _ in range(6):
        steps = list(scene.steps)
        add_step(drawn, steps, NEXT)
        if len(steps) == len(scene.steps) or len(touched & set(steps[-1][1])) > 1:
            continue
        longer = scene_of(tuple(steps))
        again = _judged(longer.steps, query) if longer.size <= len(wording.ALPHABET) else None
        if again is not None and again.answer == judged.answer:
            return longer, again
    return scene, judged


# ---------------------------------------------------------------- rows


def coordinates(found: Realisation, letters: str) -> dict[str, list[str]]:
    """letter -> [x, y] as fractions, y in units of sqrt(unit)."""
    return {letter: [str(Fraction(x, w)), str(Fraction(y, w))] for letter, (x, y, w) in zip(letters, found.points)}


def _drawable(scene: Scene) -> Realisation:
    """Of several realisations the one whose closest points are farthest apart, compared to its size."""
    best, widest = None, -1.0
    for found in filter(None, map(scene.realisation, range(1, 16, 2))):
        flat = [(x / w, y / w * math.sqrt(scene.plane.k)) for x, y, w in found.points]
        apart = [math.dist(p, q) for i, p in enumerate(flat) for q in flat[:i]]
        if min(apart) / max(apart) > widest:
            best, widest = found, min(apart) / max(apart)
    return best or next(filter(None, map(scene.realisation, range(STOCK))))


class Worded(NamedTuple):
    letters: str
    question: str
    options: dict[str, str]
    answer: str


def worded(drawn: random.Random, scene: Scene, query: Query, judged: Judgement) -> Worded:
    """An item in words: other letters, sentences and orders of angle names each time."""
    letters = wording.names(scene, drawn)
    asked, texts = wording.asked(query, letters, drawn)
    text = f"{wording.sentences(scene, letters, drawn)} {wording.CONVENTION} {asked}"
    options = dict(zip("ABCDE", texts.values()))
    return Worded(letters, wording.question(text, options), options, "ABCDE"[list(texts).index(judged.answer)])


def chat(question: str, answer: str) -> list[dict[str, str]]:
    """The `messages` of a row."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": f"Answer: {answer}."}]


def row(words: Worded, scene: Scene, query: Query, judged: Judgement, depth: int, seed: int) -> dict[str, Any]:
    """An item with the official keys and those that the oracle adds."""
    letters, question, options, answer = words
    evidence = judged.evidence
    witnesses = evidence.witnesses if evidence.kind == "counterexample" else ()
    return {
        "messages": chat(question, answer),
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
            "points": coordinates(_drawable(scene), letters),
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
    ready: dict[int, deque[dict[str, Any]]] = {depth: deque() for depth in depths}
    seen: set[str] = set()
    while True:
        for depth in depths:
            if not ready[depth]:
                made = _rows(drawn, depth, list(islice(turns[depth], BATCH)), seed, seen, keep)
                ready[depth].extend(drawn.sample(made, len(made)))
            if ready[depth]:
                yield ready[depth].popleft()


def _rows(
    drawn: random.Random, depth: int, wanted: Sequence[Target], seed: int, seen: set[str], keep: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """A row for each target, as far as they are found; questions are added to those `seen`."""
    rows = []
    items, new = _fill(drawn, depth, wanted), None
    while True:
        try:
            _, scene, query, judged = items.send(new)
        except StopIteration:
            return rows
        if drawn.random() < DISTRACTED:
            scene, judged = _distracted(drawn, scene, query, judged)
        new = False
        for _ in range(REWORDED):
            words = worded(drawn, scene, query, judged)
            if keep(words.question) and words.question not in seen:
                seen.add(words.question)
                rows.append(row(words, scene, query, judged, depth, seed))
                new = True
                break


def _turns(depth: int) -> Iterator[Target]:
    at = 0
    groups = targets(depth)
    while True:
        for group in groups:
            yield group[at % len(group)]
        at += 1
