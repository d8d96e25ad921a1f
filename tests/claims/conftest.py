"""What the claims on toys share: one run of a file's EXPERIMENT at its SEEDS."""

import pytest
import torch
import toys


@pytest.fixture(scope="module")
def result(request) -> toys.Result:
    torch.set_num_threads(1)
    return toys.run(request.module.EXPERIMENT, request.module.SEEDS)
