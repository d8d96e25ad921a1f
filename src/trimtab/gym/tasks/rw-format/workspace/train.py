"""Train the policy with outputs/reward.py, and show what it writes: python3 train.py [SEED]"""

import sys
from pathlib import Path

import torch
from policy import STEPS, as_completion, as_prompt, reinforced, sample, start, training_prompts

sys.path.insert(0, "outputs")
from reward import reward


def main() -> None:
    torch.set_num_threads(1)
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    policy = start(Path("start.safetensors"))
    for step, mean in reinforced(policy, lambda *both: [reward(*one) for one in zip(*both)], seed):
        if (step + 1) % 20 == 0:
            print(f"{step + 1} of {STEPS} updates: mean reward {mean:.3f}")
    draw = torch.Generator().manual_seed(seed + 1)
    prompts = torch.cat([training_prompts(draw) for _ in range(3)])
    for prompt, written in zip(prompts, sample(policy, prompts, draw)[0]):
        both = as_prompt(prompt), as_completion(written)
        print(f"{both[0]} -> {both[1]:<9} reward {reward(*both):.3f}")


if __name__ == "__main__":
    main()
