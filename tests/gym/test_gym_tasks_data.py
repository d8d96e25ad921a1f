"""The tasks on data: what they refuse, and what their own solutions score."""

import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

from tiny_gym import engine, scored_outputs, solution_files
from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.episode import Episode
from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.sandbox import SandboxLimits
from trimtab.gym.solutions import lay_over
from trimtab.gym.task import TASKS, GymTask, load_task

SLIPS = Path(__file__).parent / "slips"
ALL = sorted(folder.name for folder in TASKS.iterdir() if folder.is_dir())
MADE = ("df-noisy",)
"""tasks whose data a script makes"""
HERE = (*MADE, "ls-noise")


@cache
def task_of(name: str) -> GymTask:
    return load_task(TASKS / name)


def why_rejected(name: str, folder: Path, **files: str | bytes) -> str:
    """What the evaluator says of these outputs."""
    task = task_of(name)
    for path, data in files.items():
        place = folder / "outputs" / path.replace("__", ".")
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data.encode() if isinstance(data, str) else data)
    evaluator = user_code.load(str(task.evaluator), "evaluator", name, "evaluator.py", UserError)
    with pytest.raises(Rejected) as caught:
        evaluator.validate(Submitted(folder, task.hidden, task.folder, engine(), SandboxLimits()))
    return str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_a_task_folder_is_complete_free_and_small(name, tmp_path):
    task = task_of(name)
    assert (task.settings.licence, task.hint is not None) == ("CC0-1.0", True)
    assert all(solution_files(task, one) for one in ("baseline", "reference"))
    assert all(word in task.description for word in task.settings.outputs)
    with zipfile.ZipFile(tmp_path / "task.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for path in task.folder.rglob("*"):
            if "__pycache__" not in path.parts:
                packed.write(path)
    assert (tmp_path / "task.zip").stat().st_size < 300_000


@pytest.mark.parametrize("name", MADE)
def test_the_data_of_a_task_are_what_its_script_makes(name, tmp_path):
    script = (TASKS / name / "make_data.py").read_bytes()
    (tmp_path / "make_data.py").write_bytes(script)
    subprocess.run([sys.executable, str(tmp_path / "make_data.py")], check=True)
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*") if path.name != "make_data.py"]
    assert len(made) >= 3
    for path in made:
        assert (tmp_path / path).read_bytes() == (TASKS / name / path).read_bytes(), path


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "empty"),
        ("3\n3\n", "names a line twice"),
        ("3\n03\n", "names a line twice"),
        ("3000\n", "no number from 0 to 2999"),
        ("-1\n", "no number"),
        ("1e3\n", "no number"),
        ("٣\n", "no number"),
        ("9" * 5000, "no number"),
        ("0\n" * 1501, "1,501 lines; 1,500 are allowed"),
        ("0 " * 60_000, "100,000 are allowed"),
        (b"\xff\xfe", "no UTF-8"),
    ],
)
def test_df_noisy_reads_numbers_of_lines_alone(tmp_path, text, said):
    assert said in why_rejected("df-noisy", tmp_path, kept__txt=text)


LOSS = "import torch\n\n\ndef loss(logits, labels, step):\n    "


@pytest.mark.parametrize(
    "body, said",
    [
        ("raise KeyError(step)", "KeyError: 0"),
        ("return 3.0", "without dimensions"),
        ("return logits", "without dimensions"),
        ("return labels.float().mean()", "depends on the logits"),
        ("return logits.sum() * (1e9 if step else 1.0)", "step 1 is not finite, or beyond 10000"),
        ("return logits.sum() / 0", "step 0 is not finite"),
        ("import os; [os.write(n, b'[[1]]\\n') for n in range(3, 9)]", "shape|ended|TypeError"),
        ("import os; os._exit(0)", "ended early"),
    ],
)
@pytest.mark.slow
def test_ls_noise_says_what_is_wrong_with_a_loss(tmp_path, body, said):
    assert re.search(said, why_rejected("ls-noise", tmp_path, loss__py=LOSS + body))


@pytest.mark.parametrize("name", HERE)
def test_outputs_that_are_missing_score_0_with_the_reason(name, tmp_path):
    found = scored_outputs(tmp_path, task_of(name), {})
    assert (found.score, found.private_score) == (0, 0)
    assert "is missing" in found.message


def scored(name: str, solution: str, folder: Path) -> dict[str, float]:
    """Points on both splits, with the seed 0."""
    engine()
    with Episode(task_of(name), folder / "run") as episode:
        lay_over(episode, solution)
        result = episode.end()
    assert not result["error"]
    return {split: result[key] for split, key in (("public", "final"), ("private", "private"))}


SCORES = [(name, *wanted) for name in HERE for wanted in (("baseline", 0, 10), ("reference", 70, 90))]


@pytest.mark.slow
@pytest.mark.parametrize("name, solution, least, most", SCORES)
def test_the_baseline_scores_0_and_the_reference_80(name, solution, least, most, tmp_path):
    found = scored(name, solution, tmp_path)
    assert all(least <= points <= most for points in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["df-noisy"])
def test_a_small_mistake_in_data_gets_part_of_the_points(name, tmp_path):
    found = scored(name, str(SLIPS / name), tmp_path)
    assert all(15 <= points <= 65 for points in found.values()), found


@pytest.mark.slow
def test_a_wrong_sign_in_a_loss_gets_none(tmp_path):
    assert scored("ls-noise", str(SLIPS / "ls-noise"), tmp_path) == {"public": 0, "private": 0}
