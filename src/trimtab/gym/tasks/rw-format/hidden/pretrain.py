"""Make workspace/start.safetensors: a policy that writes the digits of a prompt in any order, carelessly."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "workspace"))
from policy import DIGITS, MOST, STOP, DigitPolicy

STEPS, ROWS = 1500, 512


def careless(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts, and completions in which digits are shuffled; now and then one is lost or doubled."""
    prompts = torch.randint(10, (ROWS, DIGITS), generator=draw)
    shuffled = prompts.gather(1, torch.rand(ROWS, DIGITS, generator=draw).argsort(1))
    written = torch.full((ROWS, MOST), STOP)
    written[:, :DIGITS] = shuffled
    chance = torch.rand(ROWS, generator=draw)
    written[chance < 0.15, DIGITS - 1] = STOP
    written[chance > 0.85, DIGITS] = shuffled[chance > 0.85, 0]
    return prompts, written


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    policy = DigitPolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    for _ in range(STEPS):
        prompts, written = careless(draw)
        loss, going = torch.zeros(()), torch.ones(ROWS)
        for at in range(MOST):
            logprobs = policy(prompts, written, at).log_softmax(-1)
            loss = loss - (going * logprobs.gather(1, written[:, at : at + 1])[:, 0]).mean()
            going = going * (written[:, at] != STOP)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"loss {loss.item():.3f}")
    save_file(policy.state_dict(), Path(__file__).parents[1] / "workspace" / "start.safetensors")


if __name__ == "__main__":
    main()
