"""Completions of the policy from a vLLM server: TRL's server mode, whose every step is checked."""

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from trl.generation.vllm_generation import VLLMGeneration

from trimtab.common import collectives
from trimtab.models.masters import inner
from trimtab.models.probing import eval_mode
from trimtab.train.served import FILE, EngineError, EngineGone, How, ServerClient

CLOSE = {"float32": 1e-3, "bfloat16": 0.12, "float16": 0.05}
"""dtype of the server -> most nats by which its log-probabilities may differ from the policy's, averaged over tokens"""
TOKENS = 64
"""compared after each transfer of weights, at most"""
TEXT = "Zwölf Boxkämpfer: 3 + 4 = 7, isn't it?\n\tdef f(x): return x  # 1234567"
"""tokenized by the server and here"""
TESTED = "0.32"
"""the version of vLLM that this was written for"""
SHAPE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "tie_word_embeddings",
)  # fmt: skip
"""of a model's config, what must be the same in the server"""


def differences(client: ServerClient, tokenizer: Any, longest: int, corrects: bool) -> list[str]:
    """What of a server does not fit the run, one line each.

    Args:
        longest: tokens of the longest prompt and its completion.
        corrects: whether the engine's log-probabilities are used.
    """
    found, config = [], client.info["model_config"]
    dtype = str(config["dtype"]).removeprefix("torch.")
    if dtype != client.how.dtype:
        found.append(f"its dtype is {dtype} instead of {client.how.dtype} (--dtype, or rollouts.dtype)")
    if longest > int(config["max_model_len"]):
        found.append(
            f"its --max-model-len is {config['max_model_len']}, and prompt and completion have up to {longest}"
        )
    mode = config["logprobs_mode"]
    if corrects and mode != "processed_logprobs":
        found.append(f"its --logprobs-mode is {mode} instead of processed_logprobs, which the correction needs")
    if config.get("quantization"):
        found.append(f"its weights are quantised ({config['quantization']})")
    if client.tokenized(TEXT) != list(tokenizer(TEXT, add_special_tokens=False)["input_ids"]):
        found.append("its tokenizer gives other ids for the same text")
    return found


class ServedRollouts(VLLMGeneration):
    """Weights go to the server before completions are asked of it, and are compared then; the first process talks.

    Args:
        how: how the server is reached.
        ends: ids of the tokens that end a completion; they are part of it.
        seed: gives the seed of a prompt by its place in the batch.
        step: the update that the weights are of.
        computing: a context like that of the training step: autocast.
        longest: tokens of the longest prompt and its completion.
        corrects: whether the engine's log-probabilities are used.
    """

    def __init__(
        self, *, how: How, ends: Sequence[int], seed: Callable[[int], int], step: Callable[[], int],
        computing: Callable[[], Any], longest: int, corrects: bool, **of_trl: Any,
    ):  # fmt: skip
        self.how, self.ends, self.seed, self.step, self.computing = how, list(ends), seed, step, computing
        self.longest, self.corrects = longest, corrects
        self.run = f"trimtab {secrets.token_hex(4)}"
        self.probe: list[int] = []
        """what is compared: tokens of prompts"""
        self.seconds = 0.0
        """of the last transfer with its check"""
        self.apart = 0.0
        """nats between server and policy at the last check, averaged over tokens"""
        self.again = 0
        """times that weights were sent anew to a server that was started again"""
        super().__init__(**of_trl, mode="server")

    @property
    def is_first(self) -> bool:
        return collectives.rank() == 0

    def _init_vllm(self) -> None:
        with collectives.all_or_none():
            if self.is_first:
                client = ServerClient(self.how, self._name(), self.seed)
                self._compare(client)
                client.connect(self.accelerator.device, self._shape())
                self.vllm_client = client

    def _name(self) -> str:
        return str(inner(self.accelerator.unwrap_model(self.model)).config._name_or_path or "MODEL")

    def _shape(self) -> dict[str, Any]:
        config = inner(self.accelerator.unwrap_model(self.model)).config.get_text_config()
        return {name: getattr(config, name) for name in SHAPE if getattr(config, name, None) is not None}

    def _compare(self, client: ServerClient) -> None:
        apart = differences(client, self.processing_class, self.longest, self.corrects)
        if apart:
            raise EngineError(f"the server at {self.how.server} does not fit the run: {'; '.join(apart)}")

    # ------------------------------------------------------------ weights

    def _iter_named_params(self) -> Generator[tuple[str, Tensor], None, None]:
        """TRL's; adapters are merged meanwhile, and what they were added to has its bits back afterwards.

        A head that is tied is sent by its own name too: on a CPU, vLLM keeps a packed copy of it.
        """
        model = self.accelerator.unwrap_model(self.model)
        with _as_before(model):
            yield from super()._iter_named_params()
            name = _tied_head(inner(model))
            if name is not None and self.vllm_client.backend == FILE:
                yield name, inner(model).get_output_embeddings().weight.data

    def sync_weights(self) -> None:
        """Send the weights, and compare what the server says with them then.

        Raises:
            EngineError: if it is not the same.
        """
        with collectives.all_or_none():
            if self.is_first:
                self._send()

    def _send(self) -> None:
        start, client = time.perf_counter(), self.vllm_client
        if client.state().instance != client.instance:
            self._connect_again()
        client.version = f"{self.run} step {self.step()}"
        client.update_named_params(self._metadata(), self._iter_named_params())
        client.reset_prefix_cache()
        self._check()
        self.seconds = time.perf_counter() - start

    def _metadata(self) -> list[tuple[str, str, list[int]]]:
        if self._weight_metadata is None and self.vllm_client.backend != FILE:
            self._weight_metadata = [
                (name, str(value.dtype).removeprefix("torch."), list(value.shape))
                for name, value in self._iter_named_params()
            ]
        return self._weight_metadata or []

    def _connect_again(self) -> None:
        self.vllm_client.info = self.vllm_client.get_server_info()
        self._compare(self.vllm_client)
        self.vllm_client.connect(self.accelerator.device, self._shape())
        self.again += 1

    def _check(self) -> None:
        ids = self.probe[:TOKENS]
        if len(ids) < 2:
            raise EngineError("the prompts have no two tokens to compare server and policy with; write longer ones")
        said, own = self.vllm_client.logprobs(ids), self._own(ids)
        self.apart = float((said - own).abs().mean())
        close = CLOSE[self.how.dtype] if self.how.tolerance is None else self.how.tolerance
        if not self.apart <= close:  # NaN is no agreement
            raise EngineError(
                f"after the weights were sent, the server at {self.how.server} gives other log-probabilities than the "
                f"policy: {self.apart:.3g} nats apart on average over {len(said)} tokens, {close:g} "
                f"are allowed in {self.how.dtype} (rollouts.tolerance). It may have kept old weights: start it again, "
                f"with vLLM {TESTED}"
            )
        if not self.vllm_client.is_current():
            raise EngineError(f"the server at {self.how.server} was started again while weights were sent to it")

    @torch.no_grad()
    def _own(self, ids: list[int]) -> Tensor:
        """As `ServerClient.logprobs`, of the policy."""
        model = self.accelerator.unwrap_model(self.model)
        rows = torch.tensor([ids], device=next(model.parameters()).device)
        with eval_mode(model), self.computing():
            logits = model(input_ids=rows, use_cache=False).logits[0, :-1].float()
        return logits.log_softmax(dim=-1).gather(1, rows[0, 1:, None])[:, 0].cpu()

    # ------------------------------------------------------------ completions

    def generate(self, prompts: list, images: Any, num_generations: int, profiler: Any = None) -> tuple:
        """As TRL's, for text; a server that was started again gets the weights once more and is asked again."""
        everyone = [one for own in collectives.objects(prompts) for one in own]
        found: tuple | None = None
        with collectives.all_or_none():
            if self.is_first:
                found = self._completed(everyone[::num_generations], num_generations)
        found = collectives.objects(found)[0]
        assert found is not None
        start = collectives.rank() * len(prompts)
        share = slice(start, start + len(prompts))
        return prompts, *(one[share] for one in found)

    def _completed(self, prompts: list[list[int]], number: int) -> tuple:
        try:
            found = self._ask(prompts, number)
            if self.vllm_client.is_current():
                return found
            why = EngineGone(f"the server at {self.how.server} was started again and has old weights")
        except EngineGone as error:
            why = error
        try:
            self.vllm_client.wait_until_up()
            if self.vllm_client.is_current():
                raise why  # it is the same one, and did not answer
            self._send()
        except EngineGone:
            raise EngineGone(f"{why}; start it again and resume the run with --resume") from None
        found = self._ask(prompts, number)
        if not self.vllm_client.is_current():
            raise EngineGone(f"the server at {self.how.server} was started again for the second time in one step")
        return found

    def _ask(self, prompts: list[list[int]], number: int) -> tuple:
        ended = {"stop_token_ids": self.ends, "ignore_eos": True}  # these alone, not those of the server's own config
        output = self.vllm_client.completions(
            prompts,
            ended,
            n=number,
            repetition_penalty=self.repetition_penalty,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p or 0.0,
            max_tokens=self.max_completion_length,
            logprobs=0,
        )
        ids = output["completion_ids"]
        if len(ids) != number * len(prompts):
            raise EngineError(f"the server gave {len(ids)} completions instead of {number * len(prompts)}")
        for one in ids:
            if len(one) != self.max_completion_length and (not one or one[-1] not in self.ends):
                raise EngineGone(f"the server at {self.how.server} broke off a completion after {len(one)} tokens")
        return ids, output["logprobs"], output["logprob_token_ids"]


def _tied_head(model: Any) -> str | None:
    """The name of a head's weight that is the embedding's."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or getattr(head, "weight", None) is not embedding.weight:
        return None
    return next(f"{name}.weight" for name, module in model.named_modules() if module is head)


@contextmanager
def _as_before(model: Any) -> Iterator[None]:
    """Afterwards the weights under adapters have their bits back: w + d - d is not w."""
    if not hasattr(model, "merge_adapter"):
        yield
        return
    before = {name: value.detach().clone() for name, value in model.named_parameters() if ".base_layer." in name}
    try:
        yield
    finally:
        if any(getattr(module, "merged", False) for module in model.modules()):
            model.unmerge_adapter()  # the iterator was left before its end
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in before:
                    value.copy_(before[name])
