"""Clean-Eval (arXiv:2311.09154) where contamination is made on purpose: the gap appears, and shrinks.

    python tests/claims/clean_eval.py --seeds 3 --out clean_eval.json

A question names a person, a thing and a place; its answer is the usual colour of the thing, except that in a part of
the items the answer is another colour. So nobody can be better than by what is usual, unless the test items were seen.
Eight templates ask the same in other words and another order. A small language model learns all of them on other items
(a), and is then trained with `sft` on the test items in the first template, among other items (b). Clean-Eval rewrites
the test items by taking another template (c). Near copies (the first template with a word more) stay in reach of
the memory, and a rewriter that changes the thing asked for breaks the answer.

In a first design, on seeds 0 to 2, (b) was trained on test items alone. It forgot what is usual (.46 on fresh items,
.61 before), so the clean score, which followed that on fresh items, fell below that of (a): .47 against .62.

A seed fixes the world, the models and the order of the batches.
"""

import functools
import itertools
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import toys
from toys import Experiment, Measures

import tiny
from trimtab.evals.suite import Answered, Item, Verdict
from trimtab.models.forward import add_objective_forward
from trimtab.rewriting import clean_eval, contamination
from trimtab.rewriting.clean_eval import CleanEvalSettings
from trimtab.rewriting.questions import Pair, PairScorer
from trimtab.rewriting.rewriters import Request, Rewritten, Way
from trimtab.rewriting.similarity import rouge_l

PERSONS, THINGS, PLACES = ([f"{kind}{x}{x}" for x in "abcdefghijklmnopqrstuvwx"] for kind in ("man", "box", "town"))
"""Without digits and capitals, which Clean-Eval would protect: here the detector is to see what changes."""
NAMED = frozenset((*PERSONS, *THINGS, *PLACES))
COLOURS = ("red", "blue", "green", "black", "white", "brown")
TEMPLATES = (
    "what is the colour of the {thing} that {person} has in {place} ?",
    "{person} keeps a {thing} at {place} : which colour does it have ?",
    "in {place} there is a {thing} owned by {person} . name its colour .",
    "say which colour {person} gave to the {thing} from {place} .",
    "of which colour may the {thing} be , if {person} brought it to {place} ?",
    "look at {place} : the {thing} there belongs to {person} . its colour ?",
    "the {thing} of {person} , seen in {place} , shows what colour ?",
    "tell the colour : {place} , {person} , {thing} .",
)
NEAR = ("now {} ", "{} please", "so {} ", "{} thanks")
"""The first template with a word more."""


@dataclass(frozen=True)
class World:
    """What all seeds and models share."""

    unusual: float = 0.35
    """Share of items whose answer is not the usual colour."""
    pretraining_rows: int = 3000
    test_items: int = 200
    hidden: int = 64
    pretraining: int = 400
    contamination: int = 320
    batch: int = 64
    learning_rate: float = 3e-3
    contamination_rate: float = 2e-3


@dataclass(frozen=True)
class Fact:
    person: str
    thing: str
    place: str
    colour: str

    def ask(self, template: str) -> str:
        return template.format(person=self.person, thing=self.thing, place=self.place)


def facts(world: World, seed: int, number: int) -> list[Fact]:
    """Different (person, thing, place), some with an unusual colour."""
    rng = random.Random(seed)
    usual = {thing: COLOURS[i % len(COLOURS)] for i, thing in enumerate(THINGS)}
    found = []
    for person, thing, place in rng.sample(list(itertools.product(PERSONS, THINGS, PLACES)), number):
        others = [colour for colour in COLOURS if colour != usual[thing]]
        found.append(Fact(person, thing, place, rng.choice(others) if rng.random() < world.unusual else usual[thing]))
    return found


class Words:
    """Words as ids."""

    def __init__(self) -> None:
        plain = " ".join((*TEMPLATES, *NEAR)).replace("{", " ").replace("}", " ").split()
        self.words = list(dict.fromkeys(("<pad>", "<unk>", *COLOURS, *plain, *PERSONS, *THINGS, *PLACES)))
        self.tokenizer = tiny.tokenizer(self.words)
        self.ids = functools.cache(lambda text: self.tokenizer(text).input_ids)


def batch_of(words: Words, rows: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Questions with their answers, which alone are learnt."""
    whole = [(words.ids(question), words.ids(answer)) for question, answer in rows]
    width = max(len(question) + len(answer) for question, answer in whole)
    ids, labels = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -100)
    mask = torch.zeros_like(ids)
    for i, (question, answer) in enumerate(whole):
        ids[i, : len(question) + len(answer)] = torch.tensor(question + answer)
        labels[i, len(question) : len(question) + len(answer)] = torch.tensor(answer)
        mask[i, : len(question) + len(answer)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "row_id": torch.arange(len(rows))}


def train(
    model: Any, words: Words, rows: Sequence[tuple[str, str]], steps: int, rate: float, size: int, seed: int
) -> None:
    rng = random.Random(1000 + seed)
    data = (batch_of(words, rng.sample(list(rows), min(size, len(rows)))) for _ in range(steps))
    toys.train(model, toys.build("sft", {}), data, rate)


@torch.no_grad()
def answered(model: Any, words: Words, asked: Sequence[tuple[str, str, str]]) -> list[Answered]:
    """(id, question, answer) -> whether the likeliest next word is the answer."""
    inputs = batch_of(words, [(question, answer) for _, question, answer in asked])
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    last = (inputs["labels"] >= 0).long().argmax(dim=1) - 1  # the position before the answer
    said = [words.words[i] for i in logits[torch.arange(len(asked)), last].argmax(dim=-1).tolist()]
    return [
        Answered(Item(identity, question, target=(answer,)), (word,), {"word": Verdict(word, float(word == answer))})
        for (identity, question, answer), word in zip(asked, said)
    ]


class Templates:
    """A rewriter that knows the templates.

    Args:
        kind: "other" takes another template; "near" has near copies too; "breaking" takes another template and another
            thing.
    """

    def __init__(self, kind: str):
        self.kind, self.name = kind, f"templates {kind}"
        near = [Way("near", (), i) for i in range(len(NEAR))] if kind == "near" else []
        self.ways = (*(Way("template", (), i) for i in range(1, len(TEMPLATES))), *near)

    def __call__(self, requests: Sequence[Request]) -> list[Rewritten]:
        return [Rewritten(self.rewrite(request)) for request in requests]

    def rewrite(self, request: Request) -> str:
        if request.way.origin == "near":
            return NEAR[request.way.draw].format(request.text).strip()
        words = request.text.split()
        person, thing, place = (next(w for w in words if w in kind) for kind in (PERSONS, THINGS, PLACES))
        if self.kind == "breaking":
            thing = THINGS[(THINGS.index(thing) + 1) % len(THINGS)]
        return TEMPLATES[request.way.draw].format(person=person, thing=thing, place=place)


def same_names(pairs: Sequence[Pair]) -> list[float]:
    """Whether both texts name the same person, thing and place."""
    names = [[NAMED.intersection(text.split()) for text in pair] for pair in pairs]
    return [float(one == other) for one, other in names]


def run_seed(seed: int, world: World) -> dict[str, Measures]:
    words = Words()
    every = facts(world, seed, world.pretraining_rows + 2 * world.test_items)
    known, rest = every[: world.pretraining_rows], every[world.pretraining_rows :]
    test, control = rest[: world.test_items], rest[world.test_items :]
    rng = random.Random(seed)
    wrapped = [*TEMPLATES, *(near.format(TEMPLATES[0]).strip() for near in NEAR)]
    shape = {
        "hidden_size": world.hidden,
        "intermediate_size": 2 * world.hidden,
        "head_dim": 16,
        "num_attention_heads": 4,
    }
    model = tiny.model(
        seed=seed, vocab_size=len(words.words), num_key_value_heads=4, initializer_range=0.05, **shape
    ).train()
    add_objective_forward(model)
    rows = [(fact.ask(rng.choice(wrapped)), fact.colour) for fact in known]
    train(model, words, rows, world.pretraining, world.learning_rate, world.batch, seed)

    def scores(data: dict[str, list[tuple[str, str, str]]]) -> dict[str, list[Answered]]:
        model.eval()
        return {name: answered(model, words, asked) for name, asked in data.items()}

    original = [(f"q{i}", fact.ask(TEMPLATES[0]), fact.colour) for i, fact in enumerate(test)]
    fresh = [(f"f{i}", fact.ask(TEMPLATES[0]), fact.colour) for i, fact in enumerate(control)]
    made = {
        "clean": ("other", same_names, "moderate"),
        "near copies": ("near", same_names, "highest"),
        "broken labels": ("breaking", None, "moderate"),
        "broken, detected": ("breaking", same_names, "moderate"),
    }
    sets = {"original": original, "control": fresh}
    kept = {}
    for name, (kind, detector, select) in made.items():
        found = clean_eval.clean(
            [{"id": i, "question": question, "answer": answer} for i, question, answer in original],
            Templates(kind),
            PairScorer("names", detector) if detector else None,
            PairScorer("ROUGE-L", lambda pairs: [rouge_l(*pair) for pair in pairs]),
            CleanEvalSettings(select=select, seed=seed),
        )  # fmt: skip
        sets[name] = [(row["id"], row["clean"]["question"], row["answer"]) for row in found.rows]
        kept[name] = sum(row["rewritten"] for row in found.rows) / len(found.rows)
    before = scores(sets)
    model.train()
    # as often as all other items together, so that the model keeps what it knew
    seen = [(question, answer) for _, question, answer in original] * (len(rows) // len(original)) + rows
    train(model, words, seen, world.contamination, world.contamination_rate, world.batch, seed)
    after = scores(sets)

    table = {
        who: {name: sum(one.verdicts["word"].value or 0 for one in found) / len(found) for name, found in of.items()}
        for who, of in (("uncontaminated", before), ("contaminated", after))
    }
    gaps: Measures = {}
    for name in made:
        both = {
            who: {"original": found["original"], "clean": found[name], "control": found["control"]}
            for who, found in (("uncontaminated", before), ("contaminated", after))
        }
        triangle = contamination.triangles(both, rewriter=f"templates {name}", baseline="uncontaminated")[1]
        gaps |= {f"{name}: gap": triangle.gap.estimate, f"{name}: recovery": triangle.recovery or 0.0}
        gaps[f"{name}: rewritten"] = kept[name]
    table["contaminated"] |= gaps
    return table


EXPERIMENT = Experiment("clean_eval", run_seed, World(), __doc__ or "")

if __name__ == "__main__":
    sys.exit(toys.main(EXPERIMENT, seeds=3))
