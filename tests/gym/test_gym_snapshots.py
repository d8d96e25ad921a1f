"""Snapshots of a run: what is restored is what was there, to the byte and to the submission."""

import os
import stat
from pathlib import Path

import pytest

from tiny_gym import SECRET, SETTINGS, make_task, said
from trimtab.gym import actions, snapshots
from trimtab.gym.agents import Move
from trimtab.gym.agents.scripted import Scripted
from trimtab.gym.episode import Episode
from trimtab.gym.playing import play
from trimtab.gym.snapshots import SnapshotError
from trimtab.gym.trajectory import GymTrajectory, RunFacts

MAKE = """
mkdir -p deep/empty; printf 'a\\0b\\n' > deep/bytes; chmod 751 deep/bytes; ln -s ../nowhere deep/link; mkfifo pipe
printf same > one; ln one two; touch -d '2001-02-03 04:05:06.789' one; chmod 500 deep; printf 'x' > $'odd\\xff\\nname'
"""


def seen(folder: Path) -> dict[bytes, tuple]:
    """All that a tree holds: kind, rights, time, content or target, and which names are one file."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        for path in [place, *(place + b"/" + one for one in (*folders, *files))]:
            now = os.lstat(path)
            content: object = None
            if stat.S_ISREG(now.st_mode):
                content = (Path(os.fsdecode(path)).read_bytes(), now.st_nlink)
            elif stat.S_ISLNK(now.st_mode):
                content = os.readlink(path)  # noqa: PTH115
            found[os.path.relpath(path, os.fsencode(folder))] = (now.st_mode, now.st_mtime_ns, content)
    return found


def handed_in(episode: Episode, text: str) -> float:
    episode.call("create_file", {"filename": "outputs/answers.txt", "content": text})
    return episode.call("eval").to_dict()["overall_score"]


def restored(episode: Episode, into: Path | None = None, step: int | None = None) -> Episode:
    held = snapshots.read(episode.folder, step)
    return snapshots.restore(episode.folder, held, episode.task, into or episode.folder)


def test_a_restored_run_is_the_same_to_the_byte_and_to_the_submission(episode):
    said(episode, MAKE)
    handed_in(episode, f"{SECRET} b c z")
    episode.call("view_hint")
    episode.budget.pause()
    before, budget = seen(episode.workspace.folder), episode.budget.state()
    snapshots.take(episode, {"heard": ["hello"]}, 4)
    handed = seen(episode.submissions.folder)
    assert b"odd\xff\nname" in before
    said(episode, "rm -rf deep; echo more >> one; mkdir other; chmod 777 .")
    handed_in(episode, "a b c d")
    with restored(episode) as again:
        assert seen(again.workspace.folder) == before
        assert seen(again.submissions.folder) == handed
        assert again.budget.state() == budget
        assert [one.score for one in again.submissions.records] == pytest.approx([75.0])
        assert again.hint_seen
        assert snapshots.read(again.folder).agent == {"heard": ["hello"]}
        handed_in(again, "a b c d")
        handed_in(again, "a b c d")
        assert again.call("eval").success is False  # three were allowed, before and after together
        if os.geteuid() == 0:
            assert (again.workspace.folder / "one").stat().st_uid == again.workspace.uid


def test_the_clock_goes_on_where_it_stood_and_not_while_a_snapshot_is_taken(task, tmp_path):
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # each look costs a second
        return now[0]

    with Episode(task, tmp_path / "run", clock=clock) as episode:
        episode.call("think", {"thought": "so"})
        snapshots.take(episode, {}, 1)
        held = snapshots.read(episode.folder)
    now[0] += 1000.0
    with snapshots.restore(episode.folder, held, task, episode.folder, clock=clock) as again:
        assert again.budget.seconds == held.episode["budget"]["seconds"]


def test_two_branches_of_a_snapshot_go_their_own_ways(episode, tmp_path):
    said(episode, "echo both > shared; ln shared linked")
    step = actions.Think(thought="first")
    GymTrajectory(episode.folder).add(episode, step, episode.step(step), 0.0)
    snapshots.take(episode, {}, 1)
    GymTrajectory(episode.folder).add(episode, step, episode.step(step), 0.0)
    with restored(episode, tmp_path / "a") as one, restored(episode, tmp_path / "b") as other:
        said(one, "echo one >> shared")
        said(other, "rm shared")
        assert handed_in(one, "a b c d") == pytest.approx(75.0)
        assert said(one, "cat linked")["output"] == "both\none"
        assert said(other, "cat linked")["output"] == "both"
        assert (len(one.submissions.records), len(other.submissions.records)) == (1, 0)
        assert [len(GymTrajectory(run.folder)) for run in (one, other, episode)] == [1, 1, 2]
    assert said(episode, "cat shared")["output"] == "both"


def test_a_run_that_goes_on_from_an_earlier_snapshot_has_no_later_ones(episode, tmp_path):
    think = actions.Think(thought="so")
    for step in (1, 2):
        GymTrajectory(episode.folder).add(episode, think, episode.step(think), 0.0)
        snapshots.take(episode, {}, step)
    with restored(episode, tmp_path / "branch", 1) as branch:
        assert snapshots.steps(branch.folder) == []
    assert snapshots.steps(episode.folder) == [1, 2]
    with restored(episode, step=1) as again:
        GymTrajectory(again.folder).add(again, think, again.step(actions.ListFiles()), 0.0)
        assert snapshots.steps(again.folder) == [1]
        with restored(again) as third:  # its last one fits its trajectory
            assert third.budget.steps == 1


def test_nothing_is_kept_while_something_runs(episode):
    episode.call("run_command", {"command": "sleep 100", "session_id": "training"})
    training = episode.sessions.sessions["training"]
    assert training.wait(5.0, lambda: bool(training.processes()))
    with pytest.raises(SnapshotError, match="session training is busy with sleep"):
        snapshots.take(episode, {}, 1)
    assert snapshots.steps(episode.folder) == []
    episode.call("kill_session_processes", {"session_id": "training", "force": True})
    episode.call("sleep", {"seconds": 5, "session_id": "training"})
    snapshots.take(episode, {}, 3)
    assert snapshots.read(episode.folder).episode["sessions"] == ["training"]  # to tell the agent of
    with restored(episode) as again:
        assert again.sessions.sessions == {}


def test_content_that_has_not_changed_is_kept_once(episode):
    said(episode, "head -c 300000 /dev/urandom > big")
    for step in (1, 2):
        snapshots.take(episode, {}, step)
    sizes = [one.stat().st_size for one in (episode.folder / "snapshots/objects").iterdir()]
    assert sizes.count(300000) == 1
    assert snapshots.steps(episode.folder) == [1, 2]


def test_files_that_are_larger_than_their_quota_are_not_written_out(task, tmp_path):
    small = make_task(tmp_path / "small", settings=SETTINGS.replace("bytes: 20000000", "bytes: 1000000"))
    with Episode(small, tmp_path / "run") as episode:
        said(episode, "truncate -s 5000000 sparse")
        with pytest.raises(SnapshotError, match="1,000,000 bytes of the quota"):
            snapshots.take(episode, {}, 1)


def test_the_difference_of_two_branches_is_in_files_budget_and_submissions(episode, tmp_path):
    said(episode, "echo 12345 > stays; echo 1 > shrinks; echo 123 > goes; ln -s stays link; ln stays linked; mkdir f")
    handed_in(episode, "a b c d")
    snapshots.take(episode, {}, 1)
    with restored(episode, tmp_path / "branch") as branch:
        said(
            branch,
            "rm goes f -r; printf '' > shrinks; touch -d 2001-01-01 stays; ln -sfn data link; chmod 400 data/words.txt",
        )
        said(branch, "rm linked; echo 12345 > linked; echo new > data/added")
        handed_in(branch, "a b z z")
        snapshots.take(branch, {}, 9)
        sides = [(run.folder, snapshots.read(run.folder)) for run in (episode, branch)]
        found = snapshots.diff(*sides)
        backwards = snapshots.diff(*reversed(sides))
        assert found.files == [
            ("data/added", None, 4), ("data/words.txt", 8, 8), ("goes", 4, None), ("link", 0, 0),
            ("outputs/answers.txt", 7, 7), ("shrinks", 2, 0),
        ]  # fmt: skip
        assert found.submissions == [(1, pytest.approx(75.0), pytest.approx(75.0)), (2, None, pytest.approx(25.0))]
        assert {key: after - before for key, (before, after) in found.budget.items() if key != "seconds"} == {
            "steps": 4, "submissions": 1,
            "cpu_seconds": branch.budget.cpu_seconds - sides[0][1].episode["budget"]["cpu_seconds"],
            "evaluation_seconds": branch.budget.evaluation_seconds - episode.budget.evaluation_seconds,
        }  # fmt: skip
        assert backwards.files == [(path, after, before) for path, before, after in found.files]
        assert snapshots.diff(sides[0], sides[0]).files == []


def test_a_difference_needs_one_task_and_all_files(episode, tmp_path):
    said(episode, "echo precious > kept")
    snapshots.take(episode, {}, 1)
    side = (episode.folder, snapshots.read(episode.folder))
    changed = make_task(tmp_path / "changed" / "task", **{"hidden/labels.json": "{}"})
    with Episode(changed, tmp_path / "other") as other:
        snapshots.take(other, {}, 1)
        with pytest.raises(
            SnapshotError, match=f"{other.folder} is a run of task {changed.version()}: they do not comp"
        ):
            snapshots.diff(side, (other.folder, snapshots.read(other.folder)))
    with Episode(episode.task, tmp_path / "empty") as empty:
        snapshots.take(empty, {}, 0)
        one = next(one for one in (episode.folder / "snapshots/objects").iterdir() if one.read_bytes() == b"precious\n")
        one.unlink()
        with pytest.raises(SnapshotError, match="is missing, which the snapshot needs"):
            snapshots.diff((empty.folder, snapshots.read(empty.folder)), side)


@pytest.mark.parametrize("deep", ["a/" * 70, f"{'x' * 200}/" * 11])
def test_folders_that_are_too_deep_hinder_snapshots_and_not_the_run(task, tmp_path, deep):
    moves = [actions.RunCommand(command=f"mkdir -p {deep}", wait_for_completion=True), actions.ListFiles()]
    notes: list[str] = []
    with Episode(task, tmp_path / "run") as episode:
        agent = Scripted([Move(one) for one in moves])
        result = play(episode, agent, RunFacts("scripted", "T"), every=1, on_note=notes.append)
    assert (result["over"], result["final"], snapshots.steps(tmp_path / "run")) == ("the agent has stopped", 0.0, [])
    assert len(notes) == 2  # at the first step, and at the end
    assert "deep" in notes[0] or "2,000 bytes" in notes[0]


def test_another_version_of_the_task_and_damage_are_refused_and_leave_the_run_as_it_is(episode, task, tmp_path):
    said(episode, "echo precious > kept")
    snapshots.take(episode, {}, 1)
    said(episode, "echo later > kept")
    before = seen(episode.folder)
    held = snapshots.read(episode.folder)
    changed = make_task(tmp_path / "changed" / "task", **{"hidden/labels.json": "{}"})
    with pytest.raises(SnapshotError, match=f"a run of task {task.version()}, and this is task {changed.version()}"):
        snapshots.restore(episode.folder, held, changed, episode.folder)
    with pytest.raises(SnapshotError, match="no snapshot at step 7; there are: 1"):
        snapshots.read(episode.folder, 7)
    with pytest.raises(SnapshotError, match="has no snapshot"):
        snapshots.read(tmp_path)
    one = next(one for one in (episode.folder / "snapshots/objects").iterdir() if one.read_bytes() == b"precious\n")
    one.write_bytes(b"damaged!\n")
    with pytest.raises(SnapshotError, match=r"is damaged: its SHA-256"):
        restored(episode)
    with pytest.raises(SnapshotError, match=r"is damaged: its SHA-256"):
        restored(episode, tmp_path / "branch")
    assert not (tmp_path / "branch").exists()
    one.write_bytes(b"precious\n")
    assert {name: one for name, one in seen(episode.folder).items() if b"objects" not in name and name != b"."} == {
        name: one for name, one in before.items() if b"objects" not in name and name != b"."
    }
