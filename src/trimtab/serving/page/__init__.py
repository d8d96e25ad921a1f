"""The page: one document without requests to elsewhere, whose policy allows this script and style alone."""

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Self

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

STYLE, SCRIPT = "/* page.css */", "/* page.js */"
"""what the document has in place of the other two files"""


@dataclass(frozen=True)
class DialPage:
    document: str
    policy: str

    @classmethod
    def load(cls) -> Self:
        """The document with its style and script inside."""
        folder = files("trimtab.serving.page")
        document, style, script = (
            (folder / name).read_text(encoding="utf-8") for name in ("index.html", "page.css", "page.js")
        )
        policy = (
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return cls(document.replace(STYLE, style).replace(SCRIPT, script), policy)

    async def endpoint(self, request: Request) -> Response:
        return HTMLResponse(self.document, headers={
            "Content-Security-Policy": self.policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Cross-Origin-Opener-Policy": "same-origin",
        })  # fmt: skip


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
