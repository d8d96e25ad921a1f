"""What is not on the hub is told at once: one question, and no second try."""

import http.server
import threading
import time
from pathlib import Path
from typing import ClassVar

import huggingface_hub.constants
import pytest

from trimtab.common import hub
from trimtab.data.sources import DataError, check_there, load_rows
from trimtab.models.builtin import ModelNotFound
from trimtab.models.places import check_there as check_model
from trimtab.models.places import place_of


class Answers(http.server.BaseHTTPRequestHandler):
    """Knows one model and one dataset, and counts what it is asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith(("/api/models", "/api/datasets")):
            self.asked.append(self.path)
        known = ("/api/models/org/there", "/api/models/org/there/revision/main", "/api/datasets/org/there")
        self.send_response(503 if "busy" in self.path else 200 if self.path in known else 401)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    Answers.asked.clear()
    _online(monkeypatch, tmp_path, f"http://127.0.0.1:{running.server_port}")
    yield
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    _online(monkeypatch, tmp_path, "http://127.0.0.1:9")  # where nothing listens


def _online(monkeypatch, tmp_path, endpoint: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    hub._request.cache_clear()


@pytest.fixture(autouse=True)
def _forgotten():
    yield
    hub._request.cache_clear()


def test_a_mistyped_model_is_requested_once_and_reported(endpoint):
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="'org/therr': it is not a builtin .*it has no model of that name"):
            place_of("org/therr")
    assert Answers.asked == ["/api/models/org/therr"]


def test_so_are_a_revision_and_a_dataset(endpoint):
    with pytest.raises(ModelNotFound, match="has no model org/there with a revision v9"):
        place_of("org/there@v9")
    with pytest.raises(DataError, match="org/therr:train: no local file .*it has no dataset of that name"):
        check_there("org/therr:train")
    with pytest.raises(DataError, match="has no dataset of that name"):
        load_rows("org/therr")
    assert len(Answers.asked) == 2


def test_what_is_there_is_taken_and_an_answer_that_says_nothing_decides_nothing(endpoint):
    assert not place_of("org/there").only_cached
    check_model("org/there@main", "models.policy")
    check_there("org/there")
    assert hub.reach("models", "org/busy") == "unknown"
    assert hub.why_not("models", "org/busy") is None


def test_without_a_network_it_is_reported_at_once(nowhere):
    start = time.perf_counter()
    with pytest.raises(ModelNotFound, match="models.teacher: .*it cannot be reached, and it is not in the cache"):
        check_model("org/there", "models.teacher")
    with pytest.raises(DataError, match="it cannot be reached"):
        load_rows("org/there")
    assert time.perf_counter() - start < 5


def test_what_is_cached_is_read_from_the_cache_alone_without_a_network(nowhere, tmp_path):
    (tmp_path / "cache" / "models--org--there" / "snapshots" / "abc").mkdir(parents=True)
    check_model("org/there", "models.policy")
    assert place_of("org/there").arguments() == {"local_files_only": True}
    (tmp_path / "datasets" / "org___There" / "default").mkdir(parents=True)
    check_there("org/There")


def test_offline_nothing_is_requested(endpoint, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE is set"):
        check_model("org/there", "models.policy")
    assert Answers.asked == []


def test_a_folder_that_is_not_there_says_where_it_was_looked_for(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelNotFound, match=rf"there is no folder ./mine \(looked for in {tmp_path}, where the command"
    ):
        check_model("./mine", "models.policy")
    with pytest.raises(DataError, match=rf"there is no file rows.jsonl \(looked for in {tmp_path}, where the command"):
        check_there("rows.jsonl")
    absolute = Path("/nowhere/rows.jsonl")
    with pytest.raises(DataError, match="there is no file /nowhere/rows.jsonl$"):
        check_there(str(absolute))
