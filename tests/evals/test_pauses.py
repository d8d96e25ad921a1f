"""Retry-After: seconds, a date, or nothing that can be read."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from trimtab.evals.pauses import asked_pause

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 2026 12:01:30 GMT", 90.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2026 12:01:30 -0000", None),
        ("soon", None),
        ("nan", None),
        (None, None),
    ],
)
def test_a_pause_is_seconds_or_until_a_date(value, seconds):
    headers = {} if value is None else {"retry-after": value}
    assert asked_pause(SimpleNamespace(response=SimpleNamespace(headers=headers)), NOW) == seconds  # type: ignore[arg-type]
    assert asked_pause(ValueError("no response")) is None
