"""What the tests of teacher caches share; whoever writes to one copies it."""

from pathlib import Path

import pytest

from tiny_caches import lay_out, write_caches


@pytest.fixture(scope="package")
def files(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="package")
def caches(files, tmp_path_factory) -> Path:
    return write_caches(files, tmp_path_factory.mktemp("caches"))
