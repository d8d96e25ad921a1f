"""Train a tiny reward model on features of replies, and score others with it.

python3 train.py                            train on four fifths of pairs.jsonl, and say how it does on the rest
python3 train.py REPLIES.jsonl SCORES.json  train on all of it, and score {"prompt": ..., "response": ...} of each line
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, "outputs")
import features as given

HIDDEN, STEPS, RATE, DECAY = 8, 300, 0.02, 0.02


class ReplyScorer(nn.Module):
    """A linear function of standardised features, and a small network beside it."""

    def __init__(self, seen: Tensor):
        super().__init__()
        self.mean, self.scale = seen.mean(0), seen.std(0).clamp(min=1e-3)
        self.linear = nn.Linear(seen.shape[1], 1, bias=False)
        self.bent = nn.Sequential(nn.Linear(seen.shape[1], HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
        for last in (self.linear.weight, self.bent[2].weight, self.bent[2].bias):
            nn.init.zeros_(last)

    def forward(self, values: Tensor) -> Tensor:
        values = (values - self.mean) / self.scale
        return (self.linear(values) + self.bent(values)).squeeze(-1)


def loss_of(margins: Tensor) -> Tensor:
    """The loss that features.py defines, else that of Bradley and Terry."""
    return given.loss(margins) if hasattr(given, "loss") else -nn.functional.logsigmoid(margins).mean()


def featured(prompts: list[str], replies: list[str]) -> Tensor:
    rows = [[float(value) for value in given.features(*both)] for both in zip(prompts, replies)]
    values = torch.tensor(rows)
    if values.dim() != 2 or not values.isfinite().all():
        raise SystemExit("features.py: features must be finite numbers, as many for each reply")
    return values


def trained(pairs: list[dict[str, str]]) -> ReplyScorer:
    prompts = [pair["prompt"] for pair in pairs]
    chosen, rejected = (featured(prompts, [pair[name] for pair in pairs]) for name in ("chosen", "rejected"))
    torch.manual_seed(int(os.environ.get("SEED", "0")))
    model = ReplyScorer(torch.cat([chosen, rejected]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model(chosen) - model(rejected)).backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    if len(sys.argv) == 3:
        model = trained(pairs)
        replies = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
        values = featured([one["prompt"] for one in replies], [one["response"] for one in replies])
        Path(sys.argv[2]).write_text(json.dumps(model(values).tolist()))
        return
    cut = len(pairs) * 4 // 5
    model, rest = trained(pairs[:cut]), pairs[cut:]
    prompts = [pair["prompt"] for pair in rest]
    margins = model(featured(prompts, [one["chosen"] for one in rest])) - model(
        featured(prompts, [one["rejected"] for one in rest])
    )
    print(f"agrees with {float((margins > 0).float().mean()):.3f} of {len(rest)} noisy pairs that it has not seen")


if __name__ == "__main__":
    main()
