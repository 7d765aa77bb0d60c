"""What differs between the architectures served here, as data: one row per architecture name.

`config.py` reads a checkpoint's config.json with the row's help. To serve another decoder-only
architecture, add a row; when no combination of these facts describes it, extend `Family`. A feature
that no code here computes must be refused in `refusals`, never ignored: a model that loads and
answers nonsense is worse than one that does not load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Window(Enum):
    """Which layers attend only to the last `sliding_window` tokens."""

    NEVER = "never"
    ALWAYS = "always"
    """Every layer, when `sliding_window` is set."""
    SWITCHED = "switched"
    """Every layer, when `use_sliding_window` is set too."""
    LATE = "late"
    """With `use_sliding_window`, those that `layer_types` names, or from `max_window_layers` on."""


@dataclass(frozen=True, slots=True)
class Family:
    """The facts of one architecture."""

    model_type: str
    qkv_bias: bool | None = None
    """None: `attention_bias` of the config decides."""
    out_bias: bool | None = None
    """None: `attention_bias` of the config decides."""
    mlp_bias: bool | None = False
    """None: `mlp_bias` of the config decides."""
    qk_norm: bool = False
    """Queries and keys are RMS-normalised per head before rotation."""
    window: Window = Window.NEVER
    experts: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a key means when config.json leaves it out, where that is not the common default."""


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", mlp_bias=None),
    "MistralForCausalLM": Family(
        "mistral",
        qkv_bias=False,
        out_bias=False,
        window=Window.ALWAYS,
        defaults={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2",
        qkv_bias=True,
        out_bias=False,
        window=Window.LATE,
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32768},
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        qk_norm=True,
        window=Window.LATE,
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "sliding_window": 4096,
            "max_position_embeddings": 32768,
        },
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe",
        qk_norm=True,
        window=Window.SWITCHED,
        experts=True,
        defaults={
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "max_position_embeddings": 32768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
    ),
}

SUPPORTED = ", ".join(sorted(FAMILIES))

_ABSENT = (
    "attention_chunk_size",
    "attention_multiplier",
    "attn_logit_softcapping",
    "audio_config",
    "clip_qkv",
    "cross_attention_layers",
    "dual_chunk_attention_config",
    "embedding_multiplier",
    "final_logit_softcapping",
    "kv_lora_rank",
    "logit_scale",
    "logits_scaling",
    "no_rope_layers",
    "num_nextn_predict_layers",
    "parallel_attn",
    "qk_layernorm",
    "quantization_config",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "shared_expert_intermediate_size",
    "text_config",
    "use_qk_norm",
    "vision_config",
)
"""Keys that change what a model computes and that no family here has. Any value but null, false, 0 or
an empty one is refused."""


def _known(key: str, value: Any) -> bool:
    """Whether a value of a key that is refused otherwise is understood: matrices in eight bits are read."""
    if key != "quantization_config" or not isinstance(value, Mapping):
        return False
    method = value.get("quant_method")
    if method == "compressed-tensors":  # dense: only keys and values have scales
        return value.get("format") in ("float-quantized", "dense")
    if method == "modelopt":
        return value.get("quant_algo") == "FP8"
    block = value.get("weight_block_size") or [128, 128]
    return method == "fbgemm_fp8" or (method == "fp8" and block == [128, 128])


def refusals(raw: Mapping[str, Any]) -> list[str]:
    """What the config.json `raw` of a known architecture asks for and no code here does, as reasons."""
    found = [f"{key} = {raw[key]!r}" for key in _ABSENT if raw.get(key) and not _known(key, raw[key])]
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        found.append(f"hidden_act = {raw['hidden_act']!r} (only silu)")
    for key in ("is_encoder_decoder", "add_cross_attention"):
        if raw.get(key):
            found.append(f"{key} = true")
    if "AutoModelForCausalLM" in (raw.get("auto_map") or {}):
        found.append("auto_map (the checkpoint brings its own model code)")
    return found
