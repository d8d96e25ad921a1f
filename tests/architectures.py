"""Every causal language model class of transformers, tiny and random, from its config's own defaults made small."""

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import tiny
import tiny_folder
from trimtab.core import TokenBatch, reduce, weights
from trimtab.decoding._texts import generate_texts
from trimtab.methods import dpo, kd, sft
from trimtab.models.adapters import add_lora
from trimtab.models.forward import UnsupportedModel, add_objective_forward
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer
from trimtab.models.loading import load_model
from trimtab.models.packing import PLACE
from trimtab.models.packing_check import check_packing
from trimtab.models.scalar_head import with_scalar_head
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LIMIT = 15_000_000
"""parameters of a tiny model; one that cannot be made so small is left out"""
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim"), 32),
    "embedding_size": 32,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 2),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "global_head_dim", "swa_head_dim"), 16),
    "qk_rope_head_dim": 8, "qk_head_dim": 24, "kv_lora_rank": 16, "q_lora_rank": 16, "o_lora_rank": 16,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "expert_num"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_groups", "n_shared_experts"), 1),
    "first_k_dense_replace": 1, "sliding_window": 8, "attention_window": 8, "attention_window_size": 8,
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "ssm_state_size": 8, "state_size": 8, "time_step_rank": 4, "n_groups": 1, "mamba_expand": 2,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "query_pre_attn_scalar": 16, "rotary_dim": 8, "index_head_dim": 16, "index_n_heads": 16, "index_topk": 8,
    "lru_width": 32, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 259, "laurel_rank": 4,
    "num_kv_shared_layers": 0, "mamba_d_ssm": 64, "chunk_size": 8, "mamba_chunk_size": 8, "attention_hidden_size": 32,
    "initializer_range": 0.2, "max_window_layers": 1, "original_max_position_embeddings": 64,
}  # fmt: skip
"""few indexing heads would all score 0 (they end in a ReLU), and which of equal tokens are read is left to chance"""
_VOCABULARY = {"vocab_size": tiny_folder.VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 0}
_QUIET = (
    "attention_dropout",
    "dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "hidden_dropout",
    "activation_dropout",
)


_PARTS = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "num_key_value_heads": 2, "head_dim": 8, "depth": 1, "num_heads": 2, "embed_dim": 16,
}  # fmt: skip
"""small numbers of what sees or hears"""


class NotTiny(ValueError):
    """A class that has no tiny form here; the message says why."""


def config(kind: str) -> Any:
    """The config of a type with small numbers, of a multimodal one its text part's.

    Raises:
        NotTiny: if its class does not take them.
    """
    try:
        text = AutoConfig.for_model(kind).get_text_config()
    except Exception as error:  # a config may want files or packages
        raise NotTiny(f"its config has no defaults: {first_line(error)}") from error
    known = set(inspect.signature(type(text).__init__).parameters) | set(vars(text))
    small = {k: v for k, v in _SMALL.items() if k in known and _own(text, k) is not None}
    small |= {k: 0.0 for k in _QUIET if k in known and isinstance(_own(text, k), float)}
    for name in ("layer_types", "layers_block_type"):
        if isinstance(types := _own(text, name), (list, tuple)) and name in known:
            each = list(dict.fromkeys(types))  # one layer of each type, two at least
            small |= {name: each if len(each) > 1 else each * 2}
            small |= {k: len(small[name]) for k in ("num_hidden_layers",) if k in small}
    small |= {k: v for k, v in _VOCABULARY.items() if k in known or k != "vocab_size"}
    if kind in ADJUSTED:
        small |= ADJUSTED[kind]
    if hasattr(text, "is_decoder"):
        small["is_decoder"] = True
    try:
        made = type(text)(**small)
    except Exception as error:
        raise NotTiny(f"its config does not take small numbers: {first_line(error)}") from error
    return made


def _own(text: Any, name: str) -> Any:
    try:
        return getattr(text, name, None)
    except Exception:  # a config whose layers differ names no single number
        return 2


ADJUSTED: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 8}, "deepseek_v2": {"head_dim": 8, "num_experts_per_tok": 2, "topk_method": "greedy"},
    "deepseek_v3": {"head_dim": 8}, "bamba": {"attn_layer_indices": [1]}, "codegen": {"n_head": 4, "rotary_dim": 8},
    "dots1": {"head_dim": 16}, "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]}, "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16}, "ministral": {"head_dim": 16}, "mamba2": {"num_heads": 4, "head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]}, "nemotron": {"head_dim": 16}, "youtu": {"head_dim": 8},
    "recurrent_gemma": {"num_hidden_layers": 3}, "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 32},
}  # fmt: skip
"""what a type needs besides"""


def multimodal(kind: str) -> PreTrainedModel:
    """The whole random model of a type that sees or hears too, as a checkpoint of it is loaded for text."""
    plain = AutoConfig.for_model(kind)
    parts = {}
    for name in ("vision_config", "audio_config"):
        if (part := getattr(plain, name, None)) is not None:
            known = set(inspect.signature(type(part).__init__).parameters) | set(vars(part))
            parts[name] = type(part)(**{k: v for k, v in _PARTS.items() if k in known}).to_dict()
    more = {"mm_tokens_per_image": 1} if hasattr(plain, "mm_tokens_per_image") else {}
    whole = type(plain)(text_config=config(kind).to_dict(), **parts, **more)
    whole.eos_token_id = whole.pad_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(whole).eval()


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def build(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random model in eval mode.

    Raises:
        NotTiny: if it cannot be built, is too large, or does not run.
    """
    small = config(kind)
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(small).parameters())
        if size > LIMIT:
            raise NotTiny(f"it has {size:,} parameters with small numbers")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(small).eval()
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    torch.nn.init.normal_(parameter, std=0.1)
        with torch.no_grad():
            logits = model(input_ids=torch.arange(3, 15)[None]).logits
    except NotTiny:
        raise
    except Exception as error:
        raise NotTiny(f"it does not run with small numbers: {first_line(error)}") from error
    if logits.shape[:2] != (1, 12) or not (logits.isfinite().all() or torch.isneginf(logits).any()):
        raise NotTiny("its logits are no numbers, or not one row a token")
    return model


# ---------------------------------------------------------------- the matrix

ROWS = tiny.rows(((3, 5), (2, 2), (4, 7), (1, 3)), vocab=tiny_folder.VOCAB)
TOLERANCE = 1e-4
"""relative error of a gradient in float32"""


def _signals(models: dict[str, PreTrainedModel]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        inputs = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
        return {name: model(**inputs, use_cache=False).logits for name, model in models.items()}


def train(kind: str | PreTrainedModel, method: Any, **roles: PreTrainedModel) -> None:
    """One step of a method inside the model's forward against the objective on the model's own logits."""
    model = build(kind) if isinstance(kind, str) else kind
    if roles:
        plan = method.METHOD.build(method.Config(), model, **{k: FrozenModel(m, name=k) for k, m in roles.items()})
    else:
        plan = method.METHOD.build(method.Config(), model)
    signals = _signals(roles)
    logits = model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, use_cache=False).logits
    batch = TokenBatch.align(logits, ROWS.labels, signals, row_id=ROWS.row_id)
    wanted = reduce(plan.objective(batch), weights(batch, plan.reduction, None, plan.objective.per))
    wanted.backward()
    reference = tiny.gradients(model)
    model.zero_grad(set_to_none=True)
    add_objective_forward(model)
    found = call_plan(plan, model, ROWS.inputs())
    assert found.loss is not None
    found.loss.backward()
    assert found.loss.isfinite()
    torch.testing.assert_close(found.loss, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    apart = tiny.relative_error(tiny.gradients(model), reference)
    assert apart < TOLERANCE, f"the gradient is off by {apart:.1e}"


def check_sft(kind: str) -> None:
    train(kind, sft)


def check_kd(kind: str) -> None:
    train(kind, kd, teacher=build(kind, seed=1))


def check_dpo(kind: str) -> None:
    train(kind, dpo, reference=build(kind, seed=1))


def check_lora(kind: str) -> None:
    """One step of an adapter, and the merged model gives the adapted one's logits."""
    model = build(kind)
    add_objective_forward(model)
    adapted = add_lora(model, {"r": 4, "target_modules": "all-linear"}, seed=0)
    plan = sft.METHOD.build(sft.Config(), adapted)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        found = call_plan(plan, adapted, ROWS.inputs())
        assert found.loss is not None
        found.loss.backward()
        optimizer.step()
    inputs = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask, "use_cache": False}
    with torch.no_grad():
        before = adapted(**inputs).logits
        after = adapted.merge_and_unload()(**inputs).logits
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def check_saved(kind: str, folder: Path) -> None:
    """A saved folder is loaded as what it is."""
    model = build(kind)
    model.save_pretrained(folder)
    tiny_folder.byte_tokenizer().save_pretrained(folder)
    again = load_model(str(folder))
    inputs = {"input_ids": ROWS.input_ids[:1, :8], "use_cache": False}
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


PLACES = torch.tensor([[0, 0], [0, 8], [1, 0], [1, 11]])
"""of the rows, in two packs"""


def check_packs(kind: str) -> None:
    """Rows in packs have the loss and the gradient of padded rows."""
    model = build(kind)
    check_packing(model, "policy")
    add_objective_forward(model)
    plan, found = sft.METHOD.build(sft.Config(), model), []
    for inputs in (ROWS.inputs(), {**ROWS.inputs(), PLACE: PLACES}):
        loss = call_plan(plan, model, inputs, router_loss=0.0).loss
        assert loss is not None
        loss.backward()
        found.append((loss.detach(), tiny.gradients(model)))
        model.zero_grad(set_to_none=True)
    (wanted, padded), (loss, packed) = found
    torch.testing.assert_close(loss, wanted, rtol=TOLERANCE, atol=TOLERANCE)
    apart = tiny.relative_error(packed, padded)
    assert apart < TOLERANCE, f"the gradient is off by {apart:.1e}"


PROMPTS = ["hello there my friend", "hi", "a b c d e f g"]


def check_generate(kind: str) -> None:
    """Prompts that are answered together are answered as alone, with a cache as without."""
    model, tokenizer = build(kind), tiny_folder.byte_tokenizer()
    model.config.get_text_config().eos_token_id = None
    together = [one.text for one in generate_texts(model, tokenizer, PROMPTS, 8)]
    alone = [generate_texts(model, tokenizer, [prompt], 8)[0].text for prompt in PROMPTS]
    assert together == alone, f"together {together}, alone {alone}"


def check_score(kind: str) -> None:
    """A scalar head stands on the layers and gives each token a number."""
    scorer = with_scalar_head(build(kind), seed=0)
    with torch.no_grad():
        scores = scorer(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    assert scores.shape == (*ROWS.input_ids.shape, 1)
    assert scores.isfinite().all()


def check_dial(kind: str, folder: Path) -> None:
    """A new first layer changes nothing, learns, is saved as an ordinary model, and can be gone around."""
    model = build(kind)
    inputs = {"input_ids": ROWS.input_ids, "use_cache": False}
    with torch.no_grad():
        wanted = model(**inputs).logits
    expanded = insert_identity_layer(model)
    with torch.no_grad():
        assert torch.equal(expanded(**inputs).logits, wanted)
        generator = torch.Generator().manual_seed(0)
        for weight in identity_layer(expanded).parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.1)
        moved = expanded(**inputs).logits
        assert not torch.equal(moved, wanted)
        with bypass(expanded):
            assert torch.equal(expanded(**inputs).logits, wanted)
        expanded.save_pretrained(folder)
        again = load_model(str(folder))
        torch.testing.assert_close(again(**inputs).logits, moved, rtol=1e-3, atol=1e-3)
        with bypass(again):
            torch.testing.assert_close(again(**inputs).logits, wanted, rtol=1e-3, atol=1e-3)


CHECKS: dict[str, Any] = {
    "sft": check_sft, "kd": check_kd, "dpo": check_dpo, "lora": check_lora, "saved": check_saved,
    "packs": check_packs, "generate": check_generate, "score": check_score, "dial": check_dial,
}  # fmt: skip


def verdict(kind: str, check: str, folder: Path) -> str:
    """ "yes", "refused: REASON", or "WRONG: what happened"."""
    try:
        CHECKS[check](kind, folder) if check in ("saved", "dial") else CHECKS[check](kind)
    except NotTiny:
        raise
    except (UnsupportedModel, ValueError) as error:
        return f"refused: {first_line(error)}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {first_line(error)}"
    return "yes"
