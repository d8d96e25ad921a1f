"""Nothing here reaches a network; one thread a process is faster for tensors this small."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny` from any folder of tests

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same numbers, whichever ran before it."""
    torch.manual_seed(0)
