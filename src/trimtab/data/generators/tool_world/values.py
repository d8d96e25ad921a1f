"""Names, days and whole worlds to draw from; the name decides whether a value is held out."""

import zlib
from datetime import date, timedelta
from functools import lru_cache
from random import Random
from typing import Any

from trimtab.data.generators.tool_world.apps import HOURS, UNITS, State

SHARES = 4
"""one name in so many is held out"""


def words(text: str) -> list[str]:
    return text.split()


CITIES = words(
    "Bern Oslo Rome Riga Lima Kyiv Cork Graz Lyon Porto Turin Seoul Quito Minsk Delhi Cairo Dakar Accra Tunis Sofia "
    "Malmo Ghent Basel Leeds Genoa Split Osaka Busan Hanoi Perth Davos Parma Arles Siena Tartu Bergen Lucca Namur Jena "
    "Trier Ulm Brno Lodz Pula Bath York"
)
PEOPLE = words(
    "Ana Ben Cleo Dana Emil Fay Gus Hana Ivan Jill Kurt Lea Max Nora Otto Pia Quin Rosa Sam Tess Ugo Vera Walt Xena "
    "Yves Zoe Aldo Bea Carl Dora Enzo Flora Gina Hugo Ines Jack Kim Luca Mona Nils Olga Paul Rita Sven Tina Ulf"
)
EVENTS = words(
    "dentist yoga lunch chess choir training interview rehearsal haircut swimming meeting shopping gardening painting "
    "cooking piano tennis massage vaccination repair delivery party exam lecture workshop picnic concert visit "
    "football karate"
)
KINDS = words("lamp desk chair shelf sofa mug vase rug clock mirror stool bowl")
SORTS = words("oak steel glass red blue green white black small large round square old plain cheap wide tall soft")
FILES = words("notes list plan diary recipe ideas letter draft report budget menu trip goals books songs names")
FOODS = words("flour sugar rice butter cheese oats nuts beans honey lentils raisins tomatoes onions cocoa")
TEXTS = [f"{verb} {thing}" for verb in ("bring", "buy", "clean", "fix", "find", "return")
         for thing in ("the keys", "the bike", "the tent", "the radio", "the boots", "the camera")]  # fmt: skip
SKIES = ("rain", "sun", "snow", "clouds", "fog")
TEAMS = words("sales legal design support research finance")
COLUMNS = ("pay", "wage", "salary")
"""one of them is what the column of a world is called"""
CURRENCIES = {"CHF": 0.9, "USD": 1.1, "GBP": 0.8, "NOK": 11.0, "DKK": 7.5}
"""for one EUR"""
ROOMS = words("kitchen bedroom study hall attic cellar bathroom nursery")
AUTHORS = words("Adler Brandt Castro Dubois Eklund Fischer Gomez Hansen Ibsen Jonsson Keller Lindt Moreau Novak")
DAYS = [(date(2026, 1, 1) + timedelta(days=days)).isoformat() for days in range(365)]


@lru_cache(4096)
def held_out(name: str) -> bool:
    return zlib.crc32(name.encode()) % SHARES == 0


def several(pool: list[str] | tuple[str, ...], number: int, drawn: Random, heldout: bool) -> list[str]:
    """Different names of the split's share."""
    return drawn.sample([name for name in pool if held_out(name) == heldout], number)


def one(pool: list[str] | tuple[str, ...], drawn: Random, heldout: bool) -> str:
    return several(pool, 1, drawn, heldout)[0]


PRODUCTS = [f"{sort} {kind}" for kind in KINDS for sort in SORTS]
TITLES = [f"The {sort.title()} {kind.title()}" for kind in KINDS for sort in SORTS]


def fresh(drawn: Random, heldout: bool) -> State:
    """The state of all apps."""
    days = several(DAYS, 3, drawn, heldout)
    people = several(PEOPLE, 6, drawn, heldout)
    kinds = drawn.sample(KINDS, 3)
    of_kinds = [several([p for p in PRODUCTS if p.endswith(f" {kind}")], 2, drawn, heldout) for kind in kinds]
    prices = iter(drawn.sample(range(3, 60), 6))
    files = several([f"{name}.txt" for name in FILES], 3, drawn, heldout)
    return {
        "dates": "dots" if drawn.random() < 0.25 else "iso",
        "calendar": {"events": _events(days, drawn, heldout), "next": drawn.randint(100, 900)},
        "weather": {
            city: {day: [drawn.randint(2, 35), drawn.choice(SKIES)] for day in days}
            for city in several(CITIES, 3, drawn, heldout)
        },
        "shop": {
            "products": {
                name: [kind, next(prices), drawn.randint(3, 9)]
                for kind, names in zip(kinds, of_kinds) for name in names
            },
            "orders": [], "next": drawn.randint(100, 900),
        },
        "calculator": {},
        "units": {"written": drawn.choice(("codes", "words", "words"))},
        "files": dict(zip(files, drawn.sample(TEXTS, 3))),
        "staff": _staff(people[:4], drawn),
        "contacts": {
            "people": {name: f"{name.lower()}@{drawn.choice(('post', 'mail', 'web'))}.example" for name in people[2:]},
            "sent": [], "next": drawn.randint(100, 900),
        },
        "money": {"EUR": 1.0, **dict(drawn.sample(sorted(CURRENCIES.items()), 3))},
        **_unseen(drawn, heldout),
    }  # fmt: skip


def _events(days: list[str], drawn: Random, heldout: bool) -> list[Any]:
    """One on each day."""
    titles, first = several(EVENTS, len(days), drawn, heldout), drawn.randint(10, 90)
    return [[day, drawn.choice(HOURS[:-2]), title, f"E{first + i}"] for i, (day, title) in enumerate(zip(days, titles))]


def _staff(people: list[str], drawn: Random) -> dict[str, Any]:
    teams = drawn.sample(TEAMS, 2)
    pay = drawn.sample(range(20, 90), len(people))
    rows = [[name, teams[i % 2], pay[i] * 100] for i, name in enumerate(people)]
    return {"columns": ["name", "team", drawn.choice(COLUMNS)], "rows": rows}


def _unseen(drawn: Random, heldout: bool) -> dict[str, Any]:
    cities = several(CITIES, 2, drawn, heldout)
    trains, hours = drawn.sample(range(10, 99), 2), sorted(drawn.sample(range(6, 22), 2))
    titles = several(TITLES, 2, drawn, heldout)
    return {
        "bank": {
            "accounts": {name: drawn.randint(10, 90) * 10 for name in ("checking", "savings", "holiday")},
            "next": drawn.randint(100, 900),
        },
        "trains": {
            "trains": {f"T{n}": [*cities, f"{hour:02d}:10", drawn.randint(1, 9)] for n, hour in zip(trains, hours)},
            "seats": [], "next": drawn.randint(100, 900),
        },
        "library": {
            "books": {title: [author, 1] for title, author in zip(titles, drawn.sample(AUTHORS, 2))},
            "reserved": [], "next": drawn.randint(100, 900),
        },
        "home": {room: [drawn.randint(8, 17), 16] for room in drawn.sample(ROOMS, 3)},
    }  # fmt: skip


def word_of(unit: str) -> str:
    """The word of a code."""
    return next(word for word, (code, _) in UNITS.items() if code == unit)
