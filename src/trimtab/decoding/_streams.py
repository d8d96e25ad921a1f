"""Common parts of strategies that decode from two streams of logits: dial, streams, mixture and loop."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.cache_utils import CacheLayerMixin
from transformers.generation.streamers import BaseStreamer
from transformers.generation.utils import ALL_CACHE_NAMES, GenerateDecoderOnlyOutput

from trimtab.common.errors import UserError
from trimtab.core.batch import finite
from trimtab.core.draws import inverse_cdf

Strength = float | Sequence[Any] | Tensor | Callable[[int], float | Tensor]


class Dial:
    """The strength of each row of a batch at each new token, and which of the two streams a row needs."""

    def __init__(self, strength: Strength, num_rows: int, copies: int = 1):
        """
        Args:
            strength: a number; one for each request, [B]; a schedule over the new tokens, [S, B] or [S, 1], whose last
                entry is kept; or a function from the token's index (from 0) to a number or [B].
            num_rows: of the batch, B * copies.
            copies: consecutive rows per request.

        Raises:
            ValueError: if a strength is not a finite number, or has another shape.
        """
        self.num_requests, self.copies = num_rows // copies, copies
        self.function = strength if callable(strength) else None
        if callable(strength):  # what it will return is not known: both
            self.original = self.aligned = torch.ones(num_rows, dtype=torch.bool)
            return
        self.schedule = self._rows(strength, most_dims=2)  # [S, num_rows]
        self.original, self.aligned = (self.schedule != 1).any(dim=0), (self.schedule != 0).any(dim=0)  # [num_rows]

    def __call__(self, step: int) -> Tensor:
        """[num_rows] float32 at new token number `step`."""
        if self.function is None:
            return self.schedule[min(step, len(self.schedule) - 1)]
        return self._rows(self.function(step), most_dims=1)[0]

    def _rows(self, strength: Any, most_dims: int) -> Tensor:
        try:
            numbers = torch.as_tensor(strength, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"strength must consist of numbers, got {strength!r}") from error
        if not numbers.isfinite().all():
            raise UserError(f"strength must be finite, got {strength!r}")
        widths = {0: (1,), 1: (self.num_requests,), 2: (1, self.num_requests)}
        table = numbers if numbers.dim() == 2 else numbers.reshape(1, -1)
        if numbers.dim() > most_dims or table.size(1) not in widths[numbers.dim()] or not len(table):
            raise UserError(
                f"strength has the shape {list(numbers.shape)} for {self.num_requests} requests; give a number, one "
                "for each request, or a schedule [tokens, requests] or [tokens, 1]"
            )
        return table.expand(-1, self.num_requests).repeat_interleave(self.copies, dim=1)


class Stream:
    """A model with its own cache over some rows of a batch: maps the tokens so far to the next logits."""

    def __init__(
        self, model: PreTrainedModel, rows: Tensor, generation_config: GenerationConfig, inputs: dict[str, Any]
    ):
        """
        Args:
            rows: [n] indices; a row may come twice.
            generation_config: as `generate` passes it to a strategy.
            inputs: of the model's forward, likewise; rows are selected from tensors with one entry per row.
        """
        self.model: Any = model
        self.rows, self.generation_config, self.inputs = rows, generation_config, inputs
        self.started = False

    def __call__(self, input_ids: Tensor) -> Tensor:
        """[n, V] float32 from [B, T], the whole sequences so far."""
        if not self.started:
            self.inputs = {name: pick(value, self.rows, input_ids.size(0)) for name, value in self.inputs.items()}
            outputs = self.model._prefill(input_ids[self.rows], self.generation_config, self.inputs)
            self.started = True
        else:
            prepared = self.model.prepare_inputs_for_generation(
                input_ids[self.rows], next_sequence_length=1 if self.inputs.get("use_cache") else None, **self.inputs
            )
            outputs = self.model(**prepared, return_dict=True)
        self.inputs = self.model._update_model_kwargs_for_generation(outputs, self.inputs)
        return outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)

    def keep(self, places: Tensor, rows: Tensor) -> None:
        """Continue with other rows, which share their past with rows that were read.

        Args:
            places: [m] index of their past among the rows so far; an index may occur twice.
            rows: [m] indices of the batch.
        """
        num_rows, cache = len(self.rows), self.inputs.get("past_key_values")
        self.inputs = {name: pick(value, places, num_rows) for name, value in self.inputs.items()}
        if cache is not None:
            cache.batch_select_indices(places.to(self.model.device))
        self.rows = rows


def pick(value: Any, rows: Tensor, num_rows: int) -> Any:
    """Select rows; positions shared by all rows have shape [1, T] and keep it."""
    if isinstance(value, Tensor) and value.dim() > 1 and value.size(0) == num_rows:
        return value[rows.to(value.device)]
    return value


def mix(num_rows: int, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The sum of weight * logits over the parts that hold a row.

    A row with weight 1 in one part and 0 (or absent) in the others gets that part's logits bit for bit.

    Args:
        parts: rows [n] (indices, each at most once), weight [n], logits [n, V] float32.

    Returns:
        [B, V] float32.
    """
    mixed = None
    for rows, weight, logits in parts:
        weight = weight.to(logits.device)[:, None]
        if mixed is None:
            mixed = logits.new_zeros(num_rows, logits.size(1))
        mixed[rows] += torch.where(weight == 1, logits, weight * finite(logits))
    assert mixed is not None
    return mixed


def check_settings(generation_config: GenerationConfig, inputs: dict[str, Any]) -> None:
    """Refuse beams, attentions or hidden states in the output, and a cache that is not empty."""
    if (generation_config.num_beams or 1) > 1:
        raise UserError(
            f"mixing streams supports greedy decoding and sampling, not {generation_config.num_beams} beams; choose "
            "another strategy, such as greedy or top_p"
        )
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(generation_config, name):
            raise UserError(f"{name} is not supported when mixing streams")
    for name in ALL_CACHE_NAMES:
        if _holds(inputs.get(name)):
            raise UserError(f"{name} must be empty: prompts are read again here, some twice or once for several rows")


def _holds(cache: Any) -> bool:
    """Whether a cache holds anything; states other than transformers' caches exist only then."""
    if cache is None:
        return False
    if not hasattr(cache, "layers"):
        return not hasattr(cache, "get_seq_length") or cache.get_seq_length() > 0
    states = [getattr(layer, "has_previous_state", None) or {} for layer in cache.layers]
    kept = [layer for layer in cache.layers if isinstance(layer, CacheLayerMixin)]
    return any(any(state.values()) for state in states) or any(layer.get_seq_length() > 0 for layer in kept)


def chosen(scores: Tensor, generation_config: GenerationConfig, uniform: Tensor | None = None) -> Tensor:
    """[B] the next tokens from [B, V]: greedy, or sampled, as in `generate` or with numbers [B] in [0, 1)."""
    if generation_config.do_sample and uniform is not None:
        return inverse_cdf(torch.softmax(scores, dim=-1), uniform)
    if generation_config.do_sample:
        return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
    return scores.argmax(dim=-1)


def decode(
    input_ids: Tensor,
    next_logits: Callable[[int, Tensor], Tensor],
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    streamer: BaseStreamer | None,
) -> Tensor | GenerateDecoderOnlyOutput:
    """Decode by sampling or greedily until every row has stopped, with the same draws as `generate`.

    Args:
        input_ids: [B, T] of the prompts.
        next_logits: from the index of the new token and the sequences so far to [B, V] float32.
        streamer: gets each new column of tokens, [B].

    Returns:
        [B, T + new tokens], or with `return_dict_in_generate` an output with it, and scores and logits if asked for.
    """
    pad, ends = generation_config._pad_token_tensor, any(hasattr(c, "eos_token_id") for c in stopping_criteria)
    unfinished = torch.ones(input_ids.size(0), dtype=torch.bool, device=input_ids.device)
    all_logits: tuple[Tensor, ...] = ()
    all_scores: tuple[Tensor, ...] = ()
    step = 0
    while unfinished.any():
        logits = next_logits(step, input_ids)
        scores = logits_processor(input_ids, logits)
        if generation_config.return_dict_in_generate:
            all_logits += (logits,) if generation_config.output_logits else ()
            all_scores += (scores,) if generation_config.output_scores else ()
        tokens = chosen(scores, generation_config)
        if ends:
            assert pad is not None, "generate() sets it wherever there is an end token"
            tokens = torch.where(unfinished, tokens, pad)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        unfinished = unfinished & ~stopping_criteria(input_ids, all_scores)
        step += 1
    if streamer is not None:
        streamer.end()
    if not generation_config.return_dict_in_generate:
        return input_ids
    output = {"sequences": input_ids, "scores": all_scores or None, "logits": all_logits or None}
    return GenerateDecoderOnlyOutput(**output)  # type: ignore[arg-type]
