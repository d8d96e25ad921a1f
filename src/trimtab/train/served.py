"""What a vLLM server is asked by a trainer: TRL's client with time-outs, plain errors, and weights from files."""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests
import torch
from requests.adapters import HTTPAdapter
from safetensors.torch import save_file
from torch import Tensor
from trl.generation.vllm_client import VLLMClient
from trl.import_utils import is_vllm_available

from trimtab.common.disk import writing_to
from trimtab.common.errors import UserError, first_line
from trimtab.engines.http import API_KEY, api_key

CONNECT = 10.0
"""seconds until a connection stands"""
REQUESTS = 32
"""prompts that are asked for at the same time"""
ON_A_CPU = 1 << 30
"""bytes of the KV cache of a server on a CPU, which by default takes nearly all memory"""
FILE, NCCL = "file", "nccl"
"""backends of weight transfer"""


class EngineError(UserError):
    """A server that cannot be used for rollouts, or not any more."""


class EngineGone(EngineError):
    """A server that is not there, or does not answer."""


class How(NamedTuple):
    """How a server is reached; the recipe's `rollouts`."""

    server: str
    """http://HOST:PORT"""
    weights_folder: str
    """where weights are written to that the server reads from a file"""
    wait: float
    """seconds to wait for a server that is not up"""
    timeout: float
    """seconds to wait for the answer to one request"""
    dtype: str
    """that the server is to compute in"""
    tolerance: float | None = None
    """nats between server and policy, averaged over tokens, above which the run ends; None: by dtype"""


class State(NamedTuple):
    """Which process a server is, and which weights it has."""

    instance: str
    version: str


def command_of(how: How, model: str) -> str:
    """The command that starts a server as it is needed."""
    port = how.server.rpartition(":")[2].strip("/")
    return (
        f"TRIMTAB_WEIGHTS_FOLDER={how.weights_folder} VLLM_SERVER_DEV_MODE=1 vllm serve {model} --host 127.0.0.1 "
        f"--port {port} {'' if torch.cuda.is_available() else f'--kv-cache-memory-bytes {ON_A_CPU} '}"
        f"--dtype {how.dtype} --logprobs-mode processed_logprobs "
        """--weight-transfer-config '{"backend": "file"}'"""
    )


class ServerClient(VLLMClient):
    """TRL's client of `vllm serve`, for a trainer that need not have vLLM.

    Requests are sent once: a retry of TRL's would hide a server that was started anew with its old weights.

    Args:
        how: how it is reached.
        model: name or folder of the policy, for messages.
        seeds: of each prompt of a batch, what its completions are drawn with.
    """

    def __init__(self, how: How, model: str, seeds: Callable[[int], int] = lambda place: place):
        # not TRL's, which imports vLLM, never gives up on a request, and repeats it after an error
        self.how, self.policy, self.seeds = how, model, seeds
        self.base_url = how.server.rstrip("/")
        self.host = self.base_url.partition("://")[2].partition(":")[0]
        self.group_port, self.communicator, self._updating_weights = 51216, None, False
        self.session = requests.Session()
        if key := api_key():
            self.session.headers["Authorization"] = f"Bearer {key}"
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=REQUESTS))
        self.wait_until_up()
        self.model = self._get(f"{self.base_url}/v1/models")["data"][0]["id"]
        self.info = self.get_server_info()
        transfer = self.info.get("weight_transfer_config")
        self.backend = transfer["backend"] if transfer else None
        self.version = ""
        """of the weights that were sent last"""
        self.instance = ""
        """of the server that they were sent to"""

    # ------------------------------------------------------------ requests

    def _get(self, url: str, **kwargs: Any) -> dict:
        return self._ask("get", url, **kwargs)

    def _post(self, url: str, **kwargs: Any) -> dict:
        return self._ask("post", url, **kwargs)

    def _ask(self, how: str, url: str, **kwargs: Any) -> dict:
        path = url.removeprefix(self.base_url)
        try:
            response = self.session.request(how, url, timeout=(CONNECT, self.how.timeout), **kwargs)
        except requests.exceptions.ReadTimeout:
            raise EngineGone(
                f"the server at {self.base_url} has not answered {path} within {self.how.timeout:g} seconds; see what "
                "it does, or raise rollouts.timeout"
            ) from None
        except requests.exceptions.RequestException as error:
            raise EngineGone(
                f"the server at {self.base_url} is gone ({type(error).__name__} at {path}); start it again, and go on "
                "with --resume"
            ) from None
        if response.status_code == 404:
            raise EngineError(
                f"the server at {self.base_url} has no {path}; start one with: {command_of(self.how, self.policy)}"
            )
        if response.status_code in (401, 403):
            raise EngineError(f"the server at {self.base_url} asks for a key; give it in {API_KEY}")
        if response.status_code != 200:
            kind = EngineGone if response.status_code in (502, 503) else EngineError
            raise kind(f"the server at {self.base_url} answers {response.status_code} to {path}: {_said(response)}")
        try:
            return response.json() if response.content else {}
        except ValueError:
            raise EngineError(f"the server at {self.base_url} answers {path} with something else than JSON") from None

    def wait_until_up(self) -> None:
        """Wait as long as `wait` says.

        Raises:
            EngineGone: if it does not come up.
        """
        end = time.monotonic() + self.how.wait
        while True:
            why = "no connection"
            try:
                response = self.session.get(f"{self.base_url}/health", timeout=(CONNECT, CONNECT))
                if response.status_code == 200:
                    return
                why = f"/health answers {response.status_code}"
            except requests.exceptions.RequestException as error:
                why = type(error).__name__
            if time.monotonic() >= end:
                raise EngineGone(
                    f"no server is up at {self.base_url} ({why}) after {self.how.wait:g} seconds; start one with: "
                    f"{command_of(self.how, self.policy)}"
                )
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))

    def get_server_info(self) -> dict:
        return self._get(f"{self.base_url}/server_info", params={"config_format": "json"})["vllm_config"]

    def state(self) -> State:
        """Which server it is now, and the version of its weights."""
        version = self._get(f"{self.base_url}/weight_info")["weight_version"]
        return State(str(self.get_server_info()["instance_id"]), str(version))

    def is_current(self) -> bool:
        """Whether it still is the server that the last weights were sent to, with these weights.

        Raises:
            EngineError: if another program has changed them.
        """
        now = self.state()
        if now.instance == self.instance and now.version != self.version:
            raise EngineError(
                f"the weights of the server at {self.base_url} were changed by another program: they are "
                f"{now.version!r} instead of {self.version!r}; give each run a server of its own"
            )
        return now == State(self.instance, self.version)

    # ------------------------------------------------------------ weights

    def connect(self, device: torch.device, model: Mapping[str, Any]) -> None:
        """Prepare the transfer of weights.

        Args:
            device: of the policy.
            model: values of its config that the server's must have too.
        """
        self.instance = str(self.get_server_info()["instance_id"])
        if self.backend == FILE:
            folder = Path(self.how.weights_folder)
            if not folder.is_dir():
                raise EngineError(
                    f"rollouts.weights_folder: there is no folder {folder}; make it: mkdir -m 700 {folder}"
                )
            info = {"folder": str(folder), "model": dict(model)}
            self._post(f"{self.base_url}/init_weight_transfer_engine", json={"init_info": info})
        elif self.backend == NCCL:
            if device.type != "cuda" or not is_vllm_available():
                lacking = "a CUDA device" if device.type != "cuda" else "the package vllm beside trimtab"
                raise EngineError(
                    f"the server at {self.base_url} takes weights by NCCL, which needs {lacking}; start it with: "
                    f"{command_of(self.how, self.policy)}"
                )
            self.init_communicator(device=device)
        else:
            raise EngineError(
                f"the server at {self.base_url} takes weights by {self.backend or 'nothing'}, and trimtab sends them "
                f"by file or nccl; start it with: {command_of(self.how, self.policy)}"
            )

    def update_named_params(self, metadata: list, named_params: Iterator[tuple[str, Tensor]]) -> None:
        """As TRL's; by file, all tensors are in one that is gone afterwards."""
        if self.backend == NCCL:
            super().update_named_params(metadata, named_params)
            return
        dtype = getattr(torch, self.how.dtype)
        held = {  # a copy: adapters are merged only while the iterator is read
            name: value.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            for name, value in named_params
        }
        path = Path(self.how.weights_folder) / f"trimtab-{os.getpid()}-{secrets.token_hex(4)}.safetensors"
        try:
            with writing_to(path.parent):
                path.touch(mode=0o600)
                save_file(held, path)
            self._start_weight_update()
            self._post(f"{self.base_url}/update_weights", json={"update_info": {"name": path.name}})
            self._finish_weight_update()
        finally:
            path.unlink(missing_ok=True)

    def _finish_weight_update(self) -> None:
        self._post(f"{self.base_url}/finish_weight_update", json={"weight_version": self.version})

    def reset_prefix_cache(self) -> None:
        self._post(f"{self.base_url}/reset_prefix_cache")  # TRL asks without a time-out where it finds no vLLM

    # ------------------------------------------------------------ tokens

    def completions(self, prompts: list[list[int]], more: Mapping[str, Any], **sampling: Any) -> dict[str, list]:
        """As TRL's `generate`, but each prompt is a request of its own, drawn with its own seed.

        Args:
            more: fields of vLLM's requests that TRL does not name.
        """

        def send(place: int) -> dict[str, list]:
            return self.generate([prompts[place]], generation_kwargs={**more, "seed": self.seeds(place)}, **sampling)

        with ThreadPoolExecutor(max_workers=min(REQUESTS, len(prompts))) as pool:
            found = list(pool.map(send, range(len(prompts))))
        return {key: [one for part in found for one in part[key]] for key in found[0]}

    def logprobs(self, ids: list[int]) -> Tensor:
        """[T - 1] log-probabilities (nats) of these tokens but the first, each given those before it."""
        asked = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        choice = self._post(f"{self.base_url}/v1/completions", json=asked)["choices"][0]
        places = zip(choice["prompt_logprobs"][1:], ids[1:])
        return torch.tensor([float(place[str(token)]["logprob"]) for place, token in places])

    def tokenized(self, text: str) -> list[int]:
        asked = {"model": self.model, "prompt": text, "add_special_tokens": False}
        return list(self._post(f"{self.base_url}/tokenize", json=asked)["tokens"])


def _said(response: Any) -> str:
    """What an error of vLLM's says, in a line."""
    try:
        told = response.json()
        text = str((told.get("error") or {}).get("message") or told.get("detail") or told)
    except (ValueError, AttributeError):
        text = response.text
    _, found, rest = text.partition("Worker failed with error '")
    if found:
        text = rest.rpartition("', please check")[0] or rest
    return first_line(UserError(text))[:300]
