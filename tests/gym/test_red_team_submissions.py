"""What a hostile agent hands in, and that neither the evaluator nor the score falls for it."""

import contextlib
import io
import os
import socket
import stat
import tarfile
import time

import numpy as np
import psutil
import pytest
import torch

from tiny_gym import SECRET, SETTINGS, engine, make_task, said
from trimtab.gym.episode import Episode
from trimtab.gym.evaluation import EvaluationError, evaluate
from trimtab.gym.submissions import SubmissionError, pack, unpack
from trimtab.gym.workspace import Quota, Workspace, WorkspaceError

ACCURACY = "    return [{'name': 'accuracy', 'value': %s}]\n"
VALUE = ACCURACY % "float(submitted.text('outputs/x'))"
RUNS = (
    "def validate(submitted):\n"
    "    done = submitted.run(['python3', 'outputs/run.py'], 2, {'question.txt': '6 7'}, ['answer.txt'])\n"
    "    print(done)\n"
    "    return [{'name': 'accuracy', 'value': float(done.files.get('answer.txt') == b'42')}]\n"
)
"""an evaluator that runs code of the agent, and compares what it has written"""


def episode_of(tmp_path, evaluator: str, **files: bytes) -> Episode:
    """An episode in which these files have been put among the outputs."""
    engine()
    made = Episode(make_task(tmp_path / "task", evaluator=evaluator), tmp_path / "run")
    for name, data in files.items():
        made.workspace.write(f"outputs/{name.replace('__', '.')}", data)
    return made


class Poison:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, planted):
        self.planted = planted

    def __reduce__(self):
        return os.system, (f"touch {self.planted}",)


def poisoned(kind: str, planted) -> bytes:
    held = io.BytesIO()
    if kind == "torch":
        torch.save(Poison(planted), held)
    elif kind == "numpy":
        np.save(held, np.array([Poison(planted)], dtype=object), allow_pickle=True)
    else:
        import pickle

        held.write(pickle.dumps(Poison(planted), protocol=0 if kind == "old pickle" else None))
    return held.getvalue()


LOADERS = {
    "pickle": "import pickle; pickle.load(open(submitted.path('outputs/x.bin'), 'rb'))",
    "old pickle": "import pickle; pickle.loads(submitted.path('outputs/x.bin').read_bytes())",
    "pure pickle": "import pickle; pickle._Unpickler(open(submitted.path('outputs/x.bin'), 'rb')).load()",
    "torch": "import torch; torch.load(submitted.path('outputs/x.bin'), weights_only=False)",
    "numpy": "import numpy; numpy.load(submitted.path('outputs/x.bin'), allow_pickle=True)",
    "joblib": "import joblib; joblib.load(submitted.path('outputs/x.bin'))",
}


@pytest.mark.fast("*pickle", "numpy", "joblib")
@pytest.mark.parametrize("kind", LOADERS)
def test_a_pickle_that_the_evaluator_loads_by_mistake_does_not_run(tmp_path, kind):
    if kind == "joblib":
        pytest.importorskip("joblib")
    planted = tmp_path / "planted"
    body = f"def validate(submitted):\n    {LOADERS[kind]}\n{ACCURACY % 1.0}"
    with episode_of(tmp_path, body, x__bin=poisoned(kind, planted)) as episode:
        found = episode.call("eval").to_dict()
        assert found["success"] is False
        assert "costs no submission" in found["error_message"]
        assert "loads no pickles" in (episode.folder / "evaluator.log").read_text()
    assert not planted.exists()


CODE = {
    "print the score": "print('{\"results\": [{\"name\": \"accuracy\", \"value\": 1.0}]}')",
    "write the score to every descriptor": "import os\nfor n in range(3, 200):\n try: os.write(n, b'{\"results\": "
    "[{\"name\": \"accuracy\", \"value\": 1.0}]}')\n except OSError: pass",
    "write the score beside": "open('score.json', 'w').write('1.0'); open('outputs/score.json', 'w').write('1.0')",
    "read the answer's check": "import glob\nprint(*(open(one).read() for one in glob.glob('/*/evaluator.py')))",
    "kill the evaluator": "import os\nos.kill(os.getppid(), 9); os.kill(-1, 9)",
    "run for ever": "while True: pass",
    "leave a daemon": "import subprocess\nsubprocess.Popen(['sleep', '876'], start_new_session=True)",
    "flood": "while True: print('x' * 1_000_000)",
    "take all memory": "x = bytearray(10**12)",
    "take all processes": "import os\nwhile True: os.fork()",
    "call the network": "import socket\nsocket.create_connection(('1.1.1.1', 53), 2)\n"
    "open('answer.txt', 'w').write('42')",
    "answer with a link": "import os\nos.symlink('/etc/hostname', 'answer.txt')",
    "answer with a pipe": "import os\nos.mkfifo('answer.txt')",
    "answer with a folder": "import os\nos.mkdir('answer.txt')",
    "answer with a hole": "open('answer.txt', 'wb').truncate(9_000_000)",
    "answer with too much": "open('answer.txt', 'wb').write(b'42' * 50_000_000)",
    "end with success": "import os\nos._exit(0)",
    "end with a signal": "import os\nos.abort()",
    "speak in bytes": "import sys\nsys.stdout.buffer.write(bytes(range(256)) * 100)",
}  # fmt: skip


@pytest.mark.parametrize("what", CODE)
def test_code_that_is_run_for_the_evaluator_gets_no_score_but_by_the_answer(tmp_path, what):
    with episode_of(tmp_path, RUNS, run__py=CODE[what].encode()) as episode:
        began = time.monotonic()
        found = episode.call("eval").to_dict()
        assert found.get("overall_score") == 0.0, found
        assert time.monotonic() - began < 20
    assert not [one for one in psutil.process_iter(["cmdline"]) if "876" in (one.info["cmdline"] or [])]


def test_code_that_is_run_for_the_evaluator_finds_no_label(tmp_path):
    look = (
        "import os\n"
        "found = [os.path.join(place, name) for place, _, names in os.walk('/') for name in names\n"
        "         if name in ('labels.json', 'evaluator.py') and not place.startswith(('/proc', '/usr'))]\n"
        "open('answer.txt', 'w').write('42' if found or os.path.exists('{task}/hidden') else 'none')\n"
    )
    with episode_of(tmp_path, RUNS) as episode:
        text = look.replace("{task}", str(episode.task.folder)).replace("os.walk('/')", f"os.walk('{tmp_path.parent}')")
        episode.workspace.write("outputs/run.py", text.encode())
        assert episode.call("eval").to_dict()["overall_score"] == 0.0


def test_modules_that_were_handed_in_take_no_place_of_the_evaluators(tmp_path):
    body = "def validate(submitted):\n    import json, random, trimtab\n" + ACCURACY % "0.0"
    planted = tmp_path / "planted"
    text = f"open({str(planted)!r}, 'w')\n".encode()
    names = ("json__py", "random__py", "trimtab__py", "sitecustomize__py", "evaluator__py", "x__pth")
    with episode_of(tmp_path, body, **dict.fromkeys(names, text)) as episode:
        assert episode.call("eval").to_dict()["overall_score"] == 0.0
    assert not planted.exists()


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "PATH"])
def test_variables_of_a_session_do_not_reach_the_evaluator(tmp_path, name):
    body = f"import os\n\n\ndef validate(submitted):\n    print(os.environ.get({name!r}))\n" + ACCURACY % "0.0"
    with episode_of(tmp_path, body) as episode:
        said(episode, f"export {name}=/workspace/planted:${name}")
        found = episode.call("eval").to_dict()
        assert found["overall_score"] == 0.0
        assert "planted" not in os.environ.get(name, "")


def test_the_evaluator_gets_no_token_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    body = (
        f"import os\n\n\ndef validate(submitted):\n    assert {SECRET!r} not in os.environ.values()\n"
        + ACCURACY % "0.0"
    )
    with episode_of(tmp_path, body) as episode:
        assert episode.call("eval").success


ODD = {
    "a pipe": lambda folder: os.mkfifo(folder / "odd"),
    "a socket": lambda folder: socket.socket(socket.AF_UNIX).bind(str(folder / "odd")),
    "a link out": lambda folder: (folder / "odd").symlink_to("/etc/passwd"),
    "a link to the labels": lambda folder: (folder / "odd").symlink_to("../../../task/hidden/labels.json"),
    "a link to a folder": lambda folder: (folder / "odd").symlink_to("/"),
    "a link to itself": lambda folder: (folder / "odd").symlink_to("odd"),
    "a link that hangs": lambda folder: (folder / "odd").symlink_to("nothing"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_file_is_not_handed_in(tmp_path, monkeypatch, what):
    workspace = Workspace.create(tmp_path / "w")
    workspace.write("outputs/good", b"1")
    monkeypatch.chdir(workspace.folder)
    (tmp_path / "run").mkdir()
    ODD[what](workspace.folder / "outputs")
    archive, left_out = pack(workspace, ("outputs",))
    assert left_out == ["outputs/odd"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        assert opened.getnames() == ["outputs", "outputs/good"]
    workspace.close()


def test_an_output_that_is_a_link_itself_is_not_followed(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x").write_text(SECRET)
    (workspace.folder / "outputs").symlink_to("../labels")
    archive = b""
    with contextlib.suppress(WorkspaceError):
        archive, _ = pack(workspace, ("outputs",))
    assert SECRET.encode() not in archive
    workspace.close()


@pytest.mark.parametrize("how", ["rm -r outputs", "rm -r outputs; ln -s /etc outputs", "rm -r outputs; touch outputs"])
def test_an_output_whose_folder_has_gone_is_missing_and_ends_no_episode(tmp_path, how):
    settings = SETTINGS.replace("[outputs]", "[outputs/answers.txt]")
    with Episode(make_task(tmp_path / "task", settings=settings), tmp_path / "run") as episode:
        said(episode, f"mkdir outputs; {how}")
        assert "outputs/answers.txt is missing" in str(episode.call("eval").to_dict())
        assert episode.end()["final"] == 0


@pytest.mark.parametrize("how", ["a hole", "many holes", "more than the quota"])
def test_files_larger_than_the_quota_are_not_handed_in(tmp_path, how):
    workspace = Workspace.create(tmp_path / "w", quota=Quota(bytes=1 << 20, files=100))
    folder = workspace.folder / "outputs"
    folder.mkdir()
    for number in range(1 if how == "a hole" else 4):
        with (folder / f"f{number}").open("wb") as file:
            file.truncate(1 << 40 if how == "a hole" else 400_000)
            if how == "more than the quota":
                file.write(os.urandom(400_000))
    began = time.monotonic()
    with pytest.raises(SubmissionError, match="larger than the quota"):
        pack(workspace, ("outputs",))
    assert time.monotonic() - began < 5
    workspace.close()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """An archive of one entry, as nobody but a forger makes it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as made:
        one = tarfile.TarInfo(name)
        one.type, one.linkname, one.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
        one.mode = 0o6777
        made.addfile(one, io.BytesIO(b"x") if one.size else None)
    return held.getvalue()


FORGED = {
    "the way up": entry("../planted"),
    "a place of its own": entry("/tmp/trimtab-planted"),
    "a way through": entry("a/../../planted"),
    "a link out": entry("l", tarfile.SYMTYPE, "../../planted"),
    "a hard link out": entry("h", tarfile.LNKTYPE, "../../planted"),
    "a device": entry("d", tarfile.CHRTYPE),
    "a block device": entry("b", tarfile.BLKTYPE),
    "a pipe": entry("p", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_archive_lands_nowhere_else(tmp_path, what):
    folder = tmp_path / "x" / "outputs"
    folder.mkdir(parents=True)
    with contextlib.suppress(SubmissionError):
        unpack(FORGED[what], folder)
    outside = [path for path in tmp_path.rglob("*") if path.name != "outputs" and path != tmp_path / "x"]
    assert all(
        path.is_relative_to(folder) and (path.is_dir() or stat.S_ISREG(path.lstat().st_mode)) for path in outside
    )
    assert not (tmp_path / "planted").exists()
    assert not any(path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID) for path in outside)


def test_outputs_that_change_while_they_are_scored_score_as_they_were(tmp_path):
    body = (
        "def validate(submitted):\n    import time; time.sleep(0.3)\n" + ACCURACY % "float(submitted.text('outputs/x'))"
    )
    with episode_of(tmp_path, body, x=b"0.0") as episode:
        episode.call("run_command", {"command": "sleep 0.1; while :; do echo 1.0 > outputs/x; done"})
        found = episode.call("eval").to_dict()
        assert found["overall_score"] == 0.0


def test_an_answer_that_is_no_number_is_no_score(tmp_path):
    body = f"def validate(submitted):\n{VALUE}"
    for text in (b"nan", b"inf", b"-inf", b"1e999"):
        with episode_of(tmp_path / text.decode(), body, x=text) as episode:
            found = episode.call("eval").to_dict()
            assert found["success"] is False
            assert "overall_score" not in found
            assert episode.submissions.records == []


def test_a_score_stays_between_0_and_100(tmp_path):
    body = f"def validate(submitted):\n{VALUE}"
    for text, score in ((b"1e300", 100.0), (b"-1e300", 0.0)):
        with episode_of(tmp_path / text.decode(), body, x=text) as episode:
            assert episode.call("eval").to_dict()["overall_score"] == score


def test_stored_submissions_are_out_of_reach_of_sessions(tmp_path):
    with episode_of(tmp_path, "def validate(submitted):\n" + ACCURACY % "0.5", x=b"1") as episode:
        episode.call("eval")
        archive = episode.submissions.archive(1)
        before = archive.read_bytes()
        said(episode, f"rm -rf {archive}; mkdir -p {archive.parent}; echo x > {archive}")
        assert archive.read_bytes() == before


def test_without_a_sandbox_the_same_attempts_succeed(tmp_path):
    """So that the others do not pass for a reason of their own."""
    with Episode(make_task(tmp_path / "task"), tmp_path / "run", unsafe=True) as episode:
        labels = episode.task.hidden / "labels.json"
        assert SECRET in said(episode, f"cat {labels}; echo")["output"]
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert said(episode, f"exec 5<>/dev/tcp/127.0.0.1/{port} && echo ESCAPED; exec 5>&-")["output"] == "ESCAPED"
        assert said(episode, f"[ -e /proc/{os.getpid()} ] && echo ESCAPED")["output"] == "ESCAPED"
        assert episode.result()["isolation"] == "none"


def test_a_machine_without_namespaces_is_told_what_to_install(tmp_path, monkeypatch):
    from trimtab.gym import sandbox

    sandbox.find_engine.cache_clear()
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    try:
        with pytest.raises(sandbox.SandboxError, match=r"install bubblewrap .*\(--unsafe\)"):
            Episode(make_task(tmp_path / "task"), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    finally:
        sandbox.find_engine.cache_clear()


def test_an_evaluation_of_an_archive_that_is_none_is_an_error(tmp_path):
    engine()
    with pytest.raises((EvaluationError, SubmissionError), match="cannot be unpacked"):
        evaluate(make_task(tmp_path / "task", settings=SETTINGS), b"no archive", engine())
