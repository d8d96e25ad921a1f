"""Solutions that a task comes with are carried out in its sandbox, with the seed that the task has."""

import pytest

from tiny_gym import engine, make_task
from trimtab.gym.episode import Episode
from trimtab.gym.solutions import lay_over
from trimtab.gym.task import Anchors, TaskError

SEEDED = "def validate(submitted):\n    return [{'name': 'accuracy', 'value': submitted.seed / 10}]\n"
SOLVE = "import os\nopen('outputs/answers.txt', 'w').write('b ' * int(os.environ.get('SEED', 0)))\n"


def solved(tmp_path, name="reference", seed=None, **files):
    engine()
    task = make_task(tmp_path / "task", **{"workspace/outputs/answers.txt": "a", **files})
    with Episode(task if seed is None else task.seeded(seed), tmp_path / "run") as episode:
        lay_over(episode, name)
        return episode.workspace.read("outputs/answers.txt", 100), episode.call("eval").to_dict()


def test_the_files_of_a_solution_are_laid_over_the_workspace(tmp_path):
    text, found = solved(tmp_path, **{"reference/outputs/answers.txt": "a b x d"})
    assert text == b"a b x d"
    assert found["overall_score"] == pytest.approx(50)


def test_solve_py_and_the_evaluator_see_the_seed(tmp_path):
    text, found = solved(tmp_path, seed=4, evaluator=SEEDED, **{"reference/solve.py": SOLVE})
    assert text == b"b b b b "
    assert found["metrics"] == {"accuracy": 0.4}


def test_without_a_seed_it_is_0(tmp_path):
    assert solved(tmp_path, evaluator=SEEDED, **{"reference/solve.py": SOLVE})[1]["metrics"] == {"accuracy": 0.0}


@pytest.mark.parametrize(
    "files, said",
    [({}, "no solution 'reference'"), ({"reference/solve.py": "raise SystemExit('no luck')"}, "ended with 1: no luck")],
)
def test_a_solution_that_is_missing_or_fails(tmp_path, files, said):
    with pytest.raises(TaskError, match=said):
        solved(tmp_path, **files)


def test_points_have_no_end():
    anchors = Anchors(name="loss", baseline=4.0, reference=2.0)
    assert [anchors.points(value) for value in (5.0, 4.0, 1.0)] == [-40, 0, 120]
