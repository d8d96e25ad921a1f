"""The smallest task, and an episode at it."""

import pytest

from tiny_gym import engine, make_task
from trimtab.gym.episode import Episode


@pytest.fixture
def task(tmp_path):
    engine()
    return make_task(tmp_path / "task")


@pytest.fixture
def episode(task, tmp_path):
    with Episode(task, tmp_path / "run") as made:
        yield made
