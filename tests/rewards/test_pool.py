"""Mathematics that is equal or not, and what answers that never end, break or overflow cost."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from tiny_table import table
from trimtab.rewards import pool as mathpool
from trimtab.rewards.mathematics import latex, stated, verdict
from trimtab.rewards.pool import LONGEST, MathPool, PoolError

ENDLESS = r"\boxed{10^{10^{10}}}"


# ---------------------------------------------------------------- what is equal


@table(
    ("truth", "answer", "wanted"),
    [
        ("1234", "1,234", True),
        ("1234567", "1 234 567", True),
        ("1234", r"1\,234", True),
        ("1234", "1{,}234", True),
        ("235", r"1\,234", False),
        ("(1, 234)", "(1,234)", True),
        ("(1,234)", "1234", False),
        ("(1234, 5)", "(1,234, 5)", True),
        ("100, 200, 300", "100,200,300", True),
        ("1500", "1.5e3", True),
        ("0.0015", "1.5E-3", True),
        (r"6\times 10^{-7}", r"3\times 10^{-7}", False),
        ("0.0000006", "0.0000003", False),
        ("10^{-20}", r"2\cdot 10^{-20}", False),
        (r"1.1\times 10^{23}", "110000000000000000000000", True),
        ("123456789012345678", "123456789012345679.0", False),
        ("1234567.891", "1234567.892", False),
        ("1/3", "0.333333", True),
        ("1/3", "0.3333", False),
        ("29.67", "29.669999", False),
        ("0", "0.00", True),
        ("0", "0.0000001", False),
        (r"\sqrt{8}", "2.828427", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("8", "2**3", True),
        ("2", "2**3", False),
        ("-1.5", "-1 1/2", True),
        ("1/3", r"0.\overline{3}", True),
        ("7/12", r"0.58\overline{3}", True),
        ("0", r"0.\overline{3}", False),
        (r"\pi/4", "pi/4", True),
        ("x^2", "x²", True),
        ("x^{12}", "x^12", True),
        ("50", r"50\%", True),
        ("1/8", "12.5%", True),
        ("12.5", "12.5%", True),
        ("12.5", "0.125", False),
        (r"12\%", "12.5%", False),
        ("12%", "0.12", True),
        ("5", "x^2 = 5", False),
        ("5", "2x = 5", False),
        ("5", "x = 5", True),
        ("5", "f(1) = 5", True),
        ("2x + 1", "f(x) = 1 + 2x", True),
        ("5", "3 + 2 = 5", True),
        ("x = 5", "5", True),
        ("(1,2)", r"\{1,2\}", False),
        (r"\{1,2\}", "(1,2)", False),
        ("(1,2)", "1, 2", True),
        ("(1,2)", "[1,2]", False),
        ("(1,2)", "(2,1)", False),
        (r"\{1,2,3\}", r"\{3,1,2\}", True),
        (r"(-\infty, 3]", r"x \le 3", True),
        (r"(-\infty, 3]", "x < 3", False),
        ("540", "540 km/h", True),
        ("5", r"5 \text{ m/s}^2", True),
        ("18", r"\$18", True),
        ("90", "90°", True),
        ("x^2+2x+1", "1 + 2*x + x**2", True),
        ("x^2+2x+1", "(x-1)^2", False),
        (r"\begin{pmatrix} 3 & -3 \\ 0 & -2 \end{pmatrix}", r"\begin{bmatrix} 3&-3\\0&-2 \end{bmatrix}", True),
        (r"\begin{pmatrix} 3 & -3 \\ 0 & -2 \end{pmatrix}", r"\begin{bmatrix} 3 & -2 \\ 0 & -2 \end{bmatrix}", False),
    ],
)
def test_answers_are_equal_by_what_they_mean(truth, answer, wanted):
    for said in (rf"so \boxed{{{answer}}}", f"Answer: {answer}", f"The answer is ${answer}$ because so it is."):
        assert (verdict(said, truth) == "correct") is wanted, said


@table(
    ("text", "wanted"),
    [
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$x=\boxed{1}$ or $x=\boxed{2}$", "1, 2"),
        (r"\boxed{3} lemmas give \boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{{a}} \boxed{cut off", "{a}"),
        ("The answer is 3.\nThe answer is **4**.", "4"),
        ("The answer is:\n$$\nx+1\n$$\nas said", "x+1"),
        ("The answer is $x=1$ or $x=2$, since $3$ is no root.", "x=1, x=2"),
        ("She pays 5. The answer is $5 and not $6.", "$5"),
        ("2 + 3 = 5\n#### 5", "5"),
        ("The answer is 8. He bought them on day 3.", "8"),
        ("The answer is 8, since 5 + 3 = 8 and not 9.", "8"),
        ("The answer is **42**. Let me know if you need 2 more.", "42"),
        ("#### 18 (2 left)", "18"),
        ("The answer is 12 (12 = 3 * 4).", "12"),
        ("The answer is f(x) = 2(x + 1).", "f(x) = 2(x + 1)"),
        ("The answer is not 8. The answer would be 9.", "9"),
        ("答案是12。", "12"),
        ("x^2 + 1", "x^2 + 1"),
        ("I think it must be 7", None),
        ("", None),
    ],
)
def test_a_text_settles_on_what_it_boxes_or_announces(text, wanted):
    assert stated(text) == wanted


def test_a_truth_may_be_words():
    assert verdict("The answer is: No solution.", "no solution") == "correct"
    assert verdict(r"\boxed{\text{Paris}}", "Paris") == "correct"
    assert verdict(r"\boxed{\text{Rome}}", r"\text{Paris}") == "incorrect"


def test_a_text_that_announces_nothing_is_read_by_math_verify():
    assert verdict("I think it must be 7", "7") == "correct"
    assert verdict("I think it must be 7", "8") == "incorrect"
    assert verdict("I do not know", "7") == "unparsed"


def test_of_what_cannot_be_read_no_part_counts():
    assert latex("2**3 − 1") == "2^{3} - 1"
    for text in ("2 ] 3", "2 & 3", "2 ^ ^ 3"):
        assert verdict(rf"\boxed{{{text}}}", "2") == "unparsed"


def test_the_truth_may_be_the_end_of_a_solution():
    assert verdict("The answer is 72", "48 / 2 = 24, and 48 + 24 = 72\n#### 72") == "correct"
    assert verdict("The answer is 24", "48 / 2 = 24, and 48 + 24 = 72\n#### 72") == "incorrect"


# ---------------------------------------------------------------- the pool


@pytest.fixture
def pool():
    with MathPool(seconds=1.0, workers=1) as made:
        made.grade(["1"], ["2"])
        yield made


@pytest.fixture(scope="module")
def patient():
    """For answers that end: a busy machine must not time them out. Its one worker is started once for all tests."""
    with MathPool(seconds=60.0, workers=1) as made:
        made.grade(["1"], ["2"])
        yield made


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def asked(pool: MathPool) -> int:
    """The process id of its only worker, which has started."""
    pool.grade(["1"], ["2"])
    (worker,) = pool._workers
    assert worker._process.pid in children()
    return worker._process.pid


def test_outcomes_come_in_the_order_of_the_questions_and_are_counted():
    with MathPool(seconds=2.0, workers=2) as both:
        texts = [rf"\boxed{{{i}}}" for i in range(40)]
        texts[3], texts[5] = ENDLESS, "I do not know"
        outcomes = both.grade(texts, [str(i - i % 2) for i in range(40)])
        wanted = ["incorrect" if i % 2 else "correct" for i in range(40)]
        wanted[3], wanted[5] = "timed out", "unparsed"
        assert outcomes == wanted
        assert both.counts == {"correct": 20, "incorrect": 18, "unparsed": 1, "timed out": 1}


@pytest.mark.slow
def test_no_process_starts_before_the_first_question_and_none_is_left():
    before = children()
    pool = MathPool(workers=2)
    assert pool.grade([], []) == []
    assert children() == before
    assert pool.grade(["1"], ["1"]) == ["correct"]
    assert len(children() - before) == 1, "one question needs one worker"
    pool.close()
    assert children() == before
    assert pool.grade(["1"], ["1"]) == ["correct"]
    del pool
    assert children() == before


def test_an_endless_answer_costs_its_limit_and_the_next_is_judged(pool):
    start = time.monotonic()
    assert pool.grade([ENDLESS], ["7"]) == ["timed out"]
    assert 1.0 <= time.monotonic() - start < 10.0, "the start of the next worker is not waited for"
    assert pool.grade([r"\boxed{7}"], ["7"]) == ["correct"]


def test_a_start_does_not_count_against_the_limit_of_an_answer():
    with MathPool(seconds=0.2, workers=1) as fast:
        start = time.monotonic()
        assert fast.grade([r"\boxed{7}"], ["7"]) == ["correct"]
        assert time.monotonic() - start > 0.2, "the import takes longer than the answer may"


@pytest.mark.parametrize(
    "text", ["", "\0" * 100, "\ud800 \U0001f600", r"\boxed{" * 10_000 + "1" + "}" * 10_000, "line\nline\r\n\u2028"]
)
def test_odd_texts_are_unparsed(patient, text):
    assert patient.grade([text, r"\boxed{7}"], ["7", "7"]) == ["unparsed", "correct"]


def test_of_a_long_text_the_end_is_read(patient):
    assert patient.grade(["\\boxed{3} " + "word " * LONGEST + r"\boxed{7}"], ["7"]) == ["correct"]
    assert patient.grade([r"\boxed{7}" + " word" * LONGEST], ["7"]) == ["unparsed"]


def test_a_worker_that_dies_is_replaced_and_its_answer_is_incorrect(patient):
    started = threading.Event()

    victim = asked(patient)

    def kill():
        time.sleep(0.3)
        started.set()
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert patient.grade([ENDLESS, r"\boxed{7}"], ["7", "7"]) == ["crashed", "correct"]
    thread.join()
    assert started.is_set()


def test_a_worker_that_was_killed_idle_costs_no_answer(patient):
    victim = psutil.Process(asked(patient))
    victim.kill()
    victim.wait()
    assert patient.grade([r"\boxed{7}"], ["7"]) == ["correct"]


def test_the_memory_of_a_worker_is_limited():
    with MathPool(workers=1, memory=2**30) as small:
        assert psutil.Process(asked(small)).rlimit(psutil.RLIMIT_AS) == (2**30, 2**30)


def test_an_interrupt_leaves_no_reply_for_the_next_question(patient, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(patient, "_hear", interrupt)
        with pytest.raises(KeyboardInterrupt):
            patient.grade([r"\boxed{7}"], ["7"])
    assert patient.grade([r"\boxed{7}"], ["8"]) == ["incorrect"]


def test_threads_wait_for_each_other(patient):
    found = {}

    def ask(number: int):
        found[number] = patient.grade([rf"\boxed{{{number}}}"] * 5, [str(number)] * 4 + ["x"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == ["correct"] * 4 + ["incorrect"] for number in range(4))


@pytest.mark.slow
def test_a_fork_gets_workers_of_its_own(patient):
    asked(patient)
    before = children()
    child = os.fork()
    if child == 0:
        found = patient.grade([r"\boxed{7}", r"\boxed{8}"], ["7", "7"])
        patient.close()
        os._exit(0 if found == ["correct", "incorrect"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert children() == before
    assert patient.grade([r"\boxed{7}"], ["7"]) == ["correct"]


@pytest.mark.slow
def test_a_worker_that_cannot_start_is_reported(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('half installed')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(PoolError, match="did not start: ImportError: half installed"):
        MathPool(workers=1).grade(["1"], ["2"])
    monkeypatch.undo()
    monkeypatch.setattr(mathpool, "STARTING", 0.0)
    with pytest.raises(PoolError, match="did not start within 0 seconds"):
        MathPool(workers=1).grade(["1"], ["2"])


def test_questions_that_make_no_sense_are_refused():
    pool = MathPool()
    with pytest.raises(ValueError, match="2 texts and 1 correct answers"):
        pool.grade(["1", "2"], ["1"])
    with pytest.raises(ValueError, match="more than 10,000 characters"):
        pool.grade(["1"], ["1" * (LONGEST + 1)])
    with pytest.raises(ValueError, match="0 seconds"):
        MathPool(seconds=0)
    with pytest.raises(ValueError, match="0 workers"):
        MathPool(workers=0)


PARENT = """
    import sys, threading, time, psutil
    from trimtab.rewards.pool import MathPool
    pool = MathPool(seconds=1.0, workers=1)
    pool.grade(["1"], ["2"])
    if sys.argv[1] == "busy":
        threading.Thread(target=pool.grade, args=([r"\\boxed{10^{10^{10}}}"] * 9, ["7"] * 9), daemon=True).start()
    print(*[child.pid for child in psutil.Process().children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.fast("busy")
@pytest.mark.parametrize("doing", ["idle", "busy"])
def test_workers_of_a_parent_that_was_killed_end(doing, tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen([sys.executable, script, doing], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert len(workers) == 1
    if doing == "busy":
        used = sum(workers[0].cpu_times()[:2])
        while sum(workers[0].cpu_times()[:2]) < used + 0.05:
            time.sleep(0.02)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    for process in alive:
        process.kill()
    assert not alive
    assert len(gone) == 1
