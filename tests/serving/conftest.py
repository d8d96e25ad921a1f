"""A tiny model with a dial behind the real engine and the real front, each on a port of this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

import tiny_dial
from trimtab.models.dial import read_dial
from trimtab.serving.changes import by_engine
from trimtab.serving.dialects import Dialect, settings_of
from trimtab.serving.front import Front
from trimtab.serving.run import Stoppable, bound
from trimtab.serving.transformers_app import DialServer, app_of

TOKEN = "a-token-of-tests"


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Its address, while it runs in a thread."""
    with bound("127.0.0.1", 0) as listening:
        config = uvicorn.Config(app, log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1)
        server = Stoppable(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def dial_folder(tmp_path_factory):
    return tiny_dial.export(tmp_path_factory.mktemp("serving"), recommended=(-0.5, 1.5))


@pytest.fixture(scope="session")
def site(dial_folder):
    """The front, its engine and their model."""
    engine = DialServer(dial_folder, "tiny")
    with running(app_of(engine, "engine-key")) as inner:
        dialect = Dialect("transformers", settings_of(dial_folder))
        front = Front("tiny", read_dial(dial_folder), dialect, inner, "engine-key", TOKEN, by_engine)
        with running(front.app()) as url:
            yield SimpleNamespace(url=url, engine=engine, inner=inner, token=TOKEN)
