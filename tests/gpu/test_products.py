"""Our own matrix products and the eight-bit ones on a real GPU, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from baton.kernels import fp8
from baton.kernels.capture import capturing
from baton.kernels.hopper import Form, Product, forms
from baton.kernels.hopper.forms import TOKENS
from baton.kernels.hopper.product import Scratch
from baton.kernels.triton import TritonKernels

pytestmark = pytest.mark.gpu
SHAPES = [(2048, 512), (5120, 1024), (4096 + 16, 4096), (256, 17408)]


@pytest.fixture(scope="module", autouse=True)
def hopper() -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not compute capability 9.0")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    made = Scratch.of(128 * 256 * 4, torch.device("cuda"))
    yield made
    torch.cuda.synchronize()
    assert not made.left.any(), "every part was taken"


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_form_and_grid_matches_float64_and_repeats_bit_for_bit(tokens: int, scratch: Scratch) -> None:
    torch.manual_seed(tokens)
    weights = [torch.randn(shape, device="cuda").bfloat16() / shape[1] ** 0.5 for shape in SHAPES]
    for form in forms(tokens):
        product = Product(form, scratch)
        for weight in weights:
            assert Product.supported(weight) is None
            bias = torch.randn(len(weight), device="cuda").bfloat16()
            for count in (tokens, tokens - 7):
                x = torch.randn(count, weight.shape[1], device="cuda").bfloat16()
                want = x.double() @ weight.double().T
                for grid in product.spreads(weight):
                    got = product(x, weight, None, grid)
                    assert (got.double() - want).norm() / want.norm() < 3e-3, (form, weight.shape, grid)
                    for _ in range(2):
                        assert torch.equal(product(x, weight, None, grid), got)
                got = product(x, weight, bias)
                assert (got.double() - want - bias.double()).norm() / want.norm() < 5e-3


def test_a_graph_of_products_that_feed_each_other(scratch: Scratch) -> None:
    """Each begins while the one before ends, and reads what that one wrote."""
    torch.manual_seed(0)
    product = Product(Form(64, 128, 1), scratch)
    weights = [torch.randn(1024, 1024, device="cuda").bfloat16() / 32 for _ in range(8)]
    x = torch.randn(50, 1024, device="cuda").bfloat16()

    def run() -> torch.Tensor:
        out = x
        for weight in weights:
            out = product(out, weight)
        return out

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        stream.synchronize()
        with capturing(stream) as graph:
            out = run()
        for _ in range(20):
            x.normal_()
            graph.replay()
            want = x
            for weight in weights:
                want = want @ weight.T
            stream.synchronize()
            assert (out.float() - want.float()).norm() / want.float().norm() < 2e-2


@pytest.mark.parametrize("tokens", [1, 17, 300])
def test_eight_bits_are_what_the_reference_makes_of_them(tokens: int) -> None:
    torch.manual_seed(tokens)
    weight, scale = fp8.scaled(torch.randn(768, 5120, device="cuda").bfloat16() / 70)
    x = torch.randn(tokens, 5120, device="cuda").bfloat16() * torch.rand(tokens, 1, device="cuda").bfloat16()
    bias = torch.randn(768, device="cuda").bfloat16()
    for b in (None, bias):
        got = TritonKernels().linear_fp8(x, weight, scale, b)
        want = fp8.linear(x, weight, scale, b)
        assert (got.float() - want.float()).norm() / want.float().norm() < 5e-3
    exact = x.double() @ (weight.double() * scale.double().unsqueeze(-1)).T
    got = TritonKernels().linear_fp8(x, weight, scale, None)
    assert (got.double() - exact).norm() / exact.norm() < 4e-2
