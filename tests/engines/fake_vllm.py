#!/usr/bin/env python3
"""A program that is started like `vllm`, for tests of starting and stopping one; how it behaves stands in FAKE_VLLM."""

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port = int(sys.argv[sys.argv.index("--port") + 1])
how = json.loads(os.environ.get("FAKE_VLLM", "{}"))
print("loading", sys.argv[2], flush=True)
if "dies" in how:
    print(f"key {os.environ.get('VLLM_API_KEY')}", flush=True)
    sys.exit(how["dies"])
if how.get("child"):
    asleep = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(99)"
    child = subprocess.Popen([sys.executable, "-c", asleep], start_new_session=True)
    print(f"child {child.pid}", flush=True)
if how.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how.get("never"):
    time.sleep(99)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        said = {
            "/health": None,
            "/version": {"version": "0.32.0+cpu"},
            "/v1/models": {"data": [{"id": "teacher", "root": sys.argv[2], "max_model_len": 128}]},
            "/environment": dict(os.environ),
        }
        if self.path.startswith("/v1") and self.headers["Authorization"] != f"Bearer {os.environ.get('VLLM_API_KEY')}":
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"error": "Unauthorized"}')
            return
        self.send_response(200)
        self.end_headers()
        if said[self.path] is not None:
            self.wfile.write(json.dumps(said[self.path]).encode())

    def log_message(self, *args) -> None:
        pass


time.sleep(0.2)
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
