"""The decoder against transformers: same logits for every architecture, however the work is cut."""

from __future__ import annotations

import pytest
import torch
from tests.checkpoints import VARIANTS, Checkpoint, Make

from baton.kernels import TorchKernels
from baton.model import ModelConfig
from baton.model.decoder import Decoder, load
from baton.parallel import SingleRank
from baton.testing.paged import PagedSequences


def decoder_of(checkpoint: Checkpoint) -> Decoder:
    return load(
        ModelConfig.read(checkpoint.directory),
        checkpoint.directory,
        SingleRank(),
        torch.device("cpu"),
        torch.float32,
        "auto",
        TorchKernels(),
        progress=False,
    )


def agree(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_cut_of_a_prompt_gives_the_logits_of_transformers(
    name: str, page_size: int, checkpoint: Make
) -> None:
    made = checkpoint(name)
    prompt, wanted = made.prompt, made.logits
    run = PagedSequences(decoder_of(made), [len(prompt)] * 3, page_size)

    agree(run.step([(0, prompt)]), wanted)

    for start, stop in ((0, 20), (20, 23), (23, len(prompt))):
        agree(run.step([(1, prompt[start:stop])]), wanted[start:stop])

    for place, token in enumerate(prompt):
        agree(run.step([(2, [token])]), wanted[place : place + 1])


@pytest.mark.parametrize("name", ["qwen3", "mistral-window", "qwen2-window", "qwen3-moe"])
@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_a_ragged_batch_gives_each_sequence_its_own_logits(
    name: str, page_size: int, checkpoint: Make
) -> None:
    made = checkpoint(name)
    prompt, wanted = made.prompt, made.logits
    had = [0, 17, 3, 40, 30, 1, 12]
    run = PagedSequences(decoder_of(made), [len(prompt)] * len(had), page_size)
    for row, count in enumerate(had):
        if count:
            run.step([(row, prompt[:count])])
    new = {0: 21, 1: 28, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
    parts = [(row, prompt[had[row] : had[row] + count]) for row, count in new.items()]
    found = run.step([parts[row] for row in (1, 0, 5, 3, 2, 6, 4)])
    at = 0
    for row in (1, 0, 5, 3, 2, 6, 4):
        agree(found[at : at + new[row]], wanted[had[row] : had[row] + new[row]])
        at += new[row]
    assert at == len(found)


def test_greedy_output_is_that_of_transformers_generate(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    prompt = torch.tensor([made.prompt])
    wanted = made.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(made.prompt) :].tolist()
    run = PagedSequences(decoder_of(made), [len(made.prompt) + 20], 16)
    found = [int(run.step([(0, made.prompt)])[-1].argmax())]
    while len(found) < 20:
        found.append(int(run.step([(0, found[-1:])])[-1].argmax()))
    assert found == wanted
    assert len(set(found)) > 3


def test_a_span_of_one_token_may_count_as_prefill(checkpoint: Make) -> None:
    made = checkpoint("mistral-window")
    run = PagedSequences(decoder_of(made), [len(made.prompt)], 16)
    run.step([(0, made.prompt[:30])])
    agree(run.step([(0, made.prompt[30:31])], prefills=1), made.logits[30:31])


def test_token_ids_may_be_of_either_width(checkpoint: Make) -> None:
    made = checkpoint("llama")
    embedding = decoder_of(made).embedding
    ids = torch.tensor(made.prompt)
    assert torch.equal(embedding(ids), embedding(ids.int()))


def test_bfloat16_stays_near_float32(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    config = ModelConfig.read(made.directory)
    decoder = load(
        config,
        made.directory,
        SingleRank(),
        torch.device("cpu"),
        torch.bfloat16,
        "auto",
        TorchKernels(),
        progress=False,
    )
    run = PagedSequences(decoder, [len(made.prompt)], 16)
    found = run.step([(0, made.prompt)])
    assert found.dtype == torch.float32
    error = (found - made.logits).abs().max() / made.logits.abs().max()
    assert error < 0.05
