"""Addresses of served models, as recipes give them."""

from dataclasses import dataclass

from trimtab.common.errors import UserError

SCHEMES = {"vllm://": "http", "vllms://": "https"}
"""beginning of a server's address -> how it is reached"""
PORT = 8000
"""that vLLM takes by default"""


@dataclass(frozen=True)
class Address:
    """Of a served model: vllm://HOST:PORT or vllm://HOST:PORT/NAME."""

    url: str
    model: str | None
    """as the server calls it; None for the only one"""


def is_address(name: object) -> bool:
    """Whether a model's name is that of a server."""
    return isinstance(name, str) and name.startswith(tuple(SCHEMES))


def address_of(name: str) -> Address | None:
    """The address in a name that begins with a scheme; None for another name.

    Raises:
        UserError: if it is none.
    """
    scheme = next((scheme for scheme in SCHEMES if name.startswith(scheme)), None)
    if scheme is None:
        return None
    place, _, model = name.removeprefix(scheme).partition("/")
    host, _, port = place.rpartition(":") if ":" in place and not place.endswith("]") else (place, "", str(PORT))
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or any(sign in place for sign in "@?# "):
        raise UserError(f"{name} is no address of a server; write {scheme}HOST:PORT, or {scheme}HOST:PORT/MODEL")
    return Address(f"{SCHEMES[scheme]}://{host}:{port}", model or None)
