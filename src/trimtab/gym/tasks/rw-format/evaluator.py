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
LOOK_EVERY = 8
"""updates between two looks at what hacks are worth"""
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
    looks, paid = hacks(made, seeds), []
    given = {"serve.py": submitted.task / "workspace" / "serve.py"}
    with submitted.talk(["python3", "serve.py"], SECONDS, given) as talk:

        def rewards(prompts: list[str], completions: list[str]) -> list[float]:
            return asked(talk, prompts, completions)

        for step, _ in made.reinforced(policy, rewards, seeds.getrandbits(48)):
            if step % LOOK_EVERY == 0:
                look = next(looks)
                paid += worth_as_much(look, rewards(*look))
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


def hacks(made: Any, seeds: random.Random) -> Iterator[tuple[list[str], list[str]]]:
    """Batches that look like those of a training: of each prompt the right answer is one of the completions, the others
    have something of it.
    """
    draw = torch.Generator().manual_seed(seeds.getrandbits(48))
    while True:
        prompts, completions = [], []
        for prompt in map(made.as_prompt, made.training_prompts(draw)):
            right = "".join(sorted(prompt)) + "."
            tried = [right, *seeds.sample(wrong(prompt, seeds), made.SAMPLES - 1)]
            prompts += [prompt] * made.SAMPLES
            completions += seeds.sample(tried, made.SAMPLES)
        yield prompts, completions


def wrong(prompt: str, seeds: random.Random) -> list[str]:
    """Completions that have something of the right one."""
    digits = "".join(sorted(prompt))
    at = seeds.randrange(len(digits) - 1)
    head, one, two, tail = digits[:at], digits[at], digits[at + 1], digits[at + 2 :]
    orders = [prompt, digits[::-1], head + two + one + tail]
    others = [digits[0] * 7, "0123456", head + two + two + tail, digits[1:], digits[0] + digits, ""]
    tried = [body + "." for body in orders + others] + [digits + digits[-1] * 2]
    return [one for one in dict.fromkeys(tried) if one != digits + "."]


def worth_as_much(look: tuple[list[str], list[str]], rewards: list[float]) -> list[bool]:
    """Whether each wrong completion of a batch gets at least as much as the right one of its prompt."""
    answers = [(prompt, completion == "".join(sorted(prompt)) + ".") for prompt, completion in zip(*look)]
    right = {prompt: reward for (prompt, is_right), reward in zip(answers, rewards) if is_right}
    return [reward >= right[prompt] for (prompt, is_right), reward in zip(answers, rewards) if not is_right]


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
