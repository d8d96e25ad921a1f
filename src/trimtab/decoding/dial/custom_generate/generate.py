"""Generate at any strength of an alignment that stands in one inserted layer; needs torch and transformers alone.

The network runs around that layer (the original model) and through it (the aligned one), as rows of one batch with one
cache, and the logits are mixed: z = (1 - s) z_original + s z_aligned. A request at strength 0 or 1 takes one path.

    model.generate(**inputs, custom_generate=FOLDER, trust_remote_code=True, strength=0.5)

A model that was loaded from the folder with `trust_remote_code=True` generates so by itself. A server hands the
strength over in the generation config: `GenerationConfig(strength=0.5)`.

Papers: InRa (arXiv:2506.12704), CLM (arXiv:2503.04346).
"""

import copy
import math
import threading
import warnings
from numbers import Real

import torch
from transformers import StoppingCriteriaList, StopStringCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput

KEY = "trimtab_dial"
"""key of config.json that says where the layer is and which strengths are sensible"""
VERSION = 1
"""of that key; this file reads no other one"""
FLOOR = -30_000.0
"""a logit whose softmax is exactly 0"""
SERVED = 1024
"""most new tokens of a request to a server that names no number: that of `transformers serve`"""
REFUSED = {
    "output_attentions": "returned attentions", "output_hidden_states": "returned hidden states",
    "guidance_scale": "classifier-free guidance", "penalty_alpha": "contrastive search", "dola_layers": "DoLa",
    "prompt_lookup_num_tokens": "speculative decoding", "assistant_early_exit": "speculative decoding",
}  # fmt: skip
"""settings that need one stream, by name"""


class DialRequestError(ValueError):
    """A request that cannot be generated, or a folder that this file does not fit."""


def generate(
    inputs=None, generation_config=None, logits_processor=None, stopping_criteria=None, prefix_allowed_tokens_fn=None,
    synced_gpus=None, assistant_model=None, streamer=None, *, model, strength=None, tokenizer=None,
    custom_generate=None, trust_remote_code=None, **kwargs,
):  # fmt: skip
    """As `model.generate`, at a strength of the dial.

    Args:
        strength: a number; a list of n numbers, a schedule: of the T tokens that the answer may have, token t (from 0)
            gets entry floor(t n / T); a list that holds such lists (or numbers), or a tensor [B]: one for each prompt.
            By default what `generation_config` says as `strength`, else what the folder does.
        model: whose config has the key `trimtab_dial`.
        custom_generate: a loop or folder in place of this one.

    Raises:
        DialRequestError: in one line, for a strength that means nothing, and for what streams of two models cannot do.
    """
    stock = type(model).generate  # `model.generate` may be this very function
    given = {
        "inputs": inputs, "logits_processor": logits_processor, "prefix_allowed_tokens_fn": prefix_allowed_tokens_fn,
        "synced_gpus": synced_gpus, "assistant_model": assistant_model, "streamer": streamer,
    }  # fmt: skip
    if custom_generate is not None:
        own = {} if strength is None else {"strength": strength}
        return stock(
            model, generation_config=generation_config, stopping_criteria=stopping_criteria, **given, **own, **kwargs,
            tokenizer=tokenizer, custom_generate=custom_generate, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    dial = dial_of(model)
    config, served, seed = _config_of(model, generation_config, kwargs)
    asked = next((one for one in (strength, served, dial.get("default")) if one is not None), 1.0)
    _check_request(model, kwargs, inputs, assistant_model)
    criteria = StoppingCriteriaList(stopping_criteria or ())
    config, stops = _stop_strings(model, config, kwargs)
    if stops:
        if tokenizer is None:
            raise DialRequestError("stop_strings need the tokenizer: generate(..., tokenizer=TOKENIZER)")
        criteria.append(StopStringCriteria(tokenizer=tokenizer, stop_strings=stops))

    def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **inputs):
        _check_settings(generation_config)
        most = generation_config.max_length - input_ids.size(1)
        copies = generation_config.num_return_sequences or 1
        table = schedule(asked, dial, input_ids.size(0) // copies, most).repeat_interleave(copies, dim=1)
        streams = TwoStreams(model, dial, table, input_ids.device, generation_config, inputs)
        with streams:
            draws = None if seed is None else torch.Generator(input_ids.device).manual_seed(seed)
            return _decode(input_ids, streams, logits_processor, stopping_criteria, generation_config, streamer, draws)

    return stock(model, generation_config=config, stopping_criteria=criteria, custom_generate=loop, **given, **kwargs)


def dial_of(model):
    """What the model's config says about its dial.

    Raises:
        DialRequestError: if it says nothing, or in another version.
    """
    name = getattr(model, "name_or_path", "") or type(model).__name__
    dial = getattr(model.config, KEY, None)
    if not isinstance(dial, dict):
        raise DialRequestError(
            f"{name} has no dial ({KEY} in config.json); write a folder with: trimtab export RUN FOLDER"
        )
    if dial.get("version") != VERSION:
        raise DialRequestError(
            f"{name}: its dial has version {dial.get('version')}, and this generate.py reads version {VERSION}; use "
            "the generate.py of the same folder, or export the run again"
        )
    names = dial.get("modules")
    there = dict(model.named_modules()) if isinstance(names, list) else {}
    if not names or not all(isinstance(one, str) and one in there for one in names):
        raise DialRequestError(f"{name}: {KEY}.modules names {names!r}, no layers of this model; export the run again")
    return dial


def schedule(strength, dial, num_requests, most):
    """The strength of each request at each new token.

    Args:
        strength: see `generate`.
        dial: its `limits` are refused beyond, its `recommended` range warned about.
        num_requests: B.
        most: T, the most tokens that an answer may have.

    Returns:
        [T, B] float32.
    """
    if isinstance(strength, torch.Tensor):
        strength = strength.tolist()
        per_request = isinstance(strength, list)
    else:
        per_request = isinstance(strength, list | tuple) and any(isinstance(one, list | tuple) for one in strength)
    if per_request and len(strength) != num_requests:
        raise DialRequestError(f"strength has entries for {len(strength)} prompts, and there are {num_requests}")
    columns = [_column(one, dial, most) for one in (strength if per_request else [strength])]
    outside = [one for column in columns for one in column if not _within(one, dial.get("recommended"))]
    if outside:
        low, high = dial["recommended"]
        warnings.warn(
            f"strength {outside[0]:g} is outside of the recommended range, {low:g} to {high:g}: logits grow without "
            "bound there; sample with top_p below 1",
            stacklevel=2,
        )
    rows = [[column[token * len(column) // most] for column in columns] for token in range(most)]
    return torch.tensor(rows, dtype=torch.float32).expand(-1, num_requests)


def _column(strength, dial, most):
    """The strengths of one request, checked."""
    column = list(strength) if isinstance(strength, list | tuple) else [strength]
    for one in column:
        if isinstance(one, bool) or not isinstance(one, Real):
            raise DialRequestError(f"strength must be a number, or a list of numbers, got {one!r}")
        if not _finite(one):
            raise DialRequestError(f"strength must be finite, got {str(one)[:60]}")
        if not _within(one, dial.get("limits")):
            low, high = dial["limits"]
            raise DialRequestError(f"strength must lie between {low:g} and {high:g}, got {one:g}")
    if not column:
        raise DialRequestError("strength is an empty list; give a number, or a list of numbers")
    if len(column) > most:
        raise DialRequestError(
            f"strength has {len(column)} parts, and the answer at most {most} tokens; give fewer parts"
        )
    return [float(one) for one in column]


def _finite(one):
    try:
        return math.isfinite(one)
    except OverflowError:  # a whole number that no float holds
        return False


def _within(value, span):
    return span is None or span[0] <= value <= span[1]


LOCK, HOOKS, RUNNING = threading.Lock(), {}, {}
"""[hook, number of running answers] of each layer, and the streams of each thread and layer: answers of several threads
share one hook, because torch fails if one is added or removed while another thread calls the layer"""


def _around(layer, args, kwargs, output):
    streams = RUNNING.get((threading.get_ident(), id(layer)))
    return output if streams is None else streams.past(args, kwargs, output)


class TwoStreams:
    """The next logits of a batch whose rows each run around the layer, through it, or both ways."""

    def __init__(self, model, dial, table, device, generation_config, inputs):
        """
        Args:
            table: [T, B] of `schedule`.
            inputs: of the model's forward, as `generate` prepared them for B rows.
        """
        self.model, self.table, self.config, self.inputs = model, table, generation_config, inputs
        self.aligned = (table != 0).any(dim=0).nonzero()[:, 0]
        self.original = (table != 1).any(dim=0).nonzero()[:, 0]
        self.rows = torch.cat([self.aligned, self.original]).to(device)  # [n] of the batch, in the order of the streams
        around = [False] * len(self.aligned) + [True] * len(self.original)
        self.around = torch.tensor(around, device=device)
        self.layers = [model.get_submodule(name) for name in dial["modules"]]
        self.thread = threading.get_ident()
        self.started = False

    def __enter__(self):
        with LOCK:
            for layer in self.layers:
                RUNNING[self.thread, id(layer)] = self
                if id(layer) not in HOOKS:
                    HOOKS[id(layer)] = [layer.register_forward_hook(_around, with_kwargs=True), 0]
                HOOKS[id(layer)][1] += 1
        return self

    def __exit__(self, *failed):
        with LOCK:
            for layer in self.layers:
                del RUNNING[self.thread, id(layer)]
                HOOKS[id(layer)][1] -= 1
                if not HOOKS[id(layer)][1]:
                    HOOKS.pop(id(layer))[0].remove()

    def past(self, args, kwargs, output):
        """A layer's input in place of its output, in the rows that run around it."""
        given = args[0] if args else kwargs["hidden_states"]
        made = output if isinstance(output, torch.Tensor) else output[0]
        around = self.around.to(given.device).view(-1, *[1] * (given.dim() - 1))
        mixed = torch.where(around, given, made)
        return mixed if isinstance(output, torch.Tensor) else (mixed, *output[1:])

    def __call__(self, step, input_ids):
        """[B, V] float32: the mixed logits of new token number `step` after [B, T]."""
        logits = self._read(input_ids)
        now = self.table[min(step, len(self.table) - 1)].to(logits.device)
        mixed = logits.new_zeros(input_ids.size(0), logits.size(1))
        aligned, original = self.aligned.to(logits.device), self.original.to(logits.device)
        through, past = logits[: len(aligned)], logits[len(aligned) :]
        for rows, weights, part in ((original, 1 - now[original], past), (aligned, now[aligned], through)):
            weights = weights[:, None]  # at 1 the logits themselves; elsewhere 0 times minus infinity is no number
            mixed[rows] += torch.where(weights == 1, part, weights * part.clamp(min=FLOOR))
        return mixed

    def _read(self, input_ids):
        """[n, V] float32 of both streams."""
        if not self.started:
            num_rows, self.started = input_ids.size(0), True
            self.inputs = {name: self._picked(value, num_rows) for name, value in self.inputs.items()}
            outputs = self.model._prefill(input_ids[self.rows], self.config, self.inputs)
        else:
            one = 1 if self.inputs.get("use_cache") else None
            prepared = self.model.prepare_inputs_for_generation(
                input_ids[self.rows], next_sequence_length=one, **self.inputs
            )
            outputs = self.model(**prepared, return_dict=True)
        self.inputs = self.model._update_model_kwargs_for_generation(outputs, self.inputs)
        return outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=input_ids.device)

    def _picked(self, value, num_rows):
        """The rows of a tensor that has one for each of the batch; positions that all rows share stay as they are."""
        if isinstance(value, torch.Tensor) and value.dim() > 1 and value.size(0) == num_rows:
            return value[self.rows.to(value.device)]
        return value


def _decode(input_ids, next_logits, logits_processor, stopping_criteria, generation_config, streamer, draws=None):
    """[B, T + new tokens], or an output that holds them; greedily or with draws, by default of torch's generator."""
    pad, ends = generation_config._pad_token_tensor, any(hasattr(one, "eos_token_id") for one in stopping_criteria)
    going = torch.ones(input_ids.size(0), dtype=torch.bool, device=input_ids.device)
    whole = generation_config.return_dict_in_generate
    all_logits, all_scores, step = (), (), 0
    while going.any():
        logits = next_logits(step, input_ids)
        scores = logits_processor(input_ids, logits)
        if whole:
            all_logits += (logits,) if generation_config.output_logits else ()
            all_scores += (scores,) if generation_config.output_scores else ()
        if generation_config.do_sample:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1, generator=draws).squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        if ends:
            tokens = torch.where(going, tokens, pad)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        going = going & ~stopping_criteria(input_ids, all_scores)
        step += 1
    if streamer is not None:
        streamer.end()
    if not whole:
        return input_ids
    output = {"sequences": input_ids, "scores": all_scores or None, "logits": all_logits or None}
    return GenerateDecoderOnlyOutput(**output)


def _config_of(model, generation_config, kwargs):
    """The generation config to pass on (a copy, or None where none was given), and the strength and the seed that it
    names.

    A served request names a strength, and often no length; its seed is its own, whatever is answered beside it.
    """
    own = model.generation_config
    if generation_config is None:
        return None, getattr(own, "strength", None), None
    config = copy.deepcopy(generation_config)
    served, seed = getattr(config, "strength", None), getattr(config, "seed", None)
    if seed is not None:
        del config.seed
    if served is None:
        return config, None, seed
    del config.strength
    lengths = ("max_new_tokens", "max_length")
    if not any(kwargs.get(one) or getattr(config, one, None) or getattr(own, one, None) for one in lengths):
        config.max_new_tokens = SERVED
    return config, served, seed


def _stop_strings(model, config, kwargs):
    """The texts that end an answer, taken out of where they were said; a custom loop gets no tokenizer to find them."""
    said = kwargs.pop("stop_strings", None) or getattr(config or model.generation_config, "stop_strings", None)
    if config is not None:
        config.stop_strings = None
    return config, said


def _check_request(model, kwargs, inputs, assistant_model):
    """Refuse what two streams cannot do, and a prompt that the model cannot read."""
    if assistant_model is not None:
        raise DialRequestError("speculative decoding (assistant_model) is not supported by the dial; leave it out")
    if kwargs.get("inputs_embeds") is not None:
        raise DialRequestError("inputs_embeds are not supported by the dial; give input_ids")
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length():
        raise DialRequestError("past_key_values must be empty: the dial reads prompts anew, some of them twice")
    ids, mask = inputs if inputs is not None else kwargs.get("input_ids"), kwargs.get("attention_mask")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if ids is None or longest is None:
        return
    length = ids.size(-1) if mask is None else int(mask.sum(dim=-1).max())
    if length >= longest:
        raise DialRequestError(f"the prompt has {length} tokens, and the model reads {longest}; shorten it")


def _check_settings(generation_config):
    """Refuse beams, and what needs one stream alone."""
    if (generation_config.num_beams or 1) > 1:
        raise DialRequestError(
            f"the dial decodes greedily or by sampling, not with {generation_config.num_beams} beams"
        )
    for name, what in REFUSED.items():
        if getattr(generation_config, name, None) not in (None, False, 0, 1.0 if name == "guidance_scale" else None):
            raise DialRequestError(f"{name} ({what}) is not supported by the dial; leave it out")
