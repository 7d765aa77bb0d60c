"""Loading: every way a checkpoint may be cut, every way it may be wrong, and random weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import Checkpoint, Make
from torch import Tensor

from baton.core.errors import InvalidSetting, WeightMismatch
from baton.kernels import TorchKernels
from baton.model import ModelConfig
from baton.model.decoder import Decoder, load
from baton.model.files import weights_digest
from baton.parallel import Ranks, SingleRank
from baton.testing.paged import PagedSequences

Change = Callable[[dict[str, Tensor]], None]


def loaded(
    directory: Path,
    load_format: str = "auto",
    *,
    ranks: Ranks | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    return load(
        ModelConfig.read(directory, load_format, seed),
        directory,
        ranks or SingleRank(),
        torch.device("cpu"),
        dtype,
        load_format,
        TorchKernels(),
        seed=seed,
        progress=False,
    )


def changed(made: Checkpoint, directory: Path, change: Change) -> Path:
    """A copy of a checkpoint with its tensors changed."""
    tensors = load_file(made.directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    shutil.copy(made.directory / "config.json", directory)
    return directory


def answers(decoder: Decoder, prompt: list[int]) -> Tensor:
    return PagedSequences(decoder, [len(prompt)], 16).step([(0, prompt)])


def test_a_checkpoint_in_many_files_is_the_same_model(checkpoint: Make, tmp_path: Path) -> None:
    made = checkpoint("qwen3-moe")
    made.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(answers(loaded(tmp_path), made.prompt), answers(loaded(made.directory), made.prompt))
    assert weights_digest(tmp_path) == weights_digest(made.directory) != b""


def test_a_file_that_the_index_names_must_be_there(checkpoint: Make, tmp_path: Path) -> None:
    checkpoint("llama").model.save_pretrained(tmp_path, max_shard_size="20KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(WeightMismatch, match=gone.name):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.pop("model.layers.1.mlp.up_proj.weight"),
            r"missing model\.layers\.1\.mlp\.up_proj\.weight",
        ),
        (lambda t: t.pop("lm_head.weight"), r"missing lm_head\.weight"),
        (
            lambda t: t.update({"model.layers.3.mlp.up_proj.weight": torch.zeros(48, 32)}),
            r"unexpected model\.layers\.3\.mlp\.up_proj\.weight",
        ),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}),
            r"unexpected model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(31)}),
            r"model\.norm\.weight has shape \[31\], needs \[32\]",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.ones(101, 32, dtype=torch.int8)}),
            r"lm_head\.weight is stored as I8",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    change: Change, says: str, checkpoint: Make, tmp_path: Path
) -> None:
    with pytest.raises(WeightMismatch, match=says):
        loaded(changed(checkpoint("llama"), tmp_path, change))


def test_known_buffers_are_let_pass(checkpoint: Make, tmp_path: Path) -> None:
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    made = checkpoint("llama")
    directory = changed(made, tmp_path, lambda tensors: tensors.update(buffer))
    assert torch.equal(answers(loaded(directory), made.prompt), answers(loaded(made.directory), made.prompt))


def test_a_tied_head_that_is_stored_all_the_same_is_not_used(checkpoint: Make, tmp_path: Path) -> None:
    made = checkpoint("qwen3")
    head = {"lm_head.weight": torch.zeros(101, 32)}
    directory = changed(made, tmp_path, lambda tensors: tensors.update(head))
    assert torch.equal(answers(loaded(directory), made.prompt), answers(loaded(made.directory), made.prompt))


def test_weights_are_converted_to_the_dtype_asked_for(checkpoint: Make, tmp_path: Path) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    directory = changed(checkpoint("llama"), tmp_path, halve)
    stored = load_file(directory / "model.safetensors")["model.embed_tokens.weight"]
    weight = loaded(directory).embedding.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, stored.float())


def test_a_directory_without_weights_says_so(checkpoint: Make, tmp_path: Path) -> None:
    shutil.copy(checkpoint("llama").directory / "config.json", tmp_path)
    with pytest.raises(WeightMismatch, match="no safetensors"):
        loaded(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(WeightMismatch, match="not a safetensors file"):
        loaded(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    with pytest.raises(WeightMismatch, match=r"index\.json"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    "index", [[], {"weight_map": []}, {"weight_map": {"a": ["b"]}}, {"weight_map": {"a": 1}}]
)
def test_an_index_of_another_kind_is_named(tmp_path: Path, index: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightMismatch, match=r"index\.json cannot be read"):
        weights_digest(tmp_path)


@pytest.mark.parametrize("header", [[], {"a": 1}, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}])
def test_a_header_of_another_kind_is_named(tmp_path: Path, header: object) -> None:
    content = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    with pytest.raises(WeightMismatch, match=r"model\.safetensors is not a safetensors file"):
        weights_digest(tmp_path)


def test_one_changed_weight_matrix_changes_the_identity(checkpoint: Make, tmp_path: Path) -> None:
    made = checkpoint("llama")
    name = "model.layers.2.self_attn.v_proj.weight"
    directory = changed(made, tmp_path, lambda tensors: tensors[name].mul_(1.01))
    assert weights_digest(directory) != weights_digest(made.directory)


def test_random_weights_need_only_the_config(checkpoint: Make, tmp_path: Path) -> None:
    shutil.copy(checkpoint("qwen3-moe").directory / "config.json", tmp_path)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    first, again = loaded(tmp_path, "dummy"), loaded(tmp_path, "dummy")
    other = loaded(tmp_path, "dummy", seed=1)
    assert torch.equal(answers(first, prompt), answers(again, prompt))
    assert not torch.equal(answers(first, prompt), answers(other, prompt))
    assert torch.equal(first.norm, torch.ones(32))


def test_random_weights_do_not_repeat_themselves(checkpoint: Make, tmp_path: Path) -> None:
    """Greedy output of a tied model must depend on what came before, or it tests nothing."""
    config = json.loads((checkpoint("qwen3").directory / "config.json").read_text())
    config.update(vocab_size=2000, hidden_size=128, intermediate_size=256)
    (tmp_path / "config.json").write_text(json.dumps(config))
    run = PagedSequences(loaded(tmp_path, "dummy"), [64] * 2, 16)
    seen = []
    for row, prompt in enumerate(([7, 8, 9], [100, 200])):
        tokens = [int(run.step([(row, prompt)])[-1].argmax())]
        while len(tokens) < 30:
            logits = run.step([(row, tokens[-1:])])[-1]
            assert 0.3 < logits.std() < 3
            tokens.append(int(logits.argmax()))
        assert len(set(tokens)) > 8
        seen.append(tokens)
    assert seen[0] != seen[1]


@dataclasses.dataclass
class Alone:
    """One rank of several, without the others: enough to load."""

    rank: int
    size: int

    def sum(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor) -> Tensor:
        return x

    def share(self, x: Tensor) -> Tensor:
        return x


def test_a_split_that_does_not_come_out_even_is_refused(checkpoint: Make) -> None:
    for size, what in ((3, "heads"), (32, "feed-forward columns")):
        with pytest.raises(InvalidSetting, match=rf"tensor_parallel.*{what}"):
            loaded(checkpoint("llama").directory, ranks=Alone(0, size))


def test_an_unknown_load_format_is_refused(checkpoint: Make) -> None:
    with pytest.raises(InvalidSetting, match="auto, dummy"):
        loaded(checkpoint("llama").directory, "gguf")


def eight_bits(kind: str) -> Change:
    """Matrices of layers as float8_e4m3fn with scales of a kind, and what they then stand for."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("proj.weight")]:
            whole = tensors[name].float()
            rows, columns = whole.shape
            if kind == "blocks":
                blocks = torch.rand(-(-rows // 128), -(-columns // 128)) / 100 + 0.001
                scale = blocks.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
                stored = blocks
            else:
                scale = stored = torch.rand(rows if kind == "rows" else 1, 1) / 100 + 0.001
            tensors[name] = (whole / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[name + ("_scale_inv" if kind == "blocks" else "_scale")] = stored
            tensors[name.replace("weight", "input_scale")] = torch.ones(1)

    return change


@pytest.mark.parametrize("kind", ["number", "rows", "blocks"])
def test_matrices_stored_in_eight_bits_are_read_with_their_scales(
    kind: str, checkpoint: Make, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    (tmp_path / "small").mkdir()
    (tmp_path / "plain").mkdir()
    small = changed(checkpoint("qwen3"), tmp_path / "small", eight_bits(kind))

    def widen(tensors: dict[str, Tensor]) -> None:
        stored = load_file(small / "model.safetensors")
        for name in [name for name in tensors if name.endswith("proj.weight")]:
            scale = stored[name + ("_scale_inv" if kind == "blocks" else "_scale")]
            if kind == "blocks":
                rows, columns = tensors[name].shape
                scale = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
            tensors[name] = stored[name].float() * scale

    plain = changed(checkpoint("qwen3"), tmp_path / "plain", widen)
    assert torch.equal(answers(loaded(small), [3, 1, 4]), answers(loaded(plain), [3, 1, 4]))


def test_a_matrix_in_eight_bits_without_a_scale_is_refused(checkpoint: Make, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if name.endswith("o_proj.weight"))
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)

    with pytest.raises(WeightMismatch, match=r"o_proj\.weight is stored as F8_E4M3 without a scale"):
        loaded(changed(checkpoint("qwen3"), tmp_path, change))


def test_eight_bit_weights_answer_nearly_as_whole_ones(checkpoint: Make) -> None:
    directory = checkpoint("qwen3").directory
    config = ModelConfig.read(directory)
    cpu = torch.device("cpu")
    small = load(
        config, directory, SingleRank(), cpu, torch.float32, "auto", TorchKernels(), quantization="fp8",
        progress=False,
    )  # fmt: skip
    assert small.layers[0].attention.qkv.weight.dtype == torch.float8_e4m3fn
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    got, want = answers(small, prompt), answers(loaded(directory), prompt)
    error = float((got - want).norm() / want.norm())
    assert 1e-4 < error < 0.1, error
