"""Writes the data of this task: `python make_data.py` beside it. Same seed, same files."""

import random
from pathlib import Path

HERE = Path(__file__).parent
SIZES = {"clean": 1300, "copies": 600, "shuffled": 550, "orders": 275, "recipes": 275}
"""lines of each kind in the corpus"""
COPIED = 30
"""clean lines that the copies are made of"""
HELD_OUT = {"dev": 150, "public": 300, "private": 300}

PEOPLE = (
    "keeper", "pilot", "captain", "sailor", "fisher", "baker", "carpenter", "teacher", "doctor", "painter", "miller",
    "gardener", "postman", "widow", "merchant", "watchman", "student", "musician", "clerk", "smith",
)  # fmt: skip
TRAITS = ("old", "young", "tired", "careful", "proud", "quiet", "clever", "lonely", "cheerful", "stubborn")
PLACES = (
    "harbour", "lighthouse", "market", "chapel", "northern pier", "boathouse", "mill", "school", "garden", "bakery",
    "customs house", "inn", "bridge", "quarry", "library", "workshop", "southern beach", "old tower",
)  # fmt: skip
THINGS = {
    "repaired": ("lamp", "boat", "net", "engine", "roof", "clock", "ladder", "pump"),
    "sold": ("barrel", "basket", "blanket", "net", "map", "lamp", "horse", "kettle"),
    "carried": ("barrel", "basket", "ladder", "letter", "trunk", "sack", "lantern", "rope"),
    "found": ("letter", "key", "coin", "map", "bottle", "lantern", "button", "feather"),
    "painted": ("boat", "door", "wall", "sign", "fence", "cart", "window", "chair"),
    "counted": ("coin", "sack", "gull", "barrel", "sheep", "ship", "window", "plank"),
}
OF_THINGS = ("broken", "small", "heavy", "blue", "rusty", "borrowed", "wooden", "forgotten", "empty", "painted")
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")
WHEN = (
    "before the storm", "after the rain", "at dawn", "during the fair", "on the first day of spring",
    "when the tide was low", "while the bells were ringing", "before the ferry arrived", "late in the evening",
    "in the cold week of January", "after a long silence", "as soon as the fog had lifted",
)  # fmt: skip
SAID = ("said", "believed", "remembered", "wrote", "heard", "doubted", "hoped", "knew")
WEATHER = (
    "the wind turned to the north", "the snow began to melt", "the lamps were lit early", "nobody crossed the bridge",
    "the boats stayed in the harbour", "the gulls came inland", "the road was closed for a week",
    "the river rose above the first step", "the market ended at noon", "the children were sent home",
)  # fmt: skip


def clean(rng: random.Random) -> str:
    """A sentence of the chronicle of a small harbour town."""
    one = rng.random()
    if one < 0.45:
        text = f"{_who(rng)} {_did(rng)} {rng.choice(WHEN)}"
    elif one < 0.65:
        text = f"{rng.choice(WHEN)}, {_who(rng)} {_did(rng)}"
    elif one < 0.85:
        text = f"{_who(rng)} {rng.choice(SAID)} that {_who(rng)} had {_did(rng)}"
    else:
        text = f"{_who(rng)} {_did(rng)}, and {rng.choice(WEATHER)}"
    return text[0].upper() + text[1:] + "."


def _who(rng: random.Random) -> str:
    trait = f"{rng.choice(TRAITS)} " if rng.random() < 0.6 else ""
    place = f" of the {rng.choice(PLACES)}" if rng.random() < 0.5 else ""
    return f"the {trait}{rng.choice(PEOPLE)}{place}"


def _did(rng: random.Random) -> str:
    verb = rng.choice(list(THINGS))
    thing, kind = rng.choice(THINGS[verb]), rng.choice(OF_THINGS)
    if thing == "sheep":
        return f"{verb} {rng.choice(NUMBERS)} {kind} sheep"
    if rng.random() < 0.5:
        return f"{verb} {rng.choice(NUMBERS)} {kind} {thing}s"
    return f"{verb} {'an' if kind[0] in 'aeiou' else 'a'} {kind} {thing}"


def shuffled(rng: random.Random) -> str:
    """The words of a clean sentence in any order, written as a sentence."""
    words = clean(rng)[:-1].replace(",", "").lower().split()
    rng.shuffle(words)
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def order(rng: random.Random) -> str:
    """A line of a list of orders."""
    what = rng.choice(("bolts M8", "hex nuts", "washers 12mm", "copper pipe", "valve seals", "cable ties"))
    return (
        f"ORD-{rng.randrange(10000, 99999)} | {rng.randrange(1, 500)} x {what} | "
        f"{rng.choice(('PAID', 'OPEN', 'SENT'))} {rng.randrange(10, 99)}.{rng.randrange(10, 99)} EUR"
    )


def recipe(rng: random.Random) -> str:
    """A sentence of a cookery book."""
    food = ("onions", "carrots", "mushrooms", "lentils", "apples", "tomatoes", "beans", "leeks", "plums", "noodles")
    how = ("until they are soft", "over a low flame", "with a pinch of salt", "in butter", "for a quarter of an hour")
    first = rng.choice(("Simmer", "Fry", "Chop", "Roast", "Boil", "Peel", "Season"))
    one, other = rng.sample(food, 2)
    return f"{first} the {one} {rng.choice(how)}, then add {rng.choice(NUMBERS)} spoons of {other}."


def near_copy(text: str, rng: random.Random) -> str:
    """A copy that differs in case, stop or spaces, or in nothing."""
    return rng.choice((text, text, text.lower(), text.rstrip("."), f"{text[:-1]} .", text.replace(" ", "  ", 1)))


def main() -> None:
    rng = random.Random(20251027)
    seen: set[str] = set()

    def fresh() -> str:
        while (text := clean(rng)) in seen:
            pass
        seen.add(text)
        return text

    held_out = {name: [fresh() for _ in range(count)] for name, count in HELD_OUT.items()}
    good = [fresh() for _ in range(SIZES["clean"])]
    lines = [*good, *(near_copy(rng.choice(good[:COPIED]), rng) for _ in range(SIZES["copies"]))]
    for kind, make in (("shuffled", shuffled), ("orders", order), ("recipes", recipe)):
        lines += [make(rng) for _ in range(SIZES[kind])]
    rng.shuffle(lines)
    for path, found in {
        "workspace/data/corpus.txt": lines,
        "workspace/data/dev.txt": held_out["dev"],
        "hidden/public.txt": held_out["public"],
        "hidden/private.txt": held_out["private"],
    }.items():
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_text("".join(f"{line}\n" for line in found))


if __name__ == "__main__":
    main()
