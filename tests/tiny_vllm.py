"""A server on this machine that answers as vLLM 0.32 does, from a small model of transformers."""

import base64
import io
import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch

Said = tuple[int, Any]


class TinyVLLM(ThreadingHTTPServer):
    """Serves a model as "teacher"; what it does otherwise than vLLM is set by its fields."""

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any = None, port: int = 0):
        super().__init__(("127.0.0.1", port), _Asked)
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name, self.version, self.longest = "teacher", "0.32.0", 512
        self.max_logprobs = 64
        self.key = ""
        self.scale_out = self.second_runner = False
        self.mode = "raw_logprobs"
        self.temperature = 1.0
        """that it divides logits by"""
        self.wait = 0.0
        self.fails: list[int] = []
        """status of the next answers; 0 closes the connection"""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "TinyVLLM":
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.shutdown()
        self.server_close()

    @property
    def address(self) -> str:
        return f"vllm://127.0.0.1:{self.server_port}"

    @property
    def vocab(self) -> int:
        return self.model.config.vocab_size

    @torch.no_grad()
    def table(self, ids: list[int]) -> torch.Tensor:
        """[T, V] what it says for the next token at each place."""
        with self.lock:
            logits = self.model(input_ids=torch.tensor([ids])).logits[0].float() / self.temperature
        return logits if self.mode == "raw_logits" else logits.log_softmax(-1)

    def prompt_logprobs(self, ids: list[int], k: int) -> list[dict[str, Any] | None]:
        table, found = self.table(ids), [None]
        for place in range(1, len(ids)):
            row = table[place - 1]
            likeliest = row.topk(k).indices.tolist() if k else []
            tokens = dict.fromkeys([ids[place], *likeliest])
            rank = {token: int((row >= row[token]).sum()) for token in tokens}
            found.append(
                {str(t): {"logprob": _json(float(row[t])), "rank": rank[t], "decoded_token": None} for t in tokens}
            )
        return found

    def refuse(self, ids: list[int], k: int) -> Said | None:
        if k > self.max_logprobs:
            said = f"Requested prompt logprobs of {k}, which is greater than max allowed: {self.max_logprobs}"
            return _error(400, said)
        if max(ids) >= self.vocab:
            return _error(400, f"Token id {max(ids)} is out of vocabulary")
        if len(ids) >= self.longest:
            return _error(400, "max_tokens must be at least 1, got 0.")
        return None

    def completions(self, asked: dict[str, Any]) -> Said:
        prompts = asked["prompt"] if isinstance(asked["prompt"][0], list) else [asked["prompt"]]
        k, choices = asked.get("prompt_logprobs"), []
        for index, ids in enumerate(prompts):
            if said := self.refuse(ids, k or 0):
                return said
            choice: dict[str, Any] = {"index": index, "text": "", "finish_reason": "length", "logprobs": None}
            choice["prompt_logprobs"] = None if k is None else self.prompt_logprobs(ids, k)
            choice["prompt_token_ids"] = ids if asked.get("return_token_ids") else None
            if asked.get("logprobs") is not None:
                row, given = self.table(ids)[-1], asked["logprob_token_ids"]
                top = {f"token_id:{token}": _json(float(row[token])) for token in given}
                choice["logprobs"] = {"tokens": [], "token_logprobs": [], "top_logprobs": [top]}
            choices.append(choice)
        return 200, {"model": self.name, "choices": choices, "system_fingerprint": f"vllm-{self.version}-c28290ce"}

    def generate(self, asked: dict[str, Any]) -> Said:
        ids, how = asked["token_ids"], asked["sampling_params"]
        if said := self.refuse(ids, how.get("prompt_logprobs") or 0):
            return said
        given, scores = how.get("prompt_logprob_token_ids"), None
        if given is not None and not self.second_runner:
            return _error(400, "prompt_logprob_token_ids requires the V2 model runner (VLLM_USE_V2_MODEL_RUNNER=1).")
        if given is not None:
            start = how.get("prompt_logprob_start") or 0
            if len(given) != len(ids) - 1 - start:
                return _error(400, f"prompt_logprob_token_ids has {len(given)} rows")
            table, buffer = self.table(ids), io.BytesIO()
            rows = [
                [float(table[start + i, one]) if one >= 0 else -math.inf for one in row] for i, row in enumerate(given)
            ]
            np.save(buffer, np.array(rows, dtype=np.float32))
            scores = base64.b64encode(buffer.getvalue()).decode()
        k = how.get("prompt_logprobs")
        logprobs = None if k is None else self.prompt_logprobs(ids, k)
        return 200, {"prompt_logprobs": logprobs, "prompt_token_id_logprobs": scores, "choices": [{"token_ids": [0]}]}

    def tokenize(self, asked: dict[str, Any]) -> Said:
        if self.tokenizer is None:
            return _error(404, "Not Found")
        return 200, {"tokens": self.tokenizer(asked["prompt"], add_special_tokens=False)["input_ids"]}

    def answer(self, path: str, asked: dict[str, Any]) -> Said:
        if path == "/v1/models":
            return 200, {"data": [{"id": self.name, "root": "/its/folder", "max_model_len": self.longest}]}
        if path == "/version":
            return 200, {"version": self.version}
        if asked.get("model") not in (self.name, None):
            return _error(404, f"The model `{asked['model']}` does not exist.")
        known = {"/v1/completions": self.completions, "/tokenize": self.tokenize}
        known |= {"/inference/v1/generate": self.generate} if self.scale_out else {}
        return known[path](asked) if path in known else _error(404, "Not Found")


class _Asked(BaseHTTPRequestHandler):
    server: TinyVLLM

    def do_GET(self) -> None:
        self.give({})

    def do_POST(self) -> None:
        self.give(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def give(self, asked: dict[str, Any]) -> None:
        server = self.server
        with server.lock:
            server.asked.append((self.path, asked))
            status = server.fails.pop(0) if server.fails else 200
        time.sleep(server.wait)
        if status == 0:
            self.close_connection = True
            return
        if status != 200:
            status, said = _error(status, "Internal Server Error")
        elif server.key and self.headers["Authorization"] != f"Bearer {server.key}":
            status, said = 401, {"error": "Unauthorized"}
        else:
            status, said = server.answer(self.path, asked)
        self.send_response(status)
        self.end_headers()
        try:
            self.wfile.write(json.dumps(said).encode())
        except OSError:  # who asked has not waited
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def _error(status: int, said: str) -> Said:
    return status, {"error": {"message": said, "type": "BadRequestError", "code": status}}


def _json(value: float) -> float:
    return max(value, -9999.0)
