"""Paths, quotas and rights of a workspace, whatever an agent has put in the way."""

import os
from pathlib import Path

import pytest

from trimtab.gym.submissions import pack
from trimtab.gym.workspace import DiskUsage, Quota, Workspace, WorkspaceError, remove_tree


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "source" / "a").mkdir(parents=True)
    (tmp_path / "source" / "a" / "b.txt").write_text("hello\n")
    (tmp_path / "outside.txt").write_text("outside\n")
    made = Workspace.create(tmp_path / "workspace", tmp_path / "source", Quota(bytes=1 << 20, files=100))
    yield made
    made.remove()


@pytest.mark.parametrize("path", ["a/b.txt", "/workspace/a/b.txt", "./a/../a/b.txt", "a//b.txt"])
def test_a_path_is_relative_or_below_the_workspace(workspace, path):
    assert workspace.read(path, 100) == b"hello\n"


OUT = (
    "../outside.txt", "/etc/passwd", "a/../../outside.txt", "/workspace/../outside.txt", "/workspace2/x", "", "a\0b",
    "\ud800", "a/\ud800/b", "x" * 300,
)  # fmt: skip


@pytest.mark.parametrize("path", OUT)
def test_a_path_that_leads_out_is_refused(workspace, path):
    with pytest.raises(WorkspaceError):
        workspace.read(path, 100)
    with pytest.raises(WorkspaceError):
        workspace.write(path, b"x")
    assert (workspace.folder.parent / "outside.txt").read_text() == "outside\n"


@pytest.mark.parametrize(
    "target", ["../outside.txt", "../../../../etc/passwd", "/etc/passwd", "loop", "/proc/self/environ"]
)
def test_a_link_that_leads_out_is_refused(workspace, target):
    (workspace.folder / "loop").symlink_to(target)
    for path in ("loop", "loop/x"):
        with pytest.raises(WorkspaceError):
            workspace.read(path, 100)
        with pytest.raises(WorkspaceError):
            workspace.write(path, b"x")
    assert (workspace.folder.parent / "outside.txt").read_text() == "outside\n"


@pytest.mark.parametrize("target", ["b.txt", "../a/b.txt", "/workspace/a/b.txt"])
def test_a_link_within_is_followed_as_a_sandbox_would(workspace, target):
    (workspace.folder / "a" / "link").symlink_to(target)
    (workspace.folder / "folder").symlink_to("/workspace/a")
    assert workspace.read("folder/link", 100) == b"hello\n"


def test_folders_are_made_for_a_new_file_and_belong_to_the_agent(workspace):
    workspace.write("x/y/z.txt", b"new")
    owners = {path.stat().st_uid for path in workspace.folder.rglob("*")}
    assert (workspace.folder / "x/y/z.txt").read_bytes() == b"new"
    assert owners == {os.geteuid() if workspace.uid is None else workspace.uid}


def test_what_is_no_regular_file_is_not_opened(workspace):
    os.mkfifo(workspace.folder / "pipe")
    for path in ("pipe", "a", "."):
        with pytest.raises(WorkspaceError):
            workspace.read(path, 10)
        with pytest.raises(WorkspaceError):
            workspace.write(path, b"x")


def test_what_is_beyond_the_quota_is_not_written(workspace):
    with pytest.raises(WorkspaceError, match="remove files"):
        workspace.write("big", b"x" * (1 << 20))
    assert not (workspace.folder / "big").exists()
    for number in range(100):
        (workspace.folder / f"file{number}").touch()
    with pytest.raises(WorkspaceError, match="more than 100 files"):
        workspace.write("one_more", b"")


def test_blocks_are_counted_and_not_holes(workspace):
    before = workspace.usage()
    with (workspace.folder / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (workspace.folder / "full").write_bytes(os.urandom(100_000))
    after = workspace.usage()
    assert after.files == before.files + 2
    assert 100_000 <= after.bytes - before.bytes < 120_000


def test_folders_of_any_depth_are_counted_and_removed(workspace):
    place = os.open(workspace.folder, os.O_RDONLY)
    for _ in range(1100):  # more than Python calls itself, and a path longer than the system takes
        os.mkdir("deep", dir_fd=place)
        inner = os.open("deep", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    assert workspace.usage().files > 100
    with pytest.raises(WorkspaceError, match="64 folders deep"):
        list(workspace.walk())
    workspace.remove()
    assert not workspace.folder.exists()


def test_a_path_that_no_other_folder_could_hold_is_not_walked(workspace):
    folder = os.open(workspace.folder, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 200, dir_fd=folder)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    with pytest.raises(WorkspaceError, match="a path of more than 2,000 bytes"):
        list(workspace.walk())
    with pytest.raises(WorkspaceError, match="a path of more than 2,000 bytes"):
        pack(workspace, ("x" * 200,))


def test_names_of_any_bytes_are_listed(workspace):
    os.close(os.open(bytes(workspace.folder) + b"/\xff\n-rf", os.O_CREAT))
    assert "\udcff\n-rf" in [name for name, _ in workspace.entries()]
    assert workspace.usage().files == 3


def test_the_place_of_the_workspace_is_not_told(workspace):
    assert workspace.hide(f"no such file: {workspace.folder}/x") == "no such file: /workspace/x"


@pytest.mark.parametrize("usage, said", [((10, 5), None), ((11, 5), "11 bytes of 10"), ((10, 6), "more than 5 files")])
def test_a_quota_is_what_may_be_held(usage, said):
    quota = Quota.model_construct(bytes=10, files=5)
    found = DiskUsage(*usage).beyond(quota)
    assert found is None if said is None else said in found


def test_a_tree_without_rights_is_removed(tmp_path):
    folder = tmp_path / "locked"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a").chmod(0)
    remove_tree(folder)
    assert not Path(folder).exists()
