"""The chat server of transformers around a model with a dial, in a process of its own.

    python -m trimtab.serving.transformers_app FOLDER NAME HOST PORT

Requests are answered by the handler of `transformers serve`. What is added: the dial's loop, which is this package's
and not the folder's, so that no code of the folder runs; a key; several answers at a time; the length of prompts,
checked before anything is computed; and `/dial/changes`.
"""

import asyncio
import hmac
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import uvicorn
from jinja2 import TemplateError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerateManager, GenerationState, Modality
from transformers.generation.streamers import BaseStreamer

from trimtab.data.messages import kwargs_of
from trimtab.data.sources import DataError
from trimtab.decoding.dial.custom_generate import generate as dial
from trimtab.serving.changes import pieces
from trimtab.serving.forward import unless_gone
from trimtab.serving.refusals import HANDLERS, RequestRefused, error_body
from trimtab.serving.start import KEY
from trimtab.serving.strengths import Schedule

AT_A_TIME = 4
"""answers that are computed together"""
LONGEST = 1024
"""most tokens of an answer whose request names no number"""
BLOCK = 128
"""tokens whose logits are in memory at a time"""


class Left(Exception):
    """The client is gone."""


class UntilLeft(BaseStreamer):
    """Ends the loop of an answer that nobody waits for."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def put(self, value: Any) -> None:
        if self.left.is_set():
            raise Left

    def end(self) -> None:
        """Nothing is held back."""


class Threads(GenerateManager):
    """Several answers at a time: each call of `generate` has its own cache and its own thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="answer")

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Future:
        return self._pool.submit(fn, *args, **kwargs)

    def async_submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Future:
        return asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> tuple[str, int, Any]:
        """As it is inherited, but cancelled with the task that waits for it."""
        until = UntilLeft()
        work = partial(model.generate, **inputs, generation_config=gen_config, tokenizer=processor, streamer=until)
        try:
            sequences = await self.async_submit(work)
        finally:
            until.left.set()
        length = inputs["input_ids"].shape[-1]
        ids = sequences[0, length:]
        return processor.decode(ids, skip_special_tokens=True), length, ids


class OneModel(GenerationState):
    """That of one model, which never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.threads = Threads()

    def get_manager(self, model_id: str, use_cb: bool = False) -> Threads:
        return self.threads


class Handler(ChatCompletionHandler):
    """That of one model, under the name that clients know."""

    def __init__(self, manager: ModelManager, state: OneModel, name: str):
        super().__init__(manager, state)
        _, self.model, self.tokenizer = super()._resolve_model({})
        self.name = name

    def _resolve_model(self, body: dict) -> tuple[str, Any, Any]:
        return self.name, self.model, self.tokenizer


class DialServer:
    """The model of a folder, and its answers."""

    def __init__(self, folder: Path, name: str):
        self.name, self.state = name, OneModel()
        self.handler = Handler(ModelManager(force_model=str(folder)), self.state, name)
        model: Any = self.handler.model
        tokenizer: Any = self.handler.tokenizer
        self.model, self.tokenizer = model, tokenizer
        self.dial = dial.dial_of(model)
        model.generate = partial(dial.generate, model=model)
        self.longest: int = getattr(model.config, "max_position_embeddings", None) or sys.maxsize

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self._check_fields(body)
        room = self.longest - len(self._prompt(body))
        self._check_room(body, room)
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or min(LONGEST, room)
        body["max_completion_tokens"] = asked
        try:
            answer = await unless_gone(request, self.handler.handle_request(body, os.urandom(8).hex()))
            return answer or Response(status_code=499)  # nobody reads it
        except dial.DialRequestError as error:
            raise RequestRefused(str(error)) from None

    def _check_fields(self, body: dict[str, Any]) -> None:
        """Refuse what the handler would fail at, or take for an argument of its own."""
        try:
            body["chat_template_kwargs"] = kwargs_of(body, "the request")
        except DataError as error:
            raise RequestRefused(str(error), param="chat_template_kwargs") from None
        vocab = self.model.config.get_text_config().vocab_size
        if beyond := [token for token in body.get("logit_bias") or () if int(token) >= vocab]:
            raise RequestRefused(
                f"logit_bias names token {beyond[0]}, and the model's vocabulary ends at {vocab - 1}",
                param="logit_bias",
            )

    def _prompt(self, body: dict[str, Any]) -> list[int]:
        """Its tokens.

        Raises:
            RequestRefused: if the messages do not fit the model's template.
        """
        try:
            messages = self.handler.get_processor_inputs_from_messages(body["messages"], Modality.LLM)
            return self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tools=body.get("tools"), tokenize=True, return_dict=True,
                **body.get("chat_template_kwargs", {}),
            )["input_ids"]  # fmt: skip
        except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RequestRefused(
                f"the messages do not fit the model's chat template: {error}", param="messages"
            ) from None

    def _check_room(self, body: dict[str, Any], room: int) -> None:
        read = f"the prompt has {self.longest - room:,} tokens, and the model reads {self.longest:,}"
        if room < 1:
            raise RequestRefused(f"{read}; shorten it", param="messages")
        for name in ("max_completion_tokens", "max_tokens"):
            if (body.get(name) or 0) > room:
                raise RequestRefused(
                    f"{read}: there is room for {room:,} more, and {name} is {body[name]:,}", param=name
                )

    async def changed(self, request: Request) -> Response:
        body = await request.json()
        found = self.tokenizer(body["answer"], add_special_tokens=False, return_offsets_mapping=True)
        prompt, ids = self._prompt(body), found["input_ids"]
        self._check_room({}, self.longest - len(prompt) - len(ids) + 1)
        strengths = Schedule(body["strength"], body["most"]).tokens(len(ids))
        work = partial(changes, self.model, self.dial, prompt, ids, strengths)
        values = await self.state.threads.async_submit(work) if ids else []
        tokens = pieces(body["answer"], found["offset_mapping"], values)
        return JSONResponse({"tokens": tokens, "strength": body["strength"]})

    async def models(self, request: Request) -> Response:
        longest = self.longest if self.longest < sys.maxsize else None
        one = {"id": self.name, "object": "model", "created": 0, "owned_by": "trimtab", "max_model_len": longest}
        return JSONResponse({"object": "list", "data": [one]})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


@torch.no_grad()
def changes(
    model: Any, config: dict[str, Any], prompt: list[int], answer: list[int], strengths: list[float]
) -> list[float]:
    """[T] nats: log p of each token of an answer at its strength, minus that at 0."""
    device = model.device
    ids = torch.tensor([prompt + answer], device=device)
    both = torch.full((1, 1), 0.5)  # a strength that needs both streams
    with dial.TwoStreams(model, config, both, device, None, {}) as streams:
        hidden = model.base_model(input_ids=ids.expand(2, -1), use_cache=False).last_hidden_state
    assert streams.around.tolist() == [False, True]
    hidden, head, found = hidden[:, len(prompt) - 1 : -1], model.get_output_embeddings(), []
    for start in range(0, len(answer), BLOCK):
        aligned, original = head(hidden[:, start : start + BLOCK]).float()  # [t, V] each
        labels = ids[0, len(prompt) + start :][:BLOCK, None]
        share = torch.tensor(strengths[start:][:BLOCK], device=device)[:, None]  # [t, 1]
        mixed = torch.where(share == 1, aligned, original + share * (aligned - original))
        change = mixed.log_softmax(-1).gather(1, labels) - original.log_softmax(-1).gather(1, labels)
        found += change[:, 0].tolist()
    return found


class Keyed:
    """Refuses requests without the key."""

    def __init__(self, app: Any, key: str):
        self.app, self.wanted = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "http" and scope["path"] != "/health" and not hmac.compare_digest(given, self.wanted):
            return await RequestRefused("wrong key", 401).response()(scope, receive, send)
        return await self.app(scope, receive, send)


def app_of(served: DialServer, key: str) -> Keyed:
    """The ASGI application."""
    routes = [
        Route("/v1/chat/completions", served.chat, methods=["POST"]),
        Route("/dial/changes", served.changed, methods=["POST"]),
        Route("/v1/models", served.models),
        Route("/health", served.health),
    ]
    handlers = {
        **HANDLERS,
        HTTPException: lambda request, error: JSONResponse(
            error_body(str(error.detail), 400 if error.status_code == 422 else error.status_code),
            400 if error.status_code == 422 else error.status_code,
        ),
    }
    return Keyed(Starlette(routes=routes, exception_handlers=handlers), key)


def end_with(parent: int) -> None:
    """End this process, which would serve on for nobody, as soon as the one that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    folder, name, host, port = sys.argv[1:]
    key = os.environ.pop(KEY)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    served = DialServer(Path(folder), name)
    uvicorn.run(app_of(served, key), host=host, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
