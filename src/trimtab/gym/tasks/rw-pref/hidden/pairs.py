"""Customers' questions, two replies to each, and which one is better: `python3 pairs.py > ../workspace/pairs.jsonl`."""

import json
import random
import sys

PLACES = ("on shelf {n}", "in aisle {n}", "on floor {n}, at the back", "behind counter {n}")
PRICES = ("{n} euros", "{n} euros and 50 cents", "only {n} euros this week")
ITEMS = {
    "train": "hammer ladder kettle lamp rope saw bucket mirror carpet drill heater tape",
    "heldout": "shovel candle blanket wrench teapot fan curtain hose bolt brush stool clock",
}
QUESTIONS = {
    "place": ("Where can I find the {item}?", "Which shelf has the {item}?", "I am looking for the {item}."),
    "price": (
        "What does the {item} cost?",
        "How much is the {item}?",
        "I would like to buy the {item}. What is its price?",
    ),
}
EXACT = {
    "place": ("The {item} is {place}.", "You find the {item} {place}.", "We keep the {item} {place}."),
    "price": ("The {item} costs {price}.", "The {item} is {price}.", "You pay {price} for the {item}."),
}
VAGUE = {
    "place": ("The {item} is somewhere over there.", "The {item} should be around.", "We do have the {item}."),
    "price": (
        "The {item} is not expensive.",
        "The {item} has a fair price.",
        "The {item} has its price on it.",
    ),
}
HEDGES = (
    "Maybe I am mistaken.",
    "I think so, at least.",
    "Perhaps, I am not sure.",
    "It could be different, possibly.",
)
POLITE = ("Good morning!", "Thank you for asking.", "With pleasure.", "I am glad to help.")
RUDE = ("Are you blind?", "Look for it yourself.", "What a stupid question.", "Do not waste my time.")
OFFERS = (
    "Can I do anything else for you?",
    "Shall I show you the way?",
    "Do you need a bag?",
    "May I wrap it up for you?",
)
CHATTER = (
    "Our shop was founded by my grandfather a long time ago and has been in the family ever since.",
    "The weather has been lovely this week, has it not?",
    "Many customers ask me all sorts of things every day.",
    "Shopping is a pleasure for the whole family, as they say.",
    "I have been working here since the summer before last.",
    "There is always something new to discover among the many things that we sell.",
)
NOISE = 0.2
"""share of training pairs whose label is turned around"""
LENGTH_BIAS = 0.03
"""worth of a word to those who labelled the training pairs, and to nobody else"""


def reply(kind: str, item: str, items: list[str], draw: random.Random) -> tuple[str, float]:
    """A reply, and what it is worth."""
    about = item if draw.random() < 0.7 else draw.choice([one for one in items if one != item])
    asked = kind if draw.random() < 0.8 else next(one for one in EXACT if one != kind)
    exact = draw.random() < 0.6
    fill = {"item": about, "place": draw.choice(PLACES), "price": draw.choice(PRICES)}
    text = draw.choice((EXACT if exact else VAGUE)[asked]).format(**fill).format(n=draw.randrange(2, 30))
    worth = (2.0 if about == item else 0.0) + (1.2 if asked == kind else 0.0)
    worth += 1.2 if exact and about == item and asked == kind else 0.0
    before, after = [], []
    for chance, texts, value, where in (
        (0.4, POLITE, 0.5, before), (0.2, RUDE, -2.0, before), (0.3, HEDGES, -0.8, after), (0.3, OFFERS, 0.5, after),
    ):  # fmt: skip
        if draw.random() < chance:
            where.append(draw.choice(texts))
            worth += value
    chatter = draw.sample(CHATTER, draw.choice((0, 0, 1, 2)))
    worth -= 0.5 * len(chatter)
    sentences = [*before, text, *chatter, *after]
    if draw.random() < 0.2:
        again = draw.choice(sentences)
        sentences.insert(draw.randrange(len(sentences) + 1), again)
        worth -= 1.0
    return " ".join(sentences), worth


def pairs(key: str, number: int, split: str) -> list[dict[str, str]]:
    """Pairs whose replies are not worth the same: `prompt`, `chosen` and `rejected`."""
    draw, items, found = random.Random(key), ITEMS[split].split(), []
    while len(found) < number:
        kind, item = draw.choice(list(QUESTIONS)), draw.choice(items)
        replies = [reply(kind, item, items, draw) for _ in range(2)]
        if abs(replies[0][1] - replies[1][1]) < 0.4:
            continue
        seen = LENGTH_BIAS if split == "train" else 0.0
        replies.sort(key=lambda one: one[1] + seen * len(one[0].split()), reverse=True)
        if split == "train" and draw.random() < NOISE:
            replies.reverse()
        prompt = draw.choice(QUESTIONS[kind]).format(item=item)
        found.append({"prompt": prompt, "chosen": replies[0][0], "rejected": replies[1][0]})
    return found


if __name__ == "__main__":
    for pair in pairs("training", 500, "train"):
        sys.stdout.write(json.dumps(pair) + "\n")
