"""The vLLM plugin reads safetensors files of one folder, and nothing else."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "trimtab-vllm"


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    found = importlib.import_module("trimtab_vllm.weights_folder")
    yield found
    for name in [name for name in sys.modules if name.partition(".")[0] == "trimtab_vllm"]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch, plugin) -> Path:
    made = tmp_path / "weights"
    made.mkdir()
    (made / "a.safetensors").write_bytes(b"x")
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    monkeypatch.setenv(plugin.FOLDER, str(made))
    return plugin.weights_folder()


def test_a_file_of_the_folder_is_found(plugin, folder):
    assert plugin.file_in(folder, "a.safetensors") == folder / "a.safetensors"


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "", ".", "..", "sub/a.safetensors", "a.safetensors/", "a.safetensors\0"],
)
def test_a_path_is_refused(plugin, folder, name):
    with pytest.raises(ValueError, match="plain name"):
        plugin.file_in(folder, name)


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.safetensors.pkl", "passwd"])
def test_another_kind_of_file_is_refused(plugin, folder, name):
    (folder / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="no other kind is read"):
        plugin.file_in(folder, name)


def test_a_link_is_refused(plugin, folder):
    (folder / "b.safetensors").symlink_to(folder.parent / "outside.safetensors")
    with pytest.raises(ValueError, match="leads out"):
        plugin.file_in(folder, "b.safetensors")


def test_a_file_that_is_not_there(plugin, folder):
    (folder / "c.safetensors").mkdir()
    for name in ("none.safetensors", "c.safetensors"):
        with pytest.raises(FileNotFoundError, match="no file"):
            plugin.file_in(folder, name)


@pytest.mark.parametrize("given", ["", "relative", "/nowhere/at/all"])
def test_a_server_without_a_folder_reads_nothing(plugin, monkeypatch, given):
    monkeypatch.setenv(plugin.FOLDER, given)
    with pytest.raises(ValueError, match=plugin.FOLDER):
        plugin.weights_folder()


def test_a_trainer_with_another_folder_is_refused(plugin, folder):
    plugin.check_same(folder, str(folder))
    with pytest.raises(ValueError, match="writes weights to /tmp, and the server reads them from"):
        plugin.check_same(folder, "/tmp")


def test_another_model_is_named_by_what_differs(plugin):
    config = SimpleNamespace(hidden_size=16, vocab_size=259)
    plugin.check_model({"hidden_size": 16, "vocab_size": 259}, config)
    with pytest.raises(ValueError, match="another model: vocab_size is 259 here and 300 in the trainer$"):
        plugin.check_model({"hidden_size": 16, "vocab_size": 300}, config)
    with pytest.raises(ValueError, match="num_layers is None here and 3"):
        plugin.check_model({"num_layers": 3}, config)


def test_the_package_imports_nothing_of_trimtab():
    for path in PACKAGE.rglob("*.py"):
        assert "import trimtab\n" not in path.read_text()
        assert "from trimtab." not in path.read_text()
