"""Which figures are chained, and what is asked of them."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trimtab.data.generators.geometry.constructions import ALL, Construction, sides
from trimtab.data.generators.geometry.scenes import Scene, Step, Undecided, scene_of

_FIRST = [c for c in ALL.values() if c.begins and c.family == "any"]
NEXT = [c for c in ALL.values() if c.family == "any"]
_TIGHT = [c for c in NEXT if not c.free or c.name in ("between", "beyond", "equilateral triangle", "square")]
"""leave little open, so that more can be said about what they give"""
_ALONG = [ALL[name] for name in ("midpoint", "between", "beyond", "on line")]
_QUADS = [c for c in _FIRST if c.polygons and len(c.polygons[0]) == 4]
_WITH_DIAGONAL = [ALL[name] for name in ("rectangle", "square", "parallelogram", "quadrilateral", "rhombus")]
_SECOND = [c for c in ALL.values() if c.family == "transversal"]


def _begin(c: Construction) -> list[Step]:
    return [(c.name, tuple(range(len(c.letters))))]


def add_step(drawn: random.Random, steps: list[Step], choices: Sequence[Construction]) -> None:
    """Chain one more construction: it takes points that are there, one of the last step among them if it can."""
    scene, c = scene_of(tuple(steps)), drawn.choice(choices)
    if c.takes in ("triangle", "quad", "circle"):
        corners = {"triangle": 3, "quad": 4, "circle": 2}[c.takes]
        there = [shape for shape in shapes(scene) if len(shape) == corners]
        if not there:
            return add_step(drawn, steps, [other for other in choices if other is not c])
        taken = list(drawn.choice(there))
        if corners > 2:
            turned = drawn.randrange(corners)
            taken = taken[turned:] + taken[:turned]
    else:
        number, last = len(c.taken), steps[-1][1]
        if number > scene.size:
            return add_step(drawn, steps, [other for other in choices if other is not c])
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


def lines(scene: Scene) -> list[set[int]]:
    """Sets of points that the text puts on one line."""
    found: list[set[int]] = []
    for c, (_, used) in zip(scene.constructions, scene.steps):
        words = [*c.lines, *(side for polygon in c.polygons for side in sides(polygon))]
        for word in words:
            line = {used[c.letters.index(role)] for role in word}
            for known in [known for known in found if len(known & line) > 1]:
                found.remove(known)
                line |= known
            found.append(line)
    return found


def _chain(drawn: random.Random, depth: int) -> list[Step]:
    steps = _begin(drawn.choice(_FIRST))
    while len(steps) < depth:
        longer = list(steps)
        add_step(drawn, longer, NEXT if drawn.random() < 0.5 else _TIGHT)
        if len(longer) > len(steps) and possible(longer):
            steps = longer
    return steps


def possible(steps: Sequence[Step]) -> bool:
    """Does the text contradict itself, or ask for squares and angles of 60 degrees at once?"""
    try:
        return scene_of(tuple(steps)).possible
    except Undecided:
        return False


def _along(drawn: random.Random, steps: list[Step], vertices: Sequence[int], depth: int) -> list[Step]:
    """Further points on the arms of angles."""
    while len(steps) < depth:
        scene, vertex = scene_of(tuple(steps)), drawn.choice(vertices)
        line = drawn.choice([line for line in lines(scene) if vertex in line])
        arm, c = drawn.choice(sorted(line - {vertex})), drawn.choice(_ALONG)
        steps.append((c.name, (vertex, arm, scene.size)))
    return steps


def _transversal(drawn: random.Random, depth: int) -> list[Step]:
    """A B E F G, then C D H."""
    steps = [*_begin(ALL["crossing lines"]), (drawn.choice(_SECOND).name, tuple(range(8)))]
    return _along(drawn, steps, (4, 7), depth)


def _diagonal(drawn: random.Random, depth: int) -> list[Step]:
    steps = [*_begin(drawn.choice(_WITH_DIAGONAL)), ("diagonal", (0, 1, 2, 3))]
    return _along(drawn, steps, (0, 1, 2, 3), depth)


Arguments = tuple[tuple[int, ...], ...]
"""numbers of points"""


def _mixed(drawn: random.Random, scene: Scene) -> list[int]:
    """All points in random order, but one that the last step gave at the front."""
    order = drawn.sample(range(scene.size), scene.size)
    c, used = scene.constructions[-1], scene.steps[-1][1]
    new = drawn.choice(used[len(c.taken) :])
    order.remove(new)
    return [new, *order]


def _ask_lines(drawn: random.Random, scene: Scene) -> Arguments | None:
    new, a, b, *rest = _mixed(drawn, scene)
    one, other = [new, a], [b, drawn.choice([new, a, *rest])]
    drawn.shuffle(one)
    drawn.shuffle(other)
    both = [tuple(one), tuple(other)]
    drawn.shuffle(both)
    return tuple(both)


def _ask_point(drawn: random.Random, scene: Scene) -> Arguments | None:
    three = _mixed(drawn, scene)[:3]
    drawn.shuffle(three)
    return (three[0],), (three[1], three[2])


def _ask_inside(drawn: random.Random, scene: Scene) -> Arguments | None:
    new = _mixed(drawn, scene)[0]
    there = [shape for shape in shapes(scene) if new not in shape]
    return ((new,), drawn.choice(there)) if there else None


def _ask_segment(*corners: int, attached: bool = False) -> Callable[[random.Random, Scene], Arguments | None]:
    """About a segment and a shape of so many corners (2 for a circle); attached: the segment begins at one of them."""

    def ask(drawn: random.Random, scene: Scene) -> Arguments | None:
        ends = _mixed(drawn, scene)[:2]
        drawn.shuffle(ends)
        there = [s for s in shapes(scene) if len(s) in corners and not (attached and set(s).isdisjoint(ends))]
        return (tuple(ends), drawn.choice(there)) if there else None

    return ask


def _angle(drawn: random.Random, vertex: int, there: list[set[int]]) -> tuple[int, ...] | None:
    through = [line for line in there if vertex in line]
    if len(through) < 2:
        return None
    one, other = drawn.sample(through, 2)
    return drawn.choice(sorted(one - {vertex})), vertex, drawn.choice(sorted(other - {vertex}))


def _ask_angles(vertices: Sequence[int], *figure: int) -> Callable[[random.Random, Scene], Arguments | None]:
    """About two angles at these vertices, with their arms on the lines of the text."""

    def ask(drawn: random.Random, scene: Scene) -> Arguments | None:
        there = lines(scene)
        one, other = (_angle(drawn, drawn.choice(vertices), there) for _ in range(2))
        if one is None or other is None or set(one) == set(other):
            return None
        return (one, other, figure) if figure else (one, other)

    return ask


def _ask_corners(drawn: random.Random, scene: Scene) -> Arguments | None:
    one, other = drawn.sample(range(4), 2)
    return (one,), (other,), (0, 1, 2, 3)


class ItemPlan(NamedTuple):
    scene: Callable[[random.Random, int], list[Step]]
    ask: Callable[[random.Random, Scene], Arguments | None]


def _one_of(*names: str) -> Callable[[random.Random, int], list[Step]]:
    return lambda drawn, depth: _begin(ALL[drawn.choice(names)])


RECIPES = {
    "line-line": ItemPlan(_chain, _ask_lines),
    "line-point": ItemPlan(_chain, _ask_point),
    "point-shape": ItemPlan(_chain, _ask_inside),
    "segment-shape": ItemPlan(_chain, _ask_segment(2, 3, 4, 6)),
    "angles at a crossing": ItemPlan(_one_of("crossing lines", "two rays"), _ask_angles((4,))),
    "angles in some order": ItemPlan(
        _one_of(*["corners in some order"] * len(_QUADS), *(c.name for c in _QUADS)), _ask_corners
    ),
    "angles at a transversal": ItemPlan(_transversal, _ask_angles((4, 7), *range(8))),
    "angles at a diagonal": ItemPlan(_diagonal, _ask_angles((0, 1, 2, 3), *range(4))),
    "radius": ItemPlan(_chain, _ask_segment(2, attached=True)),
    "diameter": ItemPlan(_chain, _ask_segment(2)),
    "side": ItemPlan(_chain, _ask_segment(3, 4, 6, attached=True)),
    "diagonal": ItemPlan(_chain, _ask_segment(4, 6, attached=True)),
    "median": ItemPlan(_chain, _ask_segment(3, attached=True)),
    "altitude": ItemPlan(_chain, _ask_segment(3, attached=True)),
    "bisector": ItemPlan(_chain, _ask_segment(3, attached=True)),
}


def rests_on_all(scene: Scene, arguments: Arguments) -> bool:
    """Do the points of a query need every step that gives a point?"""
    found = scene.ancestors([n for argument in arguments for n in argument])
    return all(i in found or not c.given for i, c in enumerate(scene.constructions))
