"""A dial and the scale of a LoRA adapter, trained alike, and two dials at once, on SmolLM2-135M.

    python tests/claims/dials_language.py --out benchmarks/results/claims_dials_language.json
    python tests/claims/dials_language.py --seeds 0 --work FOLDER --out FILE.json

Two properties are learnt from the same preferences, in as many updates of as many pairs: `brief`, answers of one
sentence (trimtab:brevity), and `simple`, short words: of eight sampled answers to a prompt the one with the shortest
words is preferred to the one with the longest. Ways: `dial`, an inserted layer (clm, arXiv:2503.04346), whose strength
mixes logits; `lora`, an adapter of every linear layer (dpo), whose scale is turned instead, as users of adapters do.
The learning rate of `lora` is the one among three whose change at 1 is nearest to that of the dial on training prompts,
at seed 100; the rate of the dial is that of `tiny_clm`.

Held-out prompts are answered greedily at each strength. Measured: the property; perplexity of the answers under the
untrained model; repeated 4-grams; KL(p_s || p_0) per token along the answers, in nats. Asked: which way is monotone
between 0 and 1, by how much the largest of the four steps between exceeds a quarter of the change (1 is a straight
line), and what the answers are worth beyond 1. Two dials: two inserted layers of two runs, z = z_0 + a (z_A - z_0) +
b (z_B - z_0): does each still turn its property while the other is turned up?

Seeds that the file of `--out` holds are kept, and so are finished parts in the work folder.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intervals import over_seeds
from language import prompts
from peft import PeftModel
from peft.helpers import rescale_adapter_scale
from rich.console import Console
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from trimtab.common.environment import environment
from trimtab.common.files import write_atomic
from trimtab.data.synthetic import everyday
from trimtab.data.tokens import encode_prompts
from trimtab.decoding.realign import realign
from trimtab.metrics.text_quality import counts
from trimtab.models.identity_layer import bypass
from trimtab.models.loading import load_model, load_tokenizer
from trimtab.objectives.divergence import forward_kl
from trimtab.runs.parse import load_recipe
from trimtab.runs.run import run

STRENGTHS = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BETWEEN = (0.0, 0.25, 0.5, 0.75, 1.0)
PAIRS = ((0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 0.5), (1.0, 0.5), (0.5, 1.0), (1.0, 1.0))
"""strengths of brief and simple"""
RATES = (3e-5, 1e-4, 3e-4)
CHOSEN_AT = 100
"""seed at which the rate of `lora` is chosen"""
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}


def letters(text: str) -> float:
    """Mean letters of a word; NaN without one."""
    words = re.findall(r"[^\W\d_]+", text)
    return sum(map(len, words)) / len(words) if words else float("nan")


def ranked(texts: Sequence[str]) -> tuple[str, str] | None:
    """The text with the shortest words, and the one with the longest, among those of eight words at least."""
    kept = sorted((text for text in texts if len(text.split()) >= 8), key=letters)
    return (kept[0], kept[-1]) if len(kept) > 1 and letters(kept[0]) < letters(kept[-1]) else None


def unevenness(values: Sequence[float]) -> float:
    """The largest step of an evenly spaced path, relative to the steps of a straight line between its ends; NaN if
    these are equal."""
    steps = np.diff(np.asarray(values))
    return (
        float("nan")
        if values[0] == values[-1]
        else float(np.abs(steps).max() * len(steps) / abs(values[-1] - values[0]))
    )


class SecondDial(LogitsProcessor):
    """Adds b (z_B - z_0) of another model with an inserted layer, read along with the first."""

    def __init__(self, model: Any, strength: float, attention_mask: Tensor):
        self.model, self.strength, self.mask, self.past = model, strength, attention_mask, None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids.size(1) - self.mask.size(1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), new)], dim=1)
        read = input_ids if self.past is None else input_ids[:, -1:]
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -read.size(1) :]
        around = torch.tensor([False, True]).repeat_interleave(len(read))
        with bypass(self.model, around):
            output = self.model(
                read.repeat(2, 1), attention_mask=self.mask.repeat(2, 1), position_ids=positions.repeat(2, 1),
                past_key_values=self.past, use_cache=True,
            )  # fmt: skip
        self.past = output.past_key_values
        aligned, original = output.logits[:, -1].float().chunk(2)
        return scores + self.strength * (aligned - original)


class Asked:
    """Held-out prompts, answered and read by a model at a strength."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], new: int):
        self.tokenizer, self.new = tokenizer, new
        self.inputs = encode_prompts(tokenizer, list(texts))

    def answers(self, model: Any, **how: Any) -> list[list[int]]:
        """Ids of each answer, with its end token."""
        with torch.no_grad():
            output = model.generate(**self.inputs, max_new_tokens=self.new, do_sample=False, **how)
        end, found = self.tokenizer.eos_token_id, []
        for row in output[:, self.inputs["input_ids"].size(1) :].tolist():
            found.append(row[: row.index(end) + 1] if end in row else row)
        return found

    def read(self, answers: list[list[int]], original: Any, at_strength: Any) -> dict[str, list[float]]:
        """Sums over each answer's tokens, given logits [T, V] of its ids, untrained and at the strength."""
        found: dict[str, list[float]] = {"tokens": [], "letters": [], "nll": [], "kl": [], "repeats": [], "grams": []}
        rows = zip(self.inputs["input_ids"], self.inputs["attention_mask"].bool(), answers, strict=True)
        for prompt, mask, answer in rows:
            ids = torch.cat([prompt[mask], prompt.new_tensor(answer)])
            z_0, z_s = (logits(ids)[-len(answer) - 1 : -1].float() for logits in (original, at_strength))
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            distinct, grams = counts(text, 4)
            nll = torch.nn.functional.cross_entropy(z_0, ids[-len(answer) :], reduction="sum")
            divergence = forward_kl(z_0.log_softmax(-1), z_s.log_softmax(-1)).sum()
            values = (len(answer), letters(text), float(nll), float(divergence), grams - distinct, grams)
            for name, value in zip(found, values, strict=True):
                found[name].append(float(value))
        return found


@torch.no_grad()
def two_streams(model: Any, ids: Tensor) -> Tensor:
    """Logits through an inserted layer and around it, [2, T, V]."""
    with bypass(model, torch.tensor([False, True])):
        return model(input_ids=ids.expand(2, -1), use_cache=False).logits.float()


def by_dial(asked: Asked, model: Any, strength: float) -> dict[str, list[float]]:
    """What answers at a strength of a dial are."""

    def mixed(ids: Tensor) -> Tensor:
        aligned, original = two_streams(model, ids)
        return (1 - strength) * original + strength * aligned

    answers = asked.answers(model, custom_generate=realign, strength=strength)
    return asked.read(answers, lambda ids: two_streams(model, ids)[1], mixed)


def by_scale(asked: Asked, model: Any, strength: float) -> dict[str, list[float]]:
    """What answers at a scale of an adapter are."""

    @torch.no_grad()
    def logits(ids: Tensor) -> Tensor:
        return model(input_ids=ids[None], use_cache=False).logits[0]

    def original(ids: Tensor) -> Tensor:
        with model.disable_adapter():
            return logits(ids)

    def scaled(ids: Tensor) -> Tensor:
        with rescale_adapter_scale(model, strength):
            return logits(ids)

    with rescale_adapter_scale(model, strength):
        answers = asked.answers(model)
    return asked.read(answers, original, scaled)


def two_dials(asked: Asked, second: Any, strengths: tuple[float, float]) -> dict[str, Any]:
    """How the first of two models is asked."""
    other = [SecondDial(second, strengths[1], asked.inputs["attention_mask"])] if strengths[1] else []
    return {
        "custom_generate": realign, "strength": strengths[0], "logits_processor": LogitsProcessorList(other)
    }  # fmt: skip


def by_two(asked: Asked, first: Any, second: Any, strengths: tuple[float, float]) -> dict[str, list[float]]:
    """What answers at a strength of each of two dials are."""
    a, b = strengths

    def mixed(ids: Tensor) -> Tensor:
        (to_a, original), (to_b, _) = two_streams(first, ids), two_streams(second, ids)
        return original + a * (to_a - original) + b * (to_b - original)

    answers = asked.answers(first, **two_dials(asked, second, strengths))
    return asked.read(answers, lambda ids: two_streams(first, ids)[1], mixed)


def simple_pairs(tokenizer: Any, folder: Path, args: argparse.Namespace) -> str:
    """Preferences for short words, of eight sampled answers each: a file."""
    path = folder / "simple.jsonl"
    if path.is_file():
        return str(path)
    model, rows = load_model(args.policy), []
    torch.manual_seed(0)
    asked = [row["messages"][0]["content"] for row in everyday("train")][: args.pairs]
    for start in range(0, len(asked), 16):
        texts = asked[start : start + 16]
        inputs = encode_prompts(tokenizer, texts)
        how = {"do_sample": True, "temperature": 1.0, "top_p": 0.95, "num_return_sequences": 8}
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=args.new, **how)
        written = tokenizer.batch_decode(output[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)
        for i, prompt in enumerate(texts):
            if (pair := ranked(written[8 * i : 8 * i + 8])) is not None:
                message = [{"role": "user", "content": prompt}]
                chosen, rejected = ([{"role": "assistant", "content": text.strip()}] for text in pair)
                rows.append({"prompt": message, "chosen": chosen, "rejected": rejected})
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trained(way: str, train: str, seed: int, rate: float | None, args: argparse.Namespace, folder: Path) -> Any:
    """A model after the updates of a way."""
    name = "tiny_clm" if way == "dial" else "tiny_dpo"
    keys = [f"models.policy={args.policy}", f"data.train={train}", "data.heldout=null", "eval.prompts=[]"]
    keys += [
        "eval.kl_to_initial=false",
        "eval.every=null",
        "training.max_length=512",
        "training.save_strategy=no",
        f"training.max_steps={args.updates}",
    ]
    keys += [f"output={folder}", f"seed={seed}", "options.beta=0.5"]
    keys += [] if way == "dial" else [f"models.lora={json.dumps(LORA)}", f"training.learning_rate={rate}"]
    if not (folder / "done").is_file():
        run(load_recipe(name, keys), console=Console(quiet=True))
        write_atomic(folder / "done", "")
    if way == "dial":
        return load_model(str(folder / "model"))
    return PeftModel.from_pretrained(load_model(args.policy), folder / "adapter")


PROPERTY = {"brief": "tokens", "simple": "letters"}


def value(found: Mapping[str, Sequence[float]], name: str) -> float:
    """The property, or a measure per token."""
    if name in ("tokens", "letters"):
        return float(np.nanmean(found[name]))
    over = {"repeats": "grams"}.get(name, "tokens")
    ratio = sum(found[name]) / max(1.0, sum(found[over]))
    return float(np.exp(ratio)) if name == "nll" else ratio


def chosen_rate(prop: str, train: str, asked: Asked, args: argparse.Namespace, folder: Path) -> float:
    """The rate of `lora` whose change at 1 is nearest to that of the dial."""
    path = folder / f"{prop}-rate.json"
    if not path.is_file():
        dial = trained("dial", train, CHOSEN_AT, None, args, folder / f"{prop}-dial")
        wanted = value(by_dial(asked, dial, 1.0), PROPERTY[prop])
        seen = {}
        for rate in RATES:
            model = trained("lora", train, CHOSEN_AT, rate, args, folder / f"{prop}-lora-{rate:g}")
            seen[rate] = value(by_scale(asked, model, 1.0), PROPERTY[prop])
        write_atomic(path, json.dumps({"dial": wanted, "lora": list(seen.items())}) + "\n")
    found = json.loads(path.read_text())
    print(f"{prop}, training prompts at seed {CHOSEN_AT}: {found}", flush=True)
    return min(found["lora"], key=lambda pair: abs(pair[1] - found["dial"]))[0]


def of_seed(seed: int, files: Mapping[str, str], rates: Mapping[str, float], asked: Asked, args: Any, folder: Path):
    """Property -> way -> strength -> sums over answers; and those of two dials under "two"."""
    path = folder / f"seed-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text())
    found: dict[str, Any] = {}
    dials = {}
    for prop, train in files.items():
        dials[prop] = trained("dial", train, seed, None, args, folder / f"seed-{seed}-{prop}-dial")
        scaled = trained("lora", train, seed, rates[prop], args, folder / f"seed-{seed}-{prop}-lora")
        found[prop] = {
            "dial": {f"{s:g}": by_dial(asked, dials[prop], s) for s in STRENGTHS},
            "lora": {f"{s:g}": by_scale(asked, scaled, s) for s in STRENGTHS},
        }
    brief, simple = dials["brief"], dials["simple"]
    found["two"] = {f"{a:g},{b:g}": by_two(asked, brief, simple, (a, b)) for a, b in PAIRS}
    write_atomic(path, json.dumps(found) + "\n")
    return found


MEASURES = ("tokens", "letters", "nll", "kl", "repeats")


def summed(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of means over seeds, and what was asked, with Student's intervals over seeds."""
    told: dict[str, Any] = {}
    for prop, measure in PROPERTY.items():
        for way in ("dial", "lora"):
            tables = [seed[prop][way] for seed in seeds]
            paths = [[value(table[f"{s:g}"], measure) for s in BETWEEN] for table in tables]
            ahead = np.sign(np.mean([path[-1] - path[0] for path in paths]))
            told[f"{prop}, {way}"] = {
                "table": {
                    f"{s:g}": {m: float(np.mean([value(t[f"{s:g}"], m) for t in tables])) for m in MEASURES}
                    for s in STRENGTHS
                },
                "monotone between 0 and 1, seeds": sum(bool((np.diff(path) * ahead >= 0).all()) for path in paths),
                "unevenness": list(over_seeds([unevenness(path) for path in paths])),
                "change at 1": list(over_seeds([path[-1] - path[0] for path in paths])),
                "beyond, 2 minus 1": list(
                    over_seeds([value(t["2"], measure) - value(t["1"], measure) for t in tables])
                ),
            }
        for m in ("nll", "kl", "repeats"):
            for s in ("0.5", "1", "2"):
                pairs = [value(seed[prop]["lora"][s], m) - value(seed[prop]["dial"][s], m) for seed in seeds]
                told[f"{prop}, {m} at {s}: lora minus dial"] = list(over_seeds(pairs))
    two = [seed["two"] for seed in seeds]
    told["two dials"] = {
        pair: {m: float(np.mean([value(table[pair], m) for table in two])) for m in MEASURES} for pair in two[0]
    }
    for prop, pairs in {"brief": (("1,0", "0,0"), ("1,1", "0,1")), "simple": (("0,1", "0,0"), ("1,1", "1,0"))}.items():
        for one, other in pairs:
            change = [value(t[one], PROPERTY[prop]) - value(t[other], PROPERTY[prop]) for t in two]
            told[f"{prop}, {one} minus {other}"] = list(over_seeds(change))
    return told


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="smollm2-135m")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=96, help="prompts whose answers are ranked")
    parser.add_argument("--number", type=int, default=16, help="held-out prompts")
    parser.add_argument("--new", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--work", type=Path, help="folder whose finished parts are kept")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(words)
    start, tokenizer = time.time(), load_tokenizer(args.policy)
    settings = {key: given for key, given in vars(args).items() if key not in ("out", "work", "seeds")}
    kept = json.loads(args.out.read_text()) if args.out and args.out.is_file() else {}
    if kept and {**kept["settings"], "rates": None} != {**settings, "rates": None}:
        parser.error(f"{args.out} is of other settings; name another file")
    with tempfile.TemporaryDirectory() as made:
        work = args.work or Path(made)
        work.mkdir(parents=True, exist_ok=True)
        files = {"brief": "trimtab:brevity/train", "simple": simple_pairs(tokenizer, work, args)}
        training = [row["messages"][0]["content"] for row in everyday("train")][-args.number :]
        known = Asked(tokenizer, training, args.new)
        rates = kept["settings"]["rates"] if kept else {
            prop: chosen_rate(prop, train, known, args, work) for prop, train in files.items()
        }  # fmt: skip
        asked, result = Asked(tokenizer, prompts(args.number), args.new), kept
        for seed in [one for one in args.seeds if str(one) not in kept.get("seeds", {})]:
            seeds = {**result.get("seeds", {}), str(seed): of_seed(seed, files, rates, asked, args, work)}
            seconds = kept.get("seconds", 0) + round(time.time() - start)
            result = {
                "settings": {**settings, "rates": rates}, "environment": environment(),
                "summary": summed(list(seeds.values())), "seeds": seeds, "seconds": seconds,
            }  # fmt: skip
            if args.out:  # after each seed, for one takes half an hour
                write_atomic(args.out, json.dumps(result) + "\n")
            print(f"seed {seed}: {time.time() - start:.0f} s so far", flush=True)
    for name, found in result.get("summary", {}).items():
        print(name, json.dumps(found))
    return result


if __name__ == "__main__":
    main()
