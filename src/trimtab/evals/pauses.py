"""The pause that a server asks for before a request is sent again (the header Retry-After)."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_PAUSE = 600.0
"""seconds; who asks for more is not waited for"""


def asked_pause(error: BaseException | None, now: datetime | None = None) -> float | None:
    """Seconds that the answer to a failed request asks to wait, as a number or until a date; None if it does not say.

    Args:
        error: one of openai's, which holds the response.
        now: the present, for a date.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if headers is not None else None
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - (now or datetime.now(UTC))).total_seconds()
        except (TypeError, ValueError):  # neither a number nor a date with a zone
            return None
    return min(max(seconds, 0.0), 1e9) if seconds == seconds else None
