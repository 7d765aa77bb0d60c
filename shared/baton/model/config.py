"""What a model is: the shape, positions, windows and features that its config.json states.

Read once when a worker starts, then only looked at: by the loader and decoder, by the runner (pool
size, windows), by the lease (fingerprint, length) and by transfers (heads of each rank). Torch-free, so
that a router or a command-line tool can read one too. Nothing here touches tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.core.errors import InvalidSetting, UnsupportedModel
from baton.model.families import FAMILIES, SUPPORTED, Family, Window, refusals
from baton.model.files import weights_digest
from baton.model.rope import Rope, positive, read_rope

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
KV_BYTES: Mapping[str, int] = {**DTYPE_BYTES, "float8_e4m3fn": 1}
"""What a pool may hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the dense feed-forward."""

    count: int
    per_token: int
    intermediate_size: int
    normalise: bool
    """The chosen experts' weights are scaled to sum to 1."""
    layers: tuple[bool, ...]
    """[layers] True where the layer has experts, False where it is dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder-only model."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope: Rope
    windows: tuple[int | None, ...]
    """[layers] how many last tokens, its own included, a token of the layer sees; None is all."""
    max_model_len: int
    """The most tokens a sequence may have, prompt and output together."""
    tied: bool
    """The output head is the embedding."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: Experts | None
    dtype: str
    """What the checkpoint is stored in; a setting may choose another."""
    eos_token_ids: tuple[int, ...]
    """Tokens that end a sequence, of config.json and generation_config.json together."""
    bos_token_id: int | None
    weights: bytes = b""
    """Identity of the weights; empty while unknown."""

    @property
    def scale(self) -> float:
        """What attention scores are multiplied by."""
        return float(self.head_dim**-0.5)

    def kv_heads_of(self, rank: int, ranks: int) -> range:
        """The KV heads whose cache one rank holds. With more ranks than KV heads, ranks share one."""
        if self.kv_heads % ranks == 0:
            each = self.kv_heads // ranks
            return range(rank * each, (rank + 1) * each)
        if ranks % self.kv_heads == 0:
            head = rank * self.kv_heads // ranks
            return range(head, head + 1)
        raise InvalidSetting("tensor_parallel", f"{ranks} ranks cannot share {self.kv_heads} KV heads evenly")

    def kv_bytes_per_token(self, dtype: str | None = None, ranks: int = 1) -> int:
        """Bytes of KV that one token takes in one rank's pool, every layer together."""
        held = len(self.kv_heads_of(0, ranks))
        return 2 * self.layers * held * self.head_dim * _itemsize(dtype or self.dtype)

    def fingerprint(self, dtype: str | None = None, kv_dtype: str | None = None) -> bytes:
        """16 bytes that differ when the same tokens would give other KV: architecture, shape, positions,
        weights, the dtype of the model and, where it is another, that of the KV. Page identities are salted
        with it. How long sequences may get, which token ends them and the split over ranks do not enter."""
        facts = dataclasses.asdict(self)
        for key in ("max_model_len", "eos_token_ids", "bos_token_id", "tied", "weights", "dtype"):
            del facts[key]
        facts["dtype"] = dtype or self.dtype
        _itemsize(facts["dtype"])
        if kv_dtype not in (None, facts["dtype"]):
            facts["kv_dtype"] = kv_dtype
        stated = json.dumps(facts, sort_keys=True).encode()
        return hashlib.blake2b(stated + b"\0" + self.weights, digest_size=16).digest()

    @staticmethod
    def read(directory: Path, load_format: str = "auto", seed: int = 0) -> ModelConfig:
        """The config of a checkpoint directory, with the identity of the weights that `load_format` will
        give it; raises UnsupportedModel or InvalidSetting."""
        raw = _read_json(directory / "config.json")
        if raw is None:
            raise InvalidSetting("model", f"{directory} has no config.json")
        config = parse(raw, _read_json(directory / "generation_config.json") or {})
        dummy = load_format == "dummy"
        weights = b"dummy:%d" % seed if dummy else weights_digest(directory)
        return dataclasses.replace(config, weights=weights)


def parse(raw: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> ModelConfig:
    """The model that a config.json (and generation_config.json, for its end tokens) describes."""
    architecture, family = _family(raw)
    problems = refusals(raw)
    if problems:
        raise UnsupportedModel(f"{architecture} with {'; '.join(problems)} is not supported")
    raw = {**family.defaults, **raw}
    hidden, heads = _count(raw, "hidden_size"), _count(raw, "num_attention_heads")
    kv_heads = _count(raw, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise UnsupportedModel(f"{heads} heads are not a multiple of {kv_heads} KV heads")
    head_dim = _count(raw, "head_dim", hidden // heads)
    if head_dim % 2:
        raise UnsupportedModel(f"head_dim = {head_dim} is odd and cannot be rotated")
    positions = _count(raw, "max_position_embeddings", 2048)
    rope = read_rope(raw, positions)
    bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        vocab_size=_count(raw, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_count(raw, "intermediate_size"),
        layers=_count(raw, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=positive("rms_norm_eps", raw.get("rms_norm_eps", 1e-6)),
        rope=rope,
        windows=_windows(raw, family, architecture),
        max_model_len=_longest(rope, positions),
        tied=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        out_bias=bias if family.out_bias is None else family.out_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)) if family.mlp_bias is None else family.mlp_bias,
        qk_norm=family.qk_norm,
        experts=_experts(raw) if family.experts else None,
        dtype=_dtype(raw),
        eos_token_ids=_token_ids("eos_token_id", raw, generation or {}),
        bos_token_id=next(iter(_token_ids("bos_token_id", raw)), None),
    )


def _family(raw: Mapping[str, Any]) -> tuple[str, Family]:
    named = _list(raw, "architectures", str) or [
        name for name, family in FAMILIES.items() if family.model_type == raw.get("model_type")
    ]
    for name in named:
        if name in FAMILIES:
            return name, FAMILIES[name]
    what = ", ".join(map(str, named)) or raw.get("model_type") or "a config.json without `architectures`"
    raise UnsupportedModel(f"{what} is not supported; supported architectures: {SUPPORTED}")


def _windows(raw: Mapping[str, Any], family: Family, architecture: str) -> tuple[int | None, ...]:
    layers = _count(raw, "num_hidden_layers")
    width = raw.get("sliding_window")
    if family.window in (Window.LATE, Window.SWITCHED) and not raw.get("use_sliding_window", False):
        width = None
    if family.window is Window.NEVER:
        width = None
    first = _first_window(raw) if family.window is Window.LATE and width is not None else 0
    kinds = ["sliding_attention" if width and layer >= first else "full_attention" for layer in range(layers)]
    stated = _list(raw, "layer_types", str)
    if stated and stated != kinds:
        known = set(stated) <= {"full_attention", "sliding_attention"}
        if family.window is not Window.LATE or not known or len(stated) != layers:
            raise UnsupportedModel(f"{architecture} with layer_types = {stated} is not supported")
        kinds = stated
    if width is None and "sliding_attention" in kinds:
        raise UnsupportedModel(f"{architecture}: layer_types names sliding layers but no window is set")
    if width is not None:
        width = _count({"sliding_window": width}, "sliding_window")
    return tuple(width if kind == "sliding_attention" else None for kind in kinds)


def _first_window(raw: Mapping[str, Any]) -> int:
    """The first layer with a window, where the layers are not named."""
    first = raw.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise InvalidSetting("config.json: max_window_layers", f"must be a whole number, not {first!r}")
    return first


def _experts(raw: Mapping[str, Any]) -> Experts:
    layers = _count(raw, "num_hidden_layers")
    count = _count(raw, "num_local_experts" if "num_local_experts" in raw else "num_experts")
    per_token = _count(raw, "num_experts_per_tok")
    if per_token > count:
        raise UnsupportedModel(f"{per_token} experts per token of {count}")
    step = _count(raw, "decoder_sparse_step", 1)
    dense = set(_list(raw, "mlp_only_layers", int))
    return Experts(
        count=count,
        per_token=per_token,
        intermediate_size=_count(raw, "moe_intermediate_size"),
        normalise=bool(raw.get("norm_topk_prob", False)),
        layers=tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(layers)),
    )


def _longest(rope: Rope, positions: int) -> int:
    """`yarn` checkpoints may state the length before stretching; the others state the usable one."""
    return max(positions, int(rope.original_len * rope.factor)) if rope.kind == "yarn" else positions


def _dtype(raw: Mapping[str, Any]) -> str:
    name = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise UnsupportedModel(f"dtype {name!r} is not supported; supported: {', '.join(DTYPE_BYTES)}")
    return name


def _itemsize(dtype: str) -> int:
    if dtype not in KV_BYTES:
        raise InvalidSetting("dtype", f"must be one of {', '.join(KV_BYTES)}, not {dtype!r}")
    return KV_BYTES[dtype]


def _token_ids(key: str, *files: Mapping[str, Any]) -> tuple[int, ...]:
    """Those that the files name together; a negative one is no token, as some checkpoints say it."""
    found: dict[int, None] = {}
    for value in (file.get(key) for file in files):
        for token in value if isinstance(value, list) else [value]:
            if token is not None and (isinstance(token, bool) or not isinstance(token, int)):
                raise InvalidSetting(f"config.json: {key}", f"must be token ids, not {value!r}")
            if token is not None and token >= 0:
                found[token] = None
    return tuple(found)


def _list(raw: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """A key's list; empty where there is none."""
    value = raw.get(key)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, kind) for one in value)):
        raise InvalidSetting(f"config.json: {key}", f"must be a list of {kind.__name__}, not {value!r}")
    return value or []


def _count(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = default if raw.get(key) is None else raw[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSetting(f"config.json: {key}", f"must be a whole number of 1 or more, not {value!r}")
    return value


def _read_json(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidSetting("model", f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InvalidSetting("model", f"{path} is not a JSON object")
    return value
