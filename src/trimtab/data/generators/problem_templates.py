"""Word problems and equations with room for numbers, and how these are drawn."""

from random import Random

from trimtab.data.generators.problems import Draw, Template, within


def _small(text: str, *written: str) -> Template:
    draw = within(*[(2, 12)] * len(set(text) & set("abcd")))
    return Template(text, (f"{text}=?", f"{text}?"), tuple(f": {step}" for step in written), draw, small=True)


def _expression(text: str, *written: str, draw: Draw) -> Template:
    wordings = ("What is {0}?", "Compute {0}.", "Evaluate {0}.", "Work out {0} step by step.", "{0} = ?")
    return Template(text, tuple(wording.format(text) for wording in wordings), written, draw)


def _equation(text: str, *written: str, draw: Draw) -> Template:
    wordings = ("Solve {0} for x.", "Solve for x: {0}.", "Find x if {0}.", "What is x when {0}?", "{0}. What is x?")
    return Template(text, tuple(wording.format(text) for wording in wordings), written, draw, algebra=True)


def _shared(drawn: Random) -> tuple[int, ...]:
    bags, sweets, children, each = (drawn.randint(*r) for r in ((2, 9), (3, 20), (2, 9), (4, 30)))
    return bags, sweets, children * each - bags * sweets, children, drawn.randint(2, each)


def _boxed(drawn: Random) -> tuple[int, ...]:
    machines, parts, hours, size = (drawn.randint(*r) for r in ((2, 6), (3, 15), (2, 8), (2, 12)))
    made = machines * parts * hours
    return machines, parts, hours, made % size + size * drawn.randint(1, 3), size


def _read(drawn: Random) -> tuple[int, ...]:
    pages, days, rest, each = (drawn.randint(*r) for r in ((5, 40), (2, 9), (2, 9), (5, 40)))
    return pages * days + rest * each, pages, days, rest


def _eggs(drawn: Random) -> tuple[int, ...]:
    dozens, broken, size = drawn.randint(2, 15), drawn.randint(2, 20), drawn.randint(2, 10)
    return dozens, broken, (12 * dozens - broken) % size + size * drawn.randint(1, 3), size


def _one_in(drawn: Random) -> tuple[int, ...]:
    part, every = drawn.randint(3, 40), drawn.randint(2, 9)
    return part * every, every, drawn.randint(2, 60)


def _stall(drawn: Random) -> tuple[int, ...]:
    sold = drawn.sample(range(2, 12), 6)
    income, friends = sum(n * price for n, price in zip(sold[::2], sold[1::2])), drawn.randint(2, 6)
    return *sold, income % friends + friends * drawn.randint(1, 9), friends


def _party(drawn: Random) -> tuple[int, ...]:
    a, b, c, d, broken, children = drawn.sample(range(2, 14), 6)
    return a, b, c, d, broken, (a * b + c * d - broken) % children + children * drawn.randint(1, 2), children


def _aged(drawn: Random) -> tuple[int, ...]:
    years, times, friend = drawn.randint(2, 20), drawn.randint(2, 6), drawn.randint(6, 30)
    return times * friend - years, years, times, drawn.randint(2, 12)


def _chain(drawn: Random) -> tuple[int, ...]:
    a, b, c, e, f = (drawn.randint(*r) for r in ((2, 20), (2, 20), (2, 9), (2, 9), (2, 40)))
    return a, b, c, (a + b) * c % e + e * drawn.randint(0, 5), e, f


def _quotient(drawn: Random) -> tuple[int, ...]:
    b = drawn.randint(2, 9)
    return b * drawn.randint(3, 30), b, drawn.randint(2, 12), drawn.randint(2, 12), drawn.randint(2, 90)


def _root(drawn: Random) -> tuple[int, int, int]:
    """a, p, q of a x with x = p / q."""
    q = drawn.choice((1, 2, 3))
    return q * drawn.randint(2, 12), drawn.randint(2, 30), q


def _plus(drawn: Random) -> tuple[int, ...]:
    (a, p, q), b = _root(drawn), drawn.randint(2, 60)
    return a, b, a * p // q + b


def _minus(drawn: Random) -> tuple[int, ...]:
    (a, p, q), b = _root(drawn), drawn.randint(2, 60)
    return a, b, a * p // q - b


def _divided(drawn: Random) -> tuple[int, ...]:
    a, b = drawn.randint(2, 12), drawn.randint(2, 60)
    return a, b, drawn.randint(2, 40) + b


def _bracket(drawn: Random) -> tuple[int, ...]:
    a, b, x = drawn.randint(2, 12), drawn.randint(2, 30), drawn.randint(2, 40)
    return a, b, a * (x + b)


def _both_sides(drawn: Random) -> tuple[int, ...]:
    (a, p, q), b, c = _root(drawn), drawn.randint(2, 60), drawn.randint(2, 9)
    return a + c, b, c, a * p // q + b


def _nested(drawn: Random) -> tuple[int, ...]:
    a, b, c, x = (drawn.randint(*r) for r in ((2, 12), (2, 30), (2, 60), (2, 40)))
    return a, b, c, a * (x - b) + c


def _twice(drawn: Random) -> tuple[int, ...]:
    a, b, c, x = (drawn.randint(*r) for r in ((2, 9), (2, 9), (2, 60), (2, 30)))
    return a, b, c, (a + b) * x + c


def _scaled(drawn: Random) -> tuple[int, ...]:
    a, b, x = drawn.randint(2, 12), drawn.randint(2, 9), drawn.randint(2, 12)
    return a, b, x * a  # x b is the root


NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ida",
    "Jack",
    "Lena",
    "Omar",
    "Sara",
    "Tom",
)
THINGS = ("pens", "books", "apples", "cards", "cups", "shirts", "stamps", "balls", "plates", "flowers", "toys", "plums")
TEMPLATES: tuple[Template, ...] = (
    Template(
        "change",
        (
            "{who} buys {a} {thing} for {b} dollars each and {c} {other} for {d} dollars each. How much change does "
            "{who} get from {e} dollars?",
            "At a shop {who} takes {a} {thing} at {b} dollars apiece and {c} {other} at {d} dollars apiece, and pays "
            "with {e} dollars. How many dollars come back?",
            "{who} needs {a} {thing} ({b} dollars each) and {c} {other} ({d} dollars each). What is left of {e} "
            "dollars?",
        ),
        ("{thing}: a * b", "{other}: c * d", "Cost: A + B", "Left: e - C"),
        within((2, 12), (2, 15), (2, 12), (2, 15), (60, 400)),
    ),
    Template(
        "bill",
        (
            "{who} buys {a} {thing} at {b} dollars each, {c} {other} at {d} dollars each and a bag for {e} dollars. "
            "What does {who} pay?",
            "A shop sends {a} {thing} at {b} dollars and {c} {other} at {d} dollars. Sending costs {e} dollars. How "
            "much is the bill?",
            "What is the total for {a} {thing} at {b} dollars each, {c} {other} at {d} dollars each and one lamp for "
            "{e} dollars?",
        ),
        ("{thing}: a * b", "{other}: c * d", "Total: A + B + e"),
        within((2, 12), (2, 20), (2, 12), (2, 20), (2, 60)),
    ),
    Template(
        "party",
        (
            "{who} brings {a} boxes of {b} {thing} and {c} boxes of {d} {other}. {e} break and {f} are kept. The rest "
            "is shared equally by {g} children. How many things does each child get?",
            "There are {a} bags with {b} {thing} and {c} bags with {d} {other}. {e} are lost and {f} are sold; {g} "
            "children share what is left. How many does one child get?",
            "{who} packs {a} times {b} {thing} and {c} times {d} {other}, throws {e} away and keeps {f}. {g} friends "
            "get equal parts of the rest. How many is that for each?",
        ),
        ("{thing}: a * b", "{other}: c * d", "All: A + B", "Rest: C - e - f", "Each: D / g"),
        _party,
    ),
    Template(
        "trip",
        (
            "A car drives {a} hours at {b} km per hour and then {c} hours at {d} km per hour. The trip is {e} km "
            "long. How many km are left?",
            "{who} rides for {a} hours at {b} km per hour, then for {c} hours at {d} km per hour. How far is it still "
            "if the whole way is {e} km?",
            "A bus goes {a} hours with {b} km per hour and {c} hours with {d} km per hour. How much of its {e} km "
            "remains?",
        ),
        ("First part: a * b", "Second part: c * d", "Driven: A + B", "Left: e - C"),
        within((2, 9), (10, 90), (2, 9), (10, 90), (100, 999)),
    ),
    Template(
        "walk",
        (
            "{who} walks {a} km on Monday and {b} km on Tuesday. {friend} walks {c} times as far as {who} and then "
            "{d} km more. How many km does {friend} walk?",
            "A boat sails {a} km and then {b} km. A ship sails {c} times that way and {d} km on top. How far does the "
            "ship sail?",
            "{who} runs {a} km in May and {b} km in June. {friend} runs {c} times as much, plus {d} km. How many km "
            "does {friend} run?",
        ),
        ("Together: a + b", "Times: A * c", "Way: B + d"),
        within((3, 60), (3, 60), (2, 9), (2, 60)),
    ),
    Template(
        "film",
        (
            "A film lasts {a} hours and {b} minutes. {who} has seen {c} minutes of it. How many minutes are left?",
            "A concert takes {a} hours and {b} minutes. How many minutes remain after {c} minutes?",
            "{who} must practise for {a} hours and {b} minutes and has done {c} minutes. How many minutes are still "
            "to do?",
        ),
        ("Minutes: a * 60", "Length: A + b", "Left: B - c"),
        within((2, 6), (5, 59), (10, 200)),
    ),
    Template(
        "ship",
        (
            "A ship needs {a} days and {b} hours. {c} hours are over. How many hours are left?",
            "{who} waits for {a} days and {b} hours. After {c} hours, how many hours are still to wait?",
            "A journey takes {a} days and {b} hours. How many hours remain when {c} hours have passed?",
        ),
        ("Hours: a * 24", "In all: A + b", "Left: B - c"),
        within((2, 15), (3, 23), (10, 200)),
    ),
    Template(
        "savings",
        (
            "For {a} weeks {who} saves {b} dollars a day. {who} had {c} dollars before and now buys a bike for {d} "
            "dollars. How much is left?",
            "In {a} weeks {who} puts {b} dollars a day into a box that held {c} dollars. Then {d} dollars are taken "
            "out. How many dollars are in the box?",
            "{who} earns {b} dollars a day for {a} weeks, gets {c} dollars as a present and spends {d} dollars. How "
            "many dollars remain?",
        ),
        ("Days: a * 7", "Saved: A * b", "Sum: B + c", "Left: C - d"),
        within((2, 12), (2, 9), (5, 99), (20, 400)),
    ),
    Template(
        "sharing",
        (
            "{who} has {a} bags of {b} {thing} and finds {c} more. {d} children share them equally. Each gives {e} "
            "away. How many does each child have then?",
            "{a} boxes hold {b} {thing} each, and {c} lie beside them. {d} friends take equal parts and lose {e} "
            "each. How many does each friend keep?",
            "There are {a} rows of {b} {thing} and {c} others. {d} people get the same number, and each sells {e}. "
            "How many has each one left?",
        ),
        ("{thing}: a * b", "All: A + c", "Each: B / d", "Kept: C - e"),
        _shared,
    ),
    Template(
        "factory",
        (
            "{a} machines make {b} parts an hour each. They run for {c} hours. {d} parts are bad and the rest goes "
            "into boxes of {e}. How many boxes are filled?",
            "{a} workers make {b} toys each in an hour and work {c} hours. {d} toys are sold at once, the others are "
            "packed by {e}. How many packs are there?",
            "{a} cooks bake {b} rolls each in an hour, for {c} hours. {d} rolls are eaten; the rest is put into bags "
            "of {e}. How many bags are there?",
        ),
        ("In an hour: a * b", "Made: A * c", "Good: B - d", "Packs: C / e"),
        _boxed,
    ),
    Template(
        "ages",
        (
            "{who} is {a} years old and {friend} is {b} years older. Their teacher is {c} times as old as {friend}. "
            "How old are the three together?",
            "{who} is {a}. {friend} is {b} years older than {who}, and their aunt is {c} times {friend}'s age. What "
            "is the sum of the three ages?",
            "The age of {who} is {a}; {friend} has {b} years more. Grandmother is {c} times as old as {friend}. How "
            "many years have all three?",
        ),
        ("{friend}: a + b", "Oldest: A * c", "Together: a + A + B"),
        within((4, 30), (2, 20), (2, 4)),
    ),
    Template(
        "old times",
        (
            "{who} is {a} years old. In {b} years {who} will be {c} times as old as {friend} is now. {friend} is {d} "
            "years older than a cousin. How old is the cousin now?",
            "In {b} years {who}, now {a}, will be {c} times as old as {friend} is today. {friend}'s brother is {d} "
            "years younger than {friend}. How old is the brother today?",
            "{who} is {a} now. Divide {who}'s age in {b} years by {c} and you have the age of {friend}. {friend}'s "
            "sister is {d} years younger. How old is she?",
        ),
        ("Then: a + b", "{friend}: A / c", "Younger: B - d"),
        _aged,
    ),
    Template(
        "fence",
        (
            "A garden is {a} m long and {b} m wide. A fence around it costs {c} dollars a metre and the gate {d} "
            "dollars. What is the cost?",
            "A field of {a} m by {b} m gets a fence on all sides at {c} dollars a metre, and a door for {d} dollars. "
            "How many dollars is that?",
            "Wire goes once around a yard that is {a} m long and {b} m wide. A metre costs {c} dollars, the posts "
            "cost {d} dollars. What does all cost?",
        ),
        ("Two sides: a + b", "Around: A * 2", "Wire: B * c", "Total: C + d"),
        within((3, 40), (3, 40), (3, 9), (5, 99)),
    ),
    Template(
        "reading",
        (
            "A book has {a} pages. {who} reads {b} pages a day for {c} days and the rest in {d} days. How many pages "
            "a day is that at the end?",
            "{who} must copy {a} pages: {b} a day for {c} days, then equal parts on {d} days. How many pages are "
            "copied on each of the last days?",
            "Of {a} pages {who} reads {b} on each of {c} days. The others are spread evenly over {d} days. How many "
            "pages come on each of these?",
        ),
        ("Read: b * c", "Rest: a - A", "A day: B / d"),
        _read,
    ),
    Template(
        "eggs",
        (
            "{who} has {a} dozen eggs. {b} break and {c} are eaten. The rest goes into boxes of {d}. How many boxes "
            "are needed?",
            "A shop gets {a} dozen rolls, sells {b} in the morning and {c} at noon, and packs the others by {d}. How "
            "many packs are there?",
            "From {a} dozen roses {b} are faded and {c} are given away. How many bunches of {d} can be made of the "
            "rest?",
        ),
        ("Pieces: a * 12", "Rest: A - b - c", "Packs: B / d"),
        _eggs,
    ),
    Template(
        "wages",
        (
            "{who} works {a} hours at {b} dollars an hour and {c} hours at {d} dollars an hour. {e} dollars go to tax "
            "and {f} to rent. How many dollars are left?",
            "For {a} hours {who} gets {b} dollars an hour, for {c} more hours {d} dollars an hour. {who} pays {e} "
            "dollars for food and {f} dollars for fuel. What remains?",
            "{who} rents out a boat {a} times for {b} dollars and a bike {c} times for {d} dollars. Repairs cost {e} "
            "dollars and paint {f} dollars. How much does {who} keep?",
        ),
        ("First: a * b", "Second: c * d", "Earned: A + B", "Left: C - e - f"),
        within((2, 12), (8, 25), (2, 9), (8, 30), (5, 80), (5, 80)),
    ),
    Template(
        "tank",
        (
            "A tank holds {a} litres. A tap adds {b} litres a minute and {c} litres a minute leak out. How many "
            "litres are in it after {d} minutes?",
            "There are {a} litres in a pool. Each minute {b} litres flow in and {c} flow out. How much is there {d} "
            "minutes later?",
            "{who} has {a} {thing}, makes {b} a day and sells {c} a day. How many does {who} have after {d} days?",
        ),
        ("Gain: b - c", "In all: A * d", "Then: a + B"),
        within((10, 200), (5, 40), (2, 30), (2, 15)),
    ),
    Template(
        "one in some",
        (
            "{who} has {a} {thing}. One in {b} is red, the others are blue. Then {who} buys {c} blue ones. How many "
            "are blue?",
            "Of {a} pupils one in {b} stays at home, the others go on a trip. {c} parents come along. How many people "
            "are on the trip?",
            "One in {b} of {a} seeds does not grow. {who} adds {c} plants to those that do grow. How many plants are "
            "there?",
        ),
        ("Part: a / b", "Others: a - A", "Sum: B + c"),
        _one_in,
    ),
    Template(
        "stall",
        (
            "At a stall {who} sells {a} {thing} at {b} dollars, {c} {other} at {d} dollars and {e} cakes at {f} "
            "dollars. The stall costs {g} dollars. {h} friends share the rest. How many dollars does each get?",
            "A class sells {a} {thing} for {b} dollars each, {c} {other} for {d} dollars each and {e} pies for {f} "
            "dollars each, and pays {g} dollars for the room. {h} groups get equal parts of the rest. How much is one "
            "part?",
            "{a} {thing} at {b} dollars, {c} {other} at {d} dollars and {e} hats at {f} dollars are sold. After {g} "
            "dollars of rent, {h} people share what is left. How many dollars is that for each?",
        ),
        ("{thing}: a * b", "{other}: c * d", "Others: e * f", "Sales: A + B + C", "Rest: D - g", "Each: E / h"),
        _stall,
    ),
    Template(
        "packs",
        (
            "{who} has {a} {thing} and buys {b} packs of {c}. How many {thing} does {who} have now?",
            "There are {a} {thing} on the table and {b} boxes with {c} {thing} each below it. How many {thing} are "
            "there?",
            "{who} owns {a} {thing}. {friend} brings {b} bags of {c} {thing}. How many {thing} have they together?",
        ),
        ("New: b * c", "Total: a + A"),
        within((5, 200), (2, 12), (3, 30)),
    ),
    Template(
        "queue",
        (
            "{a} people stand in a queue. {b} leave and {c} go in, then {d} cars with {e} people each arrive. How "
            "many people stand there now?",
            "A bus with {a} people loses {b} at one stop and {c} at the next. Then {d} groups of {e} get on. How many "
            "people are on the bus?",
            "{who} has {a} {thing}, sells {b}, gives {c} away and gets {d} boxes of {e}. How many {thing} has {who} "
            "then?",
        ),
        ("Stayed: a - b - c", "New: d * e", "Now: A + B"),
        within((40, 300), (3, 60), (3, 60), (2, 9), (2, 15)),
    ),
    _expression("{a} * {b} + {c}", "Product: a * b", "Sum: A + c", draw=within((3, 30), (3, 15), (2, 200))),
    _expression(
        "{a} * {b} + {c} * {d}", "First: a * b", "Second: c * d", "Sum: A + B",
        draw=within((2, 20), (3, 20), (2, 20), (3, 20)),
    ),
    _expression(
        "({a} + {b}) * {c} - {d}", "Bracket: a + b", "Product: A * c", "Rest: B - d",
        draw=within((2, 60), (2, 60), (2, 9), (3, 200)),
    ),
    _expression(
        "{a} * {b} - {c} * {d}", "First: a * b", "Second: c * d", "Rest: A - B",
        draw=within((4, 30), (4, 30), (2, 12), (2, 12)),
    ),
    _expression(
        "({a} + {b}) * ({c} - {d})", "First: a + b", "Second: c - d", "Product: A * B",
        draw=within((2, 30), (2, 30), (5, 30), (2, 20)),
    ),
    _expression(
        "{a} + {b} * {c} + {d}", "Product: b * c", "Sum: a + A + d", draw=within((2, 90), (3, 20), (3, 20), (2, 90)),
    ),
    _expression(
        "{a} - {b} - {c} * {d}", "Product: c * d", "Rest: a - b - A",
        draw=within((60, 400), (2, 60), (2, 12), (2, 20)),
    ),
    _expression(
        "{a} / {b} + {c} * {d} - {e}", "First: a / b", "Second: c * d", "Sum: A + B", "Rest: C - e", draw=_quotient,
    ),
    _expression(
        "(({a} + {b}) * {c} - {d}) / {e} + {f}", "Inner: a + b", "Product: A * c", "Outer: B - d", "Part: C / e",
        "Sum: D + f", draw=_chain,
    ),
    _expression(
        "{a} * {b} + {c} * {d} + {e} * {f} - {g}", "First: a * b", "Second: c * d", "Third: e * f", "Sum: A + B + C",
        "Rest: D - g", draw=within((2, 12), (2, 15), (2, 12), (2, 15), (2, 12), (2, 15), (3, 99)),
    ),
    _equation("{a}x + {b} = {c}", "Constant: {a}x = c - b", "Root: x = A / a", draw=_plus),
    _equation("{a}x - {b} = {c}", "Constant: {a}x = c + b", "Root: x = A / a", draw=_minus),
    _equation("x / {a} + {b} = {c}", "Constant: x / {a} = c - b", "Root: x = A * a", draw=_divided),
    _equation("{a}(x + {b}) = {c}", "Bracket: x + {b} = c / a", "Root: x = A - b", draw=_bracket),
    _equation(
        "{a}x + {b} = {c}x + {d}", "Coefficient: a - c", "Constant: d - b", "Root: x = B / A", draw=_both_sides,
    ),
    _equation(
        "{a}(x - {b}) + {c} = {d}", "Constant: {a}(x - {b}) = d - c", "Bracket: x - {b} = A / a", "Root: x = B + b",
        draw=_nested,
    ),
    _equation(
        "{a}x + {b}x + {c} = {d}", "Coefficient: a + b", "Constant: d - c", "Root: x = B / A", draw=_twice,
    ),
    _equation("{a}x / {b} = {c}", "Product: {a}x = c * b", "Root: x = A / a", draw=_scaled),
)  # fmt: skip
SMALL: tuple[Template, ...] = (
    _small("{a}+{b}-{c}", "a + b", "A - c"),
    _small("{a}-{b}+{c}", "a - b", "A + c"),
    _small("{a}*{b}+{c}", "a * b", "A + c"),
    _small("{a}*{b}-{c}", "a * b", "A - c"),
    _small("({a}+{b})*{c}", "a + b", "A * c"),
    _small("({a}-{b})*{c}", "a - b", "A * c"),
    _small("{a}+{b}*{c}+{d}", "b * c", "a + A + d"),
    _small("{a}*{b}-{c}-{d}", "a * b", "A - c - d"),
    _small("{a}*{b}+{c}*{d}", "a * b", "c * d", "A + B"),
    _small("{a}*{b}-{c}*{d}", "a * b", "c * d", "A - B"),
    _small("({a}+{b})*{c}-{d}", "a + b", "A * c", "B - d"),
    _small("({a}-{b})*{c}+{d}", "a - b", "A * c", "B + d"),
)
"""Expressions that a model of a few million weights can learn to compute."""
