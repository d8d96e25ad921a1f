"""JSON over HTTP to an engine, by the standard library."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

API_KEY = "TRIMTAB_API_KEY"
"""environment variable with the key of a server, which stands nowhere else"""
SAID = 300
"""characters of an answer that messages repeat"""


class RequestFailed(Exception):
    """A request without a usable answer.

    Args:
        said: in a line, without the key.
        status: of HTTP; None where no answer came.
        slow: nothing came in time, from a server that may be there.
    """

    def __init__(self, said: str, status: int | None = None, *, slow: bool = False):
        super().__init__(said)
        self.status, self.slow = status, slow

    @property
    def passing(self) -> bool:
        """Whether it may be gone at the next try: no answer, or one that does not refuse what was asked."""
        return self.status is None or self.status in (408, 409, 429) or self.status >= 500


def api_key() -> str:
    """The key of the environment, or nothing."""
    return os.environ.get(API_KEY, "").strip()


def request_json(url: str, body: Mapping[str, Any] | None = None, *, key: str = "", timeout: float = 10.0) -> Any:
    """What a server answers: POST with a body, else GET.

    Args:
        key: sent as a bearer token if there is one.
        timeout: seconds, of each wait for bytes.

    Returns:
        The JSON value; None for an empty answer.

    Raises:
        RequestFailed: for a refusal, no answer, or one that is no JSON.
    """
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            raw = answer.read()
    except urllib.error.HTTPError as error:
        with error:
            raise RequestFailed(_hidden(f"HTTP {error.code}: {_message(error)}", key), error.code) from None
    except TimeoutError:
        raise RequestFailed(f"no answer in {timeout:g} seconds", slow=True) from None
    except urllib.error.URLError as error:
        slow = isinstance(error.reason, TimeoutError)
        raise RequestFailed(_hidden(_line(str(error.reason)), key), slow=slow) from None
    except (OSError, ValueError, HTTPException) as error:  # cut off in the middle, or no address
        raise RequestFailed(_hidden(_line(f"{type(error).__name__}: {error}"), key)) from None
    if not raw.strip():
        return None
    try:
        return json.loads(raw)
    except ValueError:
        raise RequestFailed(f"an answer that is no JSON: {_line(raw[:SAID].decode(errors='replace'))}") from None


def _message(error: urllib.error.HTTPError) -> str:
    """The message in an answer of OpenAI's form, or its text."""
    try:
        raw = error.read()
    except (OSError, ValueError):
        return "no text"
    try:
        said = json.loads(raw)
        said = said.get("error", said)
        return _line(str(said.get("message", said) if isinstance(said, dict) else said))
    except (ValueError, AttributeError):
        return _line(raw[:SAID].decode(errors="replace")) or "no text"


def _line(text: str) -> str:
    return " ".join(text.split())[:SAID]


def _hidden(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text
