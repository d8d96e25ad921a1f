"""The training that a loss is judged by: `python3 train.py` trains with outputs/loss.py, and says the accuracy.

Nothing here can be changed: the evaluation has its own copy, and draws other examples.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES, PARTS, FEATURES = 8, 3, 16
EXAMPLES, NOISE, STEPS, BATCH = 1600, 0.4, 1000, 64


def drawn(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """[count, 16] features and [count] classes: each class is a cloud around three places."""
    places = torch.randn(CLASSES, PARTS, FEATURES, generator=torch.Generator().manual_seed(12345))
    classes = torch.randint(CLASSES, (count,), generator=source)
    parts = torch.randint(PARTS, (count,), generator=source)
    return places[classes, parts] + 0.75 * torch.randn(count, FEATURES, generator=source), classes


def mislabelled(classes: Tensor, source: torch.Generator) -> Tensor:
    """The same with 40 % replaced by any other class."""
    others = (classes + torch.randint(1, CLASSES, classes.shape, generator=source)) % CLASSES
    return torch.where(torch.rand(classes.shape, generator=source) < NOISE, others, classes)


def trained(gradient: Callable[[Tensor, Tensor, int], Tensor], data: int, seed: int) -> nn.Module:
    """A network that has been trained on wrong labels.

    Args:
        gradient: [64, 8] logits, [64] labels and the step, from 0 to 999 -> [64, 8], that of the loss.
        data: seed of the examples.
        seed: of the first weights and of the order.
    """
    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(data)
    features, classes = drawn(EXAMPLES, source)
    labels = mislabelled(classes, source)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, CLASSES)
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        if step % (EXAMPLES // BATCH) == 0:
            order = torch.randperm(EXAMPLES).view(-1, BATCH)
        picked = order[step % (EXAMPLES // BATCH)]
        logits = model(features[picked])
        optimizer.zero_grad()
        logits.backward(gradient(logits.detach(), labels[picked], step))
        optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, seed: int, count: int = 4000) -> float:
    """On examples with the right classes."""
    features, classes = drawn(count, torch.Generator().manual_seed(seed))
    return (model(features).argmax(1) == classes).float().mean().item()


if __name__ == "__main__":
    from serve import gradient

    seed = int(os.environ.get("SEED", "0"))
    print(f"accuracy {accuracy(trained(gradient, seed, seed), seed + 1):.3f}")
