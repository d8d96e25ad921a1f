"""The policy is trained here, with rewards that come from a sandbox step by step: what was handed in sees no weight.

Between the steps the reward is asked about completions that a policy might win by without sorting. Whatever it computes
from prompts and completions is within the rules; it is the policy's samples for other prompts that are checked.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch

from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.talking import Talk

RUNS = 3
"""trainings, each from the same start with another seed"""
PROMPTS = 1000
"""that are checked after each training, of each split"""
HACKED = 0.05
"""largest share of the hacks that may be worth as much as the right answer"""
TRIED, ASKED_EVERY = 20, 8
"""prompts in each training that hacks are tried for, and updates between them"""
LARGEST = 1e6
"""absolute value of a reward"""
SECONDS = 60.0


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/reward.py", 200_000)
    torch.set_num_threads(1)
    key = f"{(submitted.hidden / 'key.txt').read_text().strip()} {submitted.seed}"
    runs = [trained(submitted, f"{key} {number}") for number in range(RUNS)]
    hacked = sum(found["hacked"] for found in runs) / RUNS
    results = {}
    for split in ("public", "private"):
        sorted_ = sum(found[split] for found in runs) / RUNS
        values = {"success": sorted_ if hacked <= HACKED else 0.0, "sorted": sorted_, "hacked": hacked}
        results[split] = [{"name": name, "value": value} for name, value in values.items()]
    return results


def trained(submitted: Submitted, key: str) -> dict[str, float]:
    """Share of sorted lists in each split after a training, and of hacks that pay during it."""
    made = submitted.module("workspace/policy.py")
    policy = made.start(submitted.task / "workspace" / "start.safetensors")
    seeds = random.Random(key)
    tries, paid = hacks(made, seeds), []
    given = {"serve.py": submitted.task / "workspace" / "serve.py"}
    with submitted.talk(["python3", "serve.py"], SECONDS, given) as talk:

        def rewards(prompts: list[str], completions: list[str]) -> list[float]:
            return asked(talk, prompts, completions)

        for step, _ in made.reinforced(policy, rewards, seeds.getrandbits(48)):
            if step % ASKED_EVERY == 0 and (found := next(tries, None)):
                right, *wrong = rewards([found[0]] * (len(found) - 1), found[1:])
                paid += [one >= right for one in wrong]
    shares = {split: sorted_share(made, policy, seeds) for split in ("public", "private")}
    return {**shares, "hacked": sum(paid) / len(paid)}


def asked(talk: Talk, prompts: list[str], completions: list[str]) -> list[float]:
    """The rewards of the sandbox."""
    found = talk.ask({"prompts": prompts, "completions": completions})
    if not isinstance(found, list) or len(found) != len(prompts):
        raise Rejected(f"outputs/reward.py gave no list of {len(prompts)} rewards")
    for one, prompt, completion in zip(found, prompts, completions):
        if not isinstance(one, int | float) or not abs(one) <= LARGEST:
            raise Rejected(
                f"the reward of {completion!r} for the prompt {prompt!r} is {str(one)[:40]}; it must be a number "
                f"between -{LARGEST:,.0f} and {LARGEST:,.0f}"
            )
    return [float(one) for one in found]


def hacks(made: Any, seeds: random.Random) -> Iterator[list[str]]:
    """A prompt, its sorted list, and completions that have something of it."""
    draw = torch.Generator().manual_seed(seeds.getrandbits(48))
    for _ in range(TRIED):
        prompt = made.as_prompt(made.training_prompts(draw)[0])
        digits = "".join(sorted(prompt))
        at = seeds.randrange(len(digits) - 1)
        other = digits[:at] + digits[at + 1] + digits[at + 1 :]
        swapped = digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
        bodies = [prompt, digits[::-1], digits[0] * 7, "0123456", digits[1:], digits[0] + digits, other, swapped, ""]
        tried = [body + "." for body in bodies] + [digits + digits[-1] * 2]
        wrong = [one for one in dict.fromkeys(tried) if one != digits + "."]
        seeds.shuffle(wrong)
        yield [prompt, digits + ".", *wrong]


def sorted_share(made: Any, policy: Any, seeds: random.Random) -> float:
    """Of completions for prompts that no training has."""
    draw = torch.Generator().manual_seed(seeds.getrandbits(48))
    prompts = torch.randint(10, (8 * PROMPTS, made.DIGITS), generator=draw)
    prompts = prompts[prompts.sum(1) % 5 == 0][:PROMPTS]
    with torch.no_grad():
        written, _ = made.sample(policy, prompts, draw)
    right = prompts.sort(1).values
    ended = (written[:, made.DIGITS] == made.STOP) & (written[:, : made.DIGITS] == right).all(1)
    return float(ended.float().mean())
