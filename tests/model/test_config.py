"""Reading config.json: both spellings, every refusal, and what follows from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.checkpoints import VARIANTS, Make
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from baton.core.errors import InvalidSetting, UnsupportedModel
from baton.model import ModelConfig
from baton.model.config import parse
from baton.model.families import FAMILIES
from baton.model.rope import Rope, read_rope
from baton.model.rotary import frequencies, table

PLAIN: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
QWEN2 = {**PLAIN, "architectures": ["Qwen2ForCausalLM"]}
MOE = {
    **PLAIN,
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_shape_is_that_which_transformers_reads(name: str, checkpoint: Make) -> None:
    made = checkpoint(name)
    theirs, ours = made.model.config, ModelConfig.read(made.directory)
    assert ours.architecture == theirs.architectures[0]
    assert (ours.layers, ours.heads, ours.kv_heads) == (3, 4, 2)
    assert ours.head_dim == made.model.model.layers[0].self_attn.head_dim
    everywhere = getattr(theirs, "sliding_window", None)
    windows = [getattr(layer.self_attn, "sliding_window", everywhere) for layer in made.model.model.layers]
    assert list(ours.windows) == windows
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.dtype == "float32"
    assert ours.norm_eps == theirs.rms_norm_eps


def test_old_and_new_spellings_mean_the_same() -> None:
    llama3 = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    new = {**PLAIN, "rope_parameters": {**llama3, "rope_type": "llama3", "rope_theta": 500000.0}}
    old = {**PLAIN, "rope_theta": 500000.0, "rope_scaling": {**llama3, "rope_type": "llama3"}}
    assert parse(new) == parse(old)
    assert parse(new).rope == Rope(
        kind="llama3",
        theta=500000.0,
        factor=8.0,
        original_len=64,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )
    older = {**PLAIN, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert parse(older).rope == Rope(kind="linear", factor=2.0)
    assert parse({**PLAIN, "rope_theta": 1e6, "rope_scaling": None}).rope == Rope(theta=1e6)
    assert parse({**PLAIN, "torch_dtype": "bfloat16"}) == parse({**PLAIN, "dtype": "bfloat16"})
    old_moe = {key: value for key, value in MOE.items() if key != "num_experts"} | {"num_local_experts": 8}
    assert parse(MOE) == parse(old_moe)


def test_an_architecture_may_be_told_by_its_model_type() -> None:
    raw = {key: value for key, value in PLAIN.items() if key != "architectures"}
    assert parse({**raw, "model_type": "mistral"}).architecture == "MistralForCausalLM"


def test_an_unknown_architecture_is_told_which_are_known() -> None:
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel is not supported") as caught:
        parse({**PLAIN, "architectures": ["GPT2LMHeadModel"]})
    assert all(name in str(caught.value) for name in FAMILIES)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"quantization_config": {"quant_method": "awq"}},
        {"final_logit_softcapping": 30.0},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}},
        {"dual_chunk_attention_config": {"chunk_size": 8}},
        {"vision_config": {"depth": 2}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]}},
        {"rope_scaling": {"rope_type": "yarn"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"num_key_value_heads": 3},
        {"head_dim": 7},
        {"dtype": "float8_e4m3fn"},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ],
)
def test_what_is_not_computed_is_refused(changes: dict[str, Any]) -> None:
    parse(PLAIN)
    with pytest.raises(UnsupportedModel):
        parse({**PLAIN, **changes})


def test_features_that_are_off_are_not_refused() -> None:
    off = {
        "quantization_config": None,
        "partial_rotary_factor": 1.0,
        "final_logit_softcapping": None,
        "auto_map": {"AutoTokenizer": "x"},
    }
    assert parse({**PLAIN, **off}) == parse(PLAIN)


@pytest.mark.parametrize("value", [None, 0, -1, "64", 64.0, True])
def test_a_broken_number_is_named(value: Any) -> None:
    with pytest.raises(InvalidSetting, match="hidden_size"):
        parse({**PLAIN, "hidden_size": value})


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("rms_norm_eps", {"rms_norm_eps": None}),
        ("rms_norm_eps", {"rms_norm_eps": "1e-5"}),
        ("rope_theta", {"rope_theta": -5.0}),
        ("rope_scaling", {"rope_scaling": "yarn"}),
        ("factor", {"rope_scaling": {"rope_type": "linear", "factor": "4"}}),
        ("factor", {"rope_scaling": {"rope_type": "linear", "factor": -4.0}}),
        (
            "original_max_position_embeddings",
            {"rope_scaling": {**YARN, "original_max_position_embeddings": "x"}},
        ),
        ("beta_fast", {"rope_scaling": {**YARN, "beta_fast": [32]}}),
        ("eos_token_id", {"eos_token_id": "</s>"}),
        ("eos_token_id", {"eos_token_id": [[1]]}),
        ("bos_token_id", {"bos_token_id": "<s>"}),
        ("architectures", {"architectures": "LlamaForCausalLM"}),
        ("architectures", {"architectures": [["LlamaForCausalLM"]]}),
        ("max_window_layers", {"max_window_layers": "2", "use_sliding_window": True}),
        ("layer_types", {"layer_types": 4}),
        ("layer_types", {"layer_types": [["full_attention"]] * 4}),
        ("mlp_only_layers", {"architectures": ["Qwen3MoeForCausalLM"], "mlp_only_layers": 1}),
    ],
)
def test_what_is_of_another_kind_is_named(field: str, changes: dict[str, Any]) -> None:
    base = {**PLAIN, "architectures": ["Qwen3ForCausalLM"]}
    with pytest.raises(InvalidSetting, match=f"config.json: {field}: must be "):
        parse({**base, **changes})


def test_a_token_below_0_is_none() -> None:
    config = parse({**PLAIN, "eos_token_id": [-1, 7], "bos_token_id": -1})
    assert (config.eos_token_ids, config.bos_token_id) == ((7,), None)


def test_windows_follow_each_family() -> None:
    switched = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}
    assert parse({**PLAIN, "sliding_window": 7}).windows == (None,) * 4
    assert parse({**PLAIN, "architectures": ["MistralForCausalLM"]}).windows == (4096,) * 4
    mistral = {**PLAIN, "architectures": ["MistralForCausalLM"], "sliding_window": None}
    assert parse(mistral).windows == (None,) * 4
    assert parse({**QWEN2, "sliding_window": 7}).windows == (None,) * 4
    assert parse({**QWEN2, **switched}).windows == (None, None, None, 7)
    named = ["sliding_attention", "full_attention"] * 2
    assert parse({**QWEN2, **switched, "layer_types": named}).windows == (7, None, 7, None)
    assert parse({**MOE, **switched}).windows == (7,) * 4
    for broken in (["chunked_attention"] * 4, named[:2]):
        with pytest.raises(UnsupportedModel, match="layer_types"):
            parse({**QWEN2, **switched, "layer_types": broken})
    with pytest.raises(UnsupportedModel, match="no window"):
        parse({**QWEN2, "layer_types": named})


def test_experts_are_where_the_config_puts_them() -> None:
    experts = parse({**MOE, "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": True}).experts
    assert experts is not None
    assert experts.layers == (False, True, False, False)
    assert (experts.count, experts.per_token, experts.intermediate_size, experts.normalise) == (
        8,
        2,
        16,
        True,
    )
    assert parse(PLAIN).experts is None


def test_end_tokens_come_from_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**PLAIN, "eos_token_id": 5, "bos_token_id": 1}))
    assert ModelConfig.read(tmp_path).eos_token_ids == (5,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 5]}))
    config = ModelConfig.read(tmp_path)
    assert config.eos_token_ids == (5, 7)
    assert config.bos_token_id == 1


def test_a_directory_without_a_readable_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match=r"no config\.json"):
        ModelConfig.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidSetting, match="cannot be read"):
        ModelConfig.read(tmp_path)


def test_yarn_lengthens_the_model_and_the_others_do_not() -> None:
    def length(rope: dict[str, Any] | None) -> int:
        return parse({**PLAIN, "rope_scaling": rope}).max_model_len

    assert length(None) == 512
    assert length({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}) == 1024
    assert length({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}) == 512
    assert length({"type": "linear", "factor": 4.0}) == 512


def test_each_rank_holds_its_kv_heads() -> None:
    config = parse(PLAIN)
    assert [config.kv_heads_of(rank, 2) for rank in range(2)] == [range(0, 1), range(1, 2)]
    assert [list(config.kv_heads_of(rank, 8)) for rank in range(8)] == [[0]] * 4 + [[1]] * 4
    with pytest.raises(InvalidSetting, match="tensor_parallel"):
        config.kv_heads_of(0, 3)


def test_kv_bytes_are_counted_whole_and_by_rank() -> None:
    config = parse(PLAIN)
    assert config.kv_bytes_per_token("float32") == 2 * 4 * 2 * 8 * 4
    assert config.kv_bytes_per_token("bfloat16") == 2 * 4 * 2 * 8 * 2
    assert config.kv_bytes_per_token("float8_e4m3fn") == 2 * 4 * 2 * 8
    assert config.kv_bytes_per_token("float32", ranks=2) == 2 * 4 * 1 * 8 * 4
    assert config.kv_bytes_per_token("float32", ranks=8) == 2 * 4 * 1 * 8 * 4
    with pytest.raises(InvalidSetting, match="dtype"):
        config.kv_bytes_per_token("int3")


def test_the_fingerprint_tells_apart_what_gives_other_kv(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    config = ModelConfig.read(made.directory)
    same = dataclasses.replace(config, max_model_len=99, eos_token_ids=(3,))
    assert same.fingerprint() == config.fingerprint() == ModelConfig.read(made.directory).fingerprint()
    different = [
        config.fingerprint("bfloat16"),
        config.fingerprint(kv_dtype="float8_e4m3fn"),
        config.fingerprint("bfloat16", "float8_e4m3fn"),
        dataclasses.replace(config, rope=Rope(theta=5.0)).fingerprint(),
        dataclasses.replace(config, windows=(4, None, None)).fingerprint(),
        dataclasses.replace(config, weights=b"others").fingerprint(),
        ModelConfig.read(made.directory, "dummy").fingerprint(),
        ModelConfig.read(made.directory, "dummy", seed=1).fingerprint(),
        ModelConfig.read(checkpoint("qwen3-yarn").directory).fingerprint(),
    ]
    assert len({config.fingerprint(), *different}) == 1 + len(different)


REAL_ROPES: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 1000000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
        "truncate": False,
    },
]


@pytest.mark.parametrize("settings", REAL_ROPES, ids=lambda settings: settings["rope_type"])
def test_frequencies_equal_those_of_transformers_to_the_last_bit(settings: dict[str, Any]) -> None:
    theirs = transformers.LlamaConfig(
        head_dim=128, max_position_embeddings=131072, rope_parameters=dict(settings)
    )
    rope = read_rope({"rope_parameters": settings}, 131072)
    if settings["rope_type"] == "default":
        wanted = 1.0 / (settings["rope_theta"] ** (torch.arange(0, 128, 2, dtype=torch.float) / 128))
        factor = 1.0
    else:
        wanted, factor = ROPE_INIT_FUNCTIONS[settings["rope_type"]](theirs, torch.device("cpu"))
    assert torch.equal(frequencies(rope, 128), wanted)
    rows = table(rope, 128, 50, torch.device("cpu"))
    angles = 49 * wanted
    assert torch.equal(rows[49], torch.cat((angles.cos(), angles.sin())) * factor)


@pytest.mark.parametrize(
    "known",
    [
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        {"quant_method": "compressed-tensors", "format": "dense", "kv_cache_scheme": {"num_bits": 8}},
        {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8}},
        {"quant_method": "fbgemm_fp8"},
    ],
)
def test_matrices_in_eight_bits_are_no_reason_to_refuse(known: dict[str, Any]) -> None:
    assert parse({**PLAIN, "quantization_config": known}) == parse(PLAIN)
    with pytest.raises(UnsupportedModel):
        parse({**PLAIN, "quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}})
