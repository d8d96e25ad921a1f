"""A server of chat completions on this machine, for tests of what asks one."""

import json
import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asked = dict[str, Any]


def echo(asked: Asked) -> str:
    return f"you said {asked['messages'][-1]['content']}"


def completion(text: str | None, finish_reason: str = "stop", tokens: list[tuple[str, float]] | None = None) -> str:
    """The body of an answer, with the probabilities of its likeliest first tokens."""
    message = {"role": "assistant", "content": text}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish_reason}
    if tokens:
        likeliest = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens]
        choice["logprobs"] = {"content": [{**likeliest[0], "top_logprobs": likeliest}], "refusal": None}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


class Server(ThreadingHTTPServer):
    """Says what `reply` makes of a request, as long as `script` does not say otherwise."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Callable[[Asked], str] = echo
        self.tokens: Callable[[Asked], list[tuple[str, float]] | None] = lambda asked: None
        """(token, probability) of the likeliest first tokens, told to whoever asks for `logprobs`"""
        self.complete: Callable[[Asked], dict[str, Any]] | None = None
        """the choice that completions (not of chats) give; None: there are none"""
        self.least = 0
        """new tokens that a completion must ask for"""
        self.script: list[tuple[int, str]] = []
        """(status, body) of the next answers"""
        self.headers: dict[str, str] = {}
        """of all answers"""
        self.counts: Callable[[Asked], dict[str, int]] | None = None
        """the usage that a chat's answer tells"""
        self.name = "m"
        """the model that answers"""
        self.ends = "stop"
        """the finish_reason of chats"""
        self.seen: list[Asked] = []
        self.keys: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(asked)
            self.server.keys.append(self.headers["Authorization"])
            status, body = self.server.script.pop(0) if self.server.script else (200, "")
        tokens = self.server.tokens(asked) if asked.get("logprobs") else None
        if not body and "prompt" in asked:
            status, body = self.completed(asked)
        if not body:
            found = json.loads(completion(self.server.reply(asked), self.server.ends, tokens))
            usage = {"usage": self.server.counts(asked)} if self.server.counts else {}
            body = json.dumps({**found, "model": self.server.name, **usage})
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def completed(self, asked: Asked) -> tuple[int, str]:
        if self.server.complete is None or not self.path.endswith("/v1/completions"):
            return 404, '{"error": {"message": "no such route"}}'
        if asked["max_tokens"] < self.server.least:
            return 400, '{"error": {"message": "max_tokens must be at least 1"}}'
        choice = {"index": 0, "finish_reason": "length", **self.server.complete(asked)}
        return 200, json.dumps(
            {"id": "1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        )

    def log_message(self, *args: Any) -> None:
        pass
