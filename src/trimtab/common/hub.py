"""One quick request to the Hub before its clients make many, which retry for a minute without a connection."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from trimtab.common.errors import UserError

Kind = Literal["models", "datasets"]
Reach = Literal["there", "unreachable", "offline", "unknown"]
SECONDS = 10.0
"""seconds to wait for a response"""


class HubError(UserError):
    """A repository that the Hub does not have."""


def reach(kind: Kind, name: str, revision: str | None = None) -> Reach:
    """Whether the Hub has a repository; requested once per process.

    Returns:
        "there"; "unreachable" without a connection; "offline" if HF_HUB_OFFLINE is set; "unknown" otherwise.

    Raises:
        HubError: if it has none of that name, or a private one.
    """
    found = _request(kind, name, revision)
    if found == "gone":
        what = f"{kind[:-1]} of that name" if revision is None else f"{kind[:-1]} {name} with a revision {revision}"
        raise HubError(f"it has no {what}, or one that is private: `hf auth login`")
    return found


@lru_cache
def _request(kind: Kind, name: str, revision: str | None) -> Any:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.HF_HUB_OFFLINE:
        return "offline"
    url = f"{constants.ENDPOINT}/api/{kind}/{quote(name)}"
    url = url if revision is None else f"{url}/revision/{quote(revision, safe='')}"
    try:
        response = get_session().get(url, headers=build_hf_headers(), timeout=SECONDS)
    except Exception as error:  # of whichever HTTP library the client uses, and its proxies
        return "unreachable" if _is_no_connection(error) else "unknown"
    if response.status_code in (401, 403, 404):
        return "gone"
    return "there" if response.status_code == 200 else "unknown"


def _is_no_connection(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "Timeout", "TimeoutException", "OSError"})


def why_not(kind: Kind, name: str, revision: str | None = None) -> str | None:
    """Why neither the Hub nor the cache can provide a repository; None if one of them may."""
    try:
        found = reach(kind, name, revision)
    except HubError as error:
        return str(error)
    if found in ("unreachable", "offline") and not cached(kind, name):
        why = "cannot be reached" if found == "unreachable" else "is not used, as HF_HUB_OFFLINE is set"
        return f"it {why}, and it is not in the cache"
    return None


def cached(kind: Kind, name: str) -> bool:
    """Whether anything of a repository is in the cache; for a dataset, also as prepared by `datasets`."""
    from huggingface_hub import constants

    folders = [Path(constants.HF_HUB_CACHE) / f"{kind}--{name.replace('/', '--')}" / "snapshots"]
    if kind == "datasets":
        made = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
        wanted = name.replace("/", "___").lower()
        folders += [one for one in (made.iterdir() if made.is_dir() else ()) if one.name.lower() == wanted]
    return any(folder.is_dir() and any(folder.iterdir()) for folder in folders)
