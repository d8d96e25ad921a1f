"""A server that speaks what rollouts need of vLLM's protocol, around a tiny model of its own; it can misbehave."""

import json
import threading
import time
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import tiny_folder


class Engine(ThreadingHTTPServer):
    """Serves `model`; a restart brings its first weights back."""

    daemon_threads = True

    def __init__(self, model: Any, folder: Path, dtype: str = "float32"):
        super().__init__(("127.0.0.1", 0), _EngineHandler)
        self.first, self.folder = model, folder
        self.tokenizer = tiny_folder.byte_tokenizer()
        self.config: dict[str, Any] = {
            "dtype": f"torch.{dtype}",
            "max_model_len": 128,
            "logprobs_mode": "processed_logprobs",
            "quantization": None,
        }
        self.backend: str | None = "file"
        self.number = 0
        self.seen: list[tuple[str, Any]] = []
        """(path, body) of every request"""
        self.sent: list[dict[str, torch.Tensor]] = []
        """the weights of every update"""
        self.failing: dict[str, tuple[int, str]] = {}
        """path -> status and message"""
        self.hanging: dict[str, float] = {}
        """path -> seconds before it answers"""
        self.before: dict[str, Any] = {}
        """path -> called once before the next answer"""
        self.stale = False
        """updates are accepted, and change nothing"""
        self.broken_off = False
        self.lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        self.number += 1
        self.instance, self.version, self.ready = f"server{self.number}", "default", False
        self.model = deepcopy(self.first).eval()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that has given up does not read its answer."""

    # ------------------------------------------------------------ what it answers

    def get(self, path: str) -> Any:
        return {
            "/health": None,
            "/v1/models": {"data": [{"id": "policy"}]},
            "/weight_info": {"weight_version": self.version},
            "/server_info": {
                "vllm_config": {
                    "instance_id": self.instance,
                    "model_config": self.config,
                    "weight_transfer_config": {"backend": self.backend} if self.backend else None,
                }
            },
        }[path]

    def post(self, path: str, body: Any) -> Any:
        with self.lock, torch.no_grad():
            return getattr(self, path.strip("/").replace("/", "_"))(body)

    def init_weight_transfer_engine(self, body: Any) -> None:
        assert body["init_info"]["folder"] == str(self.folder)
        self.ready = True

    def start_weight_update(self, body: Any) -> None:
        assert self.ready, "init comes first"

    def update_weights(self, body: Any) -> None:
        self.sent.append(load_file(self.folder / body["update_info"]["name"]))
        if not self.stale:
            self.model.load_state_dict(self.sent[-1])

    def finish_weight_update(self, body: Any) -> None:
        self.version = body["weight_version"]

    def reset_prefix_cache(self, body: Any) -> None:
        pass

    def tokenize(self, body: Any) -> Any:
        return {"tokens": self.tokenizer(body["prompt"], add_special_tokens=False)["input_ids"]}

    def v1_completions(self, body: Any) -> Any:
        if "prompt_logprobs" in body:
            ids = body["prompt"]
            logprobs = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            said = [{str(token): {"logprob": float(logprobs[i, token]), "rank": 1}} for i, token in enumerate(ids[1:])]
            return {"choices": [{"prompt_logprobs": [None, *said]}]}
        (prompt,) = body["prompt"]
        return {"choices": [self._sampled(prompt, body, body["seed"] + i) for i in range(body["n"])]}

    def _sampled(self, prompt: list[int], body: Any, seed: int) -> Any:
        assert body["ignore_eos"]
        generator = torch.Generator().manual_seed(seed)
        ids, said = [], []
        while len(ids) < body["max_tokens"] and (not ids or ids[-1] not in body["stop_token_ids"]):
            logits = self.model(torch.tensor([prompt + ids])).logits[0, -1] / body["temperature"]
            ids.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
            said.append(float(logits.log_softmax(-1)[ids[-1]]))
        if self.broken_off:
            ids, said = ids[:1], said[:1]
        names = [f"token_id:{token}" for token in ids]
        tops = [{name: value} for name, value in zip(names, said)]
        logprobs = {"tokens": names, "token_logprobs": said, "top_logprobs": tops}
        return {"token_ids": ids, "prompt_token_ids": prompt, "logprobs": logprobs}


class _EngineHandler(BaseHTTPRequestHandler):
    server: Engine

    def _answer(self, body: Any) -> None:
        path, server = self.path.partition("?")[0], self.server
        server.seen.append((path, body))
        if path in server.before:
            server.before.pop(path)()
        time.sleep(server.hanging.get(path, 0.0))
        if path in server.failing:
            status, message = server.failing[path]
            self._send(status, {"error": {"message": message}})
            return
        try:
            said = server.get(path) if body is None else server.post(path, body)
        except (KeyError, AttributeError):
            self._send(404, {"detail": "Not Found"})
            return
        self._send(200, said)

    def _send(self, status: int, said: Any) -> None:
        raw = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(raw) if raw else {})

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(model: Any, folder: Path, **how: Any):
    """An engine that answers within the block."""
    folder.mkdir(exist_ok=True)
    engine = Engine(model, folder, **how)
    thread = threading.Thread(target=engine.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.shutdown()
        engine.server_close()
        thread.join()
