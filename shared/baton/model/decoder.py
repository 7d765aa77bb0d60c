"""The decoder: one class for every architecture, built from a `ModelConfig` and filled from a checkpoint.

The runner calls `load` once, then `forward` and `logits` for each step; with CUDA graphs it captures
both, or what lies between the layers' attention. Owns the weights of one rank. Knows nothing of scheduling,
sampling or pages beyond the spans that it passes on to the kernels and to attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from baton.attention.base import Attention, Scales, Spans
from baton.core.errors import InvalidSetting
from baton.kernels.base import Kernels
from baton.model import rotary
from baton.model.config import Experts, ModelConfig
from baton.model.layers import Dense, Embedding, Head, Layer, Linear, SelfAttention, Sparse
from baton.model.weights import Storage, fill
from baton.parallel.base import Ranks

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Decoder:
    """One rank's share of a model."""

    config: ModelConfig
    embedding: Embedding
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Head
    kernels: Kernels

    def forward(
        self, ids: Tensor, spans: Spans, pool: Tensor, attention: Attention, wanted: Tensor | None = None
    ) -> Tensor:
        """ids [N] int32 or int64 → hidden states of the lines `wanted`, or of all, the final norm applied.
        The tokens' K and V are written into `pool`. `attention.plan(spans)` was called for this step."""
        q, residual = self.begin(ids, spans, pool)
        for number in range(len(self.layers) - 1):
            q, residual = self.between(number, attention.attend(q, number, spans), residual, spans, pool)
        attended = attention.attend(q, len(self.layers) - 1, spans)
        if wanted is not None:  # behind the last layer's K and V nothing is asked of the other lines
            attended, residual = attended.index_select(0, wanted), residual.index_select(0, wanted)
        return self.end(attended, residual)

    # Before, between and behind the layers' attention: what depends on the number of tokens alone. Queries
    # [N, heads, head_dim] are put where the caller says, or somewhere new.

    def begin(
        self, ids: Tensor, spans: Spans, pool: Tensor, queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """→ (the first layer's queries, residual); its K and V are in the pool."""
        residual = self.embedding(ids)
        first = self.layers[0]
        x = self.kernels.norm(residual, first.attention_norm, self.config.norm_eps)
        return first.attention.query(x, spans, pool, queries), residual

    def between(
        self, number: int, attended: Tensor, residual: Tensor, spans: Spans, pool: Tensor,
        queries: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What layer `number` attended to → (the next layer's queries, residual)."""
        following = self.layers[number + 1]
        x, residual = self._rest(self.layers[number], attended, residual, following.attention_norm)
        return following.attention.query(x, spans, pool, queries), residual

    def end(self, attended: Tensor, residual: Tensor) -> Tensor:
        """What the last layer attended to → hidden states."""
        if not len(attended):
            return residual
        return self._rest(self.layers[-1], attended, residual, self.norm)[0]

    def _rest(
        self, layer: Layer, attended: Tensor, residual: Tensor, next_norm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of a layer behind its attention, and the norm of what follows."""
        kernels, eps = self.kernels, self.config.norm_eps
        x, residual = kernels.add_norm(layer.attention.project(attended), residual, layer.feed_norm, eps)
        return kernels.add_norm(layer.feed(x), residual, next_norm, eps)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [M, hidden] → [M, vocab_size], whole on every rank: float32 on a CPU, the model's dtype
        elsewhere."""
        found = self.head(hidden)
        return found.float() if found.device.type == "cpu" else found


def load(
    config: ModelConfig,
    source_dir: Path,
    ranks: Ranks,
    device: torch.device,
    dtype: torch.dtype,
    load_format: str,
    kernels: Kernels,
    *,
    seed: int = 0,
    progress: bool = True,
    most_rows: int = 0,
    quantization: str = "none",
    scales: Sequence[Scales] = (),
) -> Decoder:
    """Build this rank's share and fill it; `most_rows` is that of batches to be multiplied fast. With
    `quantization` fp8 the layers' dense matrices are kept in eight bits; head, router and experts stay.
    `scales`, one for each layer, are of keys and values in a pool of eight bits.
    Raises WeightMismatch when the checkpoint does not fit, InvalidSetting when the model cannot be split over
    so many ranks."""
    storage = Storage(device, dtype)
    builder = _Builder(config, ranks, kernels, storage, scales)
    decoder = builder.decoder()
    fill(
        storage.pieces,
        source_dir,
        load_format,
        tied_head=_HEAD if config.tied else None,
        seed=seed,
        progress=progress and ranks.rank == 0,
    )
    if quantization == "fp8":
        for linear in builder.linears:
            if linear is not decoder.head.linear and linear not in builder.routers:
                linear.shrink()
    whole = [one.weight for one in builder.linears if one.weight is not None and one.scale is None]
    kernels.prepare(whole, most_rows)
    for linear in builder.linears:
        linear.pack(keep=linear is decoder.head.linear and config.tied)
    return decoder


class _Builder:
    """Makes the parts of one rank, under the names that checkpoints give them."""

    def __init__(
        self,
        config: ModelConfig,
        ranks: Ranks,
        kernels: Kernels,
        storage: Storage,
        scales: Sequence[Scales] = (),
    ) -> None:
        self.config = config
        self.scales = tuple(scales) or (Scales(),) * config.layers
        self.ranks = ranks
        self.kernels = kernels
        self.storage = storage
        self.routers: list[Linear] = []
        self.linears: list[Linear] = []
        """Every linear made, so that they can be packed once filled."""
        self.cos_sin = rotary.table(config.rope, config.head_dim, config.max_model_len, storage.device)

    def decoder(self) -> Decoder:
        config = self.config
        embedding = Embedding(self._vocabulary("model.embed_tokens.weight"), self.ranks)
        layers = tuple(self._layer(number) for number in range(config.layers))
        norm = self.storage.whole("model.norm.weight", config.hidden_size)
        head = self._linear(embedding.weight if config.tied else self._vocabulary(_HEAD))
        return Decoder(
            config, embedding, layers, norm, Head(head, config.vocab_size, self.ranks), self.kernels
        )

    def _share(self, what: str, total: int) -> range:
        """This rank's part of `total` things that must split evenly."""
        each, rest = divmod(total, self.ranks.size)
        if rest:
            raise InvalidSetting(
                "tensor_parallel", f"{self.ranks.size} ranks cannot share {total} {what} evenly"
            )
        return range(self.ranks.rank * each, (self.ranks.rank + 1) * each)

    def _linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        linear = Linear(weight, self.kernels, bias)
        self.linears.append(linear)
        return linear

    def _vocabulary(self, name: str) -> Tensor:
        """This rank's rows of a vocabulary-sized matrix, padded to the same number on every rank."""
        config, ranks = self.config, self.ranks
        each = -(-config.vocab_size // ranks.size)
        first = min(ranks.rank * each, config.vocab_size)
        held = range(first, min(first + each, config.vocab_size))
        weight = self.storage.empty(each, config.hidden_size)
        weight[len(held) :].zero_()
        self.storage.put(name, (config.vocab_size, config.hidden_size), held, weight[: len(held)])
        return weight

    def _layer(self, number: int) -> Layer:
        config, at = self.config, f"model.layers.{number}."
        attention_norm = self.storage.whole(f"{at}input_layernorm.weight", config.hidden_size)
        feed_norm = self.storage.whole(f"{at}post_attention_layernorm.weight", config.hidden_size)
        experts = config.experts
        sparse = experts is not None and experts.layers[number]
        feed = self._sparse(f"{at}mlp.", experts) if experts and sparse else self._dense(f"{at}mlp.")
        return Layer(attention_norm, self._attention(f"{at}self_attn.", number), feed_norm, feed)

    def _attention(self, at: str, number: int) -> SelfAttention:
        config, storage, width = self.config, self.storage, self.config.head_dim

        def rows(heads: range) -> range:
            return range(heads.start * width, heads.stop * width)

        q = rows(self._share("heads", config.heads))
        kv = rows(config.kv_heads_of(self.ranks.rank, self.ranks.size))
        inner = config.heads * width
        parts = [("q_proj", inner, q), ("k_proj", config.kv_heads * width, kv)]
        parts.append(("v_proj", config.kv_heads * width, kv))

        def merged(kind: str, inputs: int | None) -> Tensor:
            return storage.rows([(f"{at}{name}.{kind}", n, held) for name, n, held in parts], inputs)

        norms = None
        if config.qk_norm:
            norms = (storage.whole(f"{at}q_norm.weight", width), storage.whole(f"{at}k_norm.weight", width))
        return SelfAttention(
            layer=number,
            qkv=self._linear(
                merged("weight", config.hidden_size), merged("bias", None) if config.qkv_bias else None
            ),
            out=self._linear(storage.columns(f"{at}o_proj.weight", config.hidden_size, inner, q)),
            out_bias=storage.whole(f"{at}o_proj.bias", config.hidden_size) if config.out_bias else None,
            norms=norms,
            cos_sin=self.cos_sin,
            eps=config.norm_eps,
            kernels=self.kernels,
            ranks=self.ranks,
            scales=self.scales[number],
        )

    def _dense(self, at: str) -> Dense:
        config, storage = self.config, self.storage
        inner = config.intermediate_size
        held = self._share("feed-forward columns", inner)

        def merged(kind: str, inputs: int | None) -> Tensor:
            return storage.rows(
                [(f"{at}{name}.{kind}", inner, held) for name in ("gate_proj", "up_proj")], inputs
            )

        return Dense(
            gate_up=self._linear(
                merged("weight", config.hidden_size), merged("bias", None) if config.mlp_bias else None
            ),
            down=self._linear(storage.columns(f"{at}down_proj.weight", config.hidden_size, inner, held)),
            down_bias=storage.whole(f"{at}down_proj.bias", config.hidden_size) if config.mlp_bias else None,
            kernels=self.kernels,
            ranks=self.ranks,
        )

    def _sparse(self, at: str, experts: Experts) -> Sparse:
        hidden, inner, storage = self.config.hidden_size, experts.intermediate_size, self.storage
        held = self._share("expert columns", inner)
        share = len(held)
        gate_up = storage.empty(experts.count, 2 * share, hidden)
        down = storage.empty(experts.count, hidden, share)
        for number in range(experts.count):
            one = f"{at}experts.{number}."
            storage.put(f"{one}gate_proj.weight", (inner, hidden), held, gate_up[number, :share])
            storage.put(f"{one}up_proj.weight", (inner, hidden), held, gate_up[number, share:])
            storage.put_columns(f"{one}down_proj.weight", inner, held, down[number])
        router = self._linear(storage.whole(f"{at}gate.weight", experts.count, hidden))
        self.routers.append(router)
        return Sparse(
            router=router,
            gate_up=gate_up,
            down=down,
            per_token=experts.per_token,
            normalise=experts.normalise,
            kernels=self.kernels,
            ranks=self.ranks,
        )
