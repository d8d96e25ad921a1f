"""Models, rows and tokenizers that are small enough to be built in a test; nothing is downloaded."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from trimtab.core import IGNORE
from trimtab.models.forward import ObjectiveCall
from trimtab.signals.frozen import FrozenModel

VOCAB = 53
WIDTH = 16

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
    # ten times the usual spread: with logits near 0 a soft-cap or a scale that is forgotten would go unnoticed
    "initializer_range": 0.4,
    "attention_dropout": 0.0,
}

_KINDS: dict[str, dict] = {
    "llama": {"model_type": "llama"},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 4},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "phi": {"model_type": "phi"},  # a head with a bias
    "phi3": {"model_type": "phi3"},
    "olmo2": {"model_type": "olmo2"},
    "smollm3": {"model_type": "smollm3"},
    "gemma2": {
        "model_type": "gemma2",
        "tie_word_embeddings": True,
        "final_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 8,
        "sliding_window": 4,
    },
    "cohere": {"model_type": "cohere", "tie_word_embeddings": True, "logit_scale": 0.25},
    "granite": {"model_type": "granite", "logits_scaling": 3.0},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": WIDTH,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 64,
        "tie_word_embeddings": True,
    },
}
_NO_HEAD_DIM = {"gpt2", "phi"}


def model(kind: str = "llama", seed: int = 0, **changes) -> PreTrainedModel:
    """A randomly initialised causal language model, in eval mode.

    Args:
        kind: a key of the table above.
        seed: of the weights; the global generator is left as it was.
        changes: to the config.
    """
    known = (kind, seed, repr(sorted(changes.items())))
    if known not in _MADE:
        _MADE[known] = _made(kind, seed, changes)
    return copy.deepcopy(_MADE[known])  # half the time of a new one, or a sixth


_MADE: dict[tuple[str, int, str], PreTrainedModel] = {}


def _made(kind: str, seed: int, changes: dict[str, Any]) -> PreTrainedModel:
    settings = {**_COMMON, **_KINDS[kind], **changes}
    model_type = settings.pop("model_type")
    if model_type in _NO_HEAD_DIM:
        del settings["head_dim"]
    if model_type == "gpt2":
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"):
            settings.pop(name)
        for name in ("num_key_value_heads", "intermediate_size", "attention_dropout"):
            settings.pop(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):  # initialised to zero, which would hide a bias that is forgotten
                torch.nn.init.normal_(parameter, std=0.5)
    return built.eval()


class Rows(NamedTuple):
    """A padded micro-batch."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    row_id: Tensor

    def inputs(self) -> dict[str, Tensor]:
        return self._asdict()

    def pick(self, rows: list[int]) -> "Rows":
        return Rows(*(field[rows] for field in self))


def rows(
    lengths: tuple[tuple[int, int], ...] = ((3, 5), (1, 1), (2, 0), (4, 7)),
    *,
    vocab: int = VOCAB,
    width: int | None = None,
    seed: int = 1,
    first_row_id: int = 0,
) -> Rows:
    """Right-padded rows of random tokens.

    Args:
        lengths: (prompt tokens, answer tokens) of each row.
        vocab: ids are drawn from 3 up to this.
        width: of the padded tensors; the longest row plus one if not given.
        seed: of the tokens.
        first_row_id: rows are numbered in sevens from here, so that an id is never an index.
    """
    generator = torch.Generator().manual_seed(seed)
    width = width or max(p + a for p, a in lengths) + 1
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, (prompt, answer) in enumerate(lengths):
        ids[i, : prompt + answer] = torch.randint(3, vocab, (prompt + answer,), generator=generator)
        mask[i, : prompt + answer] = 1
        labels[i, prompt : prompt + answer] = ids[i, prompt : prompt + answer]
    return Rows(ids, mask, labels, first_row_id + 7 * torch.arange(len(lengths)))


def teacher(built: PreTrainedModel) -> FrozenModel:
    """A frozen teacher made of `built`."""
    return FrozenModel(built)


def call(objective, batch: Rows, signals=None, **settings) -> ObjectiveCall:
    """What a patched model is called with for these rows."""
    return ObjectiveCall(objective, batch.labels, signals or {}, batch.row_id, **settings)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient that is there, by name."""
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Norm of the difference over norm, over all tensors as one vector."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    apart = sum((found[n].double() - wanted[n].double()).square().sum() for n in wanted)
    return float((apart / sum(w.double().square().sum() for w in wanted.values())).sqrt())


def tokenizer(words: list[str], split: str = "whitespace") -> PreTrainedTokenizerFast:
    """A word-level tokenizer whose ids are the places in `words`.

    Args:
        words: the vocabulary; "<unk>" must be one of them.
        split: "whitespace" cuts at spaces and punctuation, "characters" at each character.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    if split == "whitespace":
        built.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        built.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>")


def saved_bytes(policy: torch.nn.Module, run: Callable[[], Any]) -> int:
    """Bytes that autograd really keeps of what `run` does, besides the weights of `policy`."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*policy.parameters(), *policy.buffers())}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        left = run()
    del left
    return sum(storage.nbytes() for storage in kept.values())
