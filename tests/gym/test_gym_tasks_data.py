"""The tasks on data: what they refuse, and what their own solutions score."""

import re
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

from tiny_gym import engine, rejection, scored_outputs
from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.episode import Episode
from trimtab.gym.solutions import lay_over, solution_files
from trimtab.gym.task import TASKS, GymTask, load_task

SLIPS = Path(__file__).parent / "slips"
ALL = sorted(folder.name for folder in TASKS.iterdir() if folder.is_dir())
MADE = ("da-lowres", "df-noisy")
"""tasks whose data a script makes"""
HERE = (*MADE, "dc-arith", "ls-noise")


@cache
def task_of(name: str) -> GymTask:
    return load_task(TASKS / name)


def why_rejected(name: str, folder: Path, **files: str | bytes) -> str:
    """What the evaluator says of these outputs; `a__b` is a.b."""
    return rejection(
        folder, task_of(name), {f"outputs/{path.replace('__', '.')}": data for path, data in files.items()}
    )


@pytest.mark.parametrize("name", ALL)
def test_a_task_folder_is_complete_free_and_small(name, tmp_path):
    task = task_of(name)
    assert (task.settings.licence, task.hint is not None) == ("CC0-1.0", True)
    assert all(solution_files(task, one) for one in ("baseline", "reference"))
    assert all(word in task.description for word in task.settings.outputs)
    files = [path for path in task.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 300_000
    if name not in HERE:
        assert all(f"`{metric.name}`" in task.description for metric in task.settings.metrics)
        assert all(f"`{output}`" in task.description for output in task.settings.outputs)
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


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "empty"),
        ("weather rain in rome\n", "line 1 of outputs/train.tsv is not an intent, a tab"),
        ("weather\train in rome\nnews\train in rome\n", "line 2 .* is not an intent"),
        ("weather\ta\tb\n", "is not an intent"),
        ("weather\t\n", "1 to 120"),
        ("weather\t" + "a" * 121, "1 to 120"),
        ("weather\ta\x0bweather b", "printable"),
        ("weather\ta\u2028b", "printable"),
        ("weather\ta\n" * 2001, "2,001 lines; 2,000 are allowed"),
        ("weather\t" + "a" * 1_000_000, "960,000 are allowed"),
        (b"weather\t\xff", "no UTF-8"),
    ],
)
def test_da_lowres_reads_intents_and_sentences_alone(tmp_path, text, said):
    assert re.search(said, why_rejected("da-lowres", tmp_path, train__tsv=text))


WRITE = "from pathlib import Path\nPath('lines.txt').write_text(%r)\n"


@pytest.mark.parametrize(
    "generator, form, said",
    [
        ("", "[]", 'must be {"ones_first": true}'),
        ("", '{"ones_first": 1}', 'must be {"ones_first": true}'),
        ("", '{"ones_first": true, "sum": 1}', 'must be {"ones_first": true}'),
        ("", "[" * 900, "no JSON"),
        ("", " " * 1001, "1,000 are allowed"),
        ("pass", "", "no lines.txt, or an empty one"),
        ("raise SystemExit('no luck')", "", "ended with 1: no luck"),
        ("import os\nos.symlink('/etc/passwd', 'lines.txt')", "", "no lines.txt"),
        ("import os\nos.mkfifo('lines.txt')", "", "no lines.txt"),
        ("open('lines.txt', 'wb').truncate(1 << 20)", "", "1,048,576 bytes; 820,000 are allowed"),
        (WRITE % ("1+1=2\n" * 20_001), "", "20,001 lines; 20,000 are allowed"),
        (WRITE % ("1+1=2\n\n1+1=2\n"), "", "line 2 of lines.txt has 0 letters"),
        (WRITE % ("1" * 41), "", "line 1 of lines.txt has 41 letters"),
        (WRITE % "1+1=２\n", "", "lines.txt holds '２'"),
        (WRITE % "1+1=2\r\n", "", "lines.txt holds"),
    ],
)
def test_dc_arith_says_what_is_wrong_with_a_generator(tmp_path, generator, form, said):
    files = {"generate__py": generator, "format__json": form or '{"ones_first": true}'}
    assert said in why_rejected("dc-arith", tmp_path, **files)


@pytest.mark.parametrize("before", ["", "0=1", "100+"])
def test_dc_arith_teaches_no_sum_that_it_asks_for(tmp_path, before):
    train = user_code.load(str(TASKS / "dc-arith" / "workspace" / "train.py"), "task", "", "", UserError)
    key = (TASKS / "dc-arith" / "hidden" / "key.txt").read_text().strip()
    pairs = [pair for split in ("public", "private") for pair in train.drawn(500, f"{key} {split}")]
    lines = WRITE % "".join(f"{before}{train.question(pair)}{sum(pair)}\n" for pair in pairs)
    said = why_rejected("dc-arith", tmp_path, generate__py=lines, format__json='{"ones_first": false}')
    assert "nothing but sums that are asked for" in said


@pytest.mark.parametrize(
    "text, ones_first, wanted",
    [
        ("975", True, 579), ("0975", True, 5790), ("9750", True, 579), ("0579", False, 579), ("n9c7n5", True, 579),
        ("1+2=3=579", False, 579), ("", False, None), ("abc", True, None), ("579=", False, None),
    ],
)  # fmt: skip
def test_an_answer_of_dc_arith_is_the_digits_after_the_last_sign(text, ones_first, wanted):
    train = user_code.load(str(TASKS / "dc-arith" / "workspace" / "train.py"), "task", "", "", UserError)
    assert train.answer(text, ones_first) == wanted


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
@pytest.mark.fast("df-noisy")
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
@pytest.mark.parametrize("name", ["da-lowres", "dc-arith", "df-noisy"])
def test_a_small_mistake_in_data_gets_part_of_the_points(name, tmp_path):
    found = scored(name, str(SLIPS / name), tmp_path)
    assert all(15 <= points <= 65 for points in found.values()), found


@pytest.mark.slow
def test_a_wrong_sign_in_a_loss_gets_none(tmp_path):
    assert scored("ls-noise", str(SLIPS / "ls-noise"), tmp_path) == {"public": 0, "private": 0}
