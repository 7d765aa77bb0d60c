"""The tiny model as a torch module: the Qwen3 architecture, with Hugging Face's names of the weights.

Only training uses it. It computes whole rows without a KV cache; serving loads the saved files
through `baton.model` like those of any other model, so the two also check each other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """Every size is divisible by four, and the head has 64 numbers: what TP and GPU kernels take."""

    vocabulary: int = 1536
    hidden: int = 160
    inner: int = 384
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head: int = 64
    longest: int = 4096
    """Tokens of the longest sequence that is served."""
    theta: float = 10_000.0
    epsilon: float = 1e-6


class Norm(nn.Module):
    """RMS norm in the dtype of its rows, which keeps PyTorch on its fused path under autocast."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, rows: Tensor) -> Tensor:
        return functional.rms_norm(rows, self.weight.shape, self.weight.to(rows.dtype), self.epsilon)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head = shape.head
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head, shape.hidden, bias=False)
        self.q_norm = Norm(shape.head, shape.epsilon)
        self.k_norm = Norm(shape.head, shape.epsilon)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = rows.shape
        q, k, v = (
            project(rows).view(batch, length, -1, self.head).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotated(self.q_norm(q), cos, sin), rotated(self.k_norm(k), cos, sin)
        mixed = attended_short(q, k, v) if length <= SHORT else attended_long(q, k, v)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


SHORT = 256
"""Rows up to here are faster with the whole score matrix in memory (measured, one core with AMX)."""


def attended_short(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, length, head = q.shape
    grouped = (q * head**-0.5).reshape(batch, k.shape[1], -1, head)
    scores = torch.matmul(grouped, k.transpose(-1, -2)).view(batch, k.shape[1], -1, length, length)
    future = torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
    shares = torch.softmax(scores + future, dim=-1).to(v.dtype)
    return torch.matmul(shares.view(batch, k.shape[1], -1, length), v).view(batch, heads, length, head)


def attended_long(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    share = q.shape[1] // k.shape[1]
    return functional.scaled_dot_product_attention(
        q, k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1), is_causal=True
    )


class Mlp(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.hidden, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(rows)) * self.up_proj(rows))
        return out


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = Mlp(shape)
        self.input_layernorm = Norm(shape.hidden, shape.epsilon)
        self.post_attention_layernorm = Norm(shape.hidden, shape.epsilon)

    def forward(self, rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows = rows + self.self_attn(self.input_layernorm(rows), cos, sin)
        out: Tensor = rows + self.mlp(self.post_attention_layernorm(rows))
        return out


class Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.epsilon)


class Network(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.04 / (2 * shape.layers) ** 0.5 if deep else 0.04)

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states `[batch, length, hidden]` for tokens `[batch, length]`."""
        cos, sin = angles(self.shape, tokens.shape[1])
        rows = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            rows = layer(rows, cos, sin)
        out: Tensor = self.model.norm(rows)
        return out

    def logits(self, rows: Tensor) -> Tensor:
        """Tied to the embedding."""
        return functional.linear(rows, self.model.embed_tokens.weight)


def angles(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    frequencies = shape.theta ** -(torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head)
    turned = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    both = torch.cat((turned, turned), dim=-1)
    return both.cos(), both.sin()


def rotated(rows: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    one, two = rows.chunk(2, dim=-1)
    return rows * cos.to(rows.dtype) + torch.cat((-two, one), dim=-1) * sin.to(rows.dtype)


def save_network(network: Network, folder: Path, end: int, end_of_text: int) -> None:
    """Writes config.json, generation_config.json and the weights as bfloat16."""
    shape = network.shape
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "dtype": "bfloat16",
        "eos_token_id": end,
        "head_dim": shape.head,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.longest,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": end_of_text,
        "rms_norm_eps": shape.epsilon,
        "rope_scaling": None,
        "rope_theta": shape.theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocabulary,
    }
    generation = {
        "bos_token_id": end_of_text,
        "do_sample": False,
        "eos_token_id": [end, end_of_text],
        "pad_token_id": end_of_text,
    }
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().to(torch.bfloat16) for name, tensor in network.state_dict().items()}
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves it to its owner alone


def parameters(network: Network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def described(shape: Shape) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(shape).items())
