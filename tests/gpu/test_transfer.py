"""Pool memory on a GPU, and pages moved between two GPUs, or two pools of one."""

from __future__ import annotations

import gc
from queue import SimpleQueue

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from baton.transfer import Agent, Kind, Moved, Mover, Outcome, PoolLayout, Push, Span, allocate, vmm  # noqa: E402

pytestmark = pytest.mark.gpu

LAYOUT = PoolLayout(
    pages=65,
    layers=36,
    page_size=16,
    head_dim=128,
    dtype="bfloat16",
    kv_heads=8,
    total_kv_heads=8,
    model="m",
)


def refusing() -> vmm.Cuda:
    raise vmm.Refused("cuMemCreate", vmm.NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED")


def test_pool_memory_is_a_tensor_of_all_its_bytes() -> None:
    ones = torch.ones(1 << 20, dtype=torch.uint8, device="cuda:0")
    assert int(ones.fill_(1).sum(dtype=torch.int64)) == 1 << 20, "and the kernels are loaded"
    del ones
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info(0)[0]
    memory = allocate(1 << 30, "cuda:0")
    assert memory.region.kind is Kind.FABRIC or memory.fallback, "what it fell back for is said"
    assert memory.tensor.data_ptr() == memory.region.address
    memory.tensor.fill_(7)
    assert int(memory.tensor.sum(dtype=torch.int64)) == 7 << 30
    if memory.region.kind is Kind.FABRIC:
        kept = memory.tensor[:10]
        del memory
        gc.collect()
        torch.cuda.synchronize()
        assert int(kept.sum()) == 70, "a view keeps the memory mapped"
        del kept
        gc.collect()
        torch.cuda.empty_cache()  # the sum's own memory: eight times as much
        assert torch.cuda.mem_get_info(0)[0] >= before - (64 << 20), "the memory was given back"


def test_memory_is_ordinary_when_the_driver_refuses_and_says_why() -> None:
    memory = allocate(1 << 20, "cuda:0", driver=refusing)
    assert memory.region.kind is Kind.ORDINARY
    assert "CUDA_ERROR_NOT_PERMITTED (800)" in memory.fallback


@pytest.mark.parametrize("wanted", [vmm.Driver, refusing], ids=["fabric", "ordinary"])
@pytest.mark.parametrize(
    "target", ["cuda:0", pytest.param("cuda:1", marks=pytest.mark.multi_gpu)], ids=["one", "two"]
)
def test_pages_go_from_gpu_to_gpu_after_their_event(target: str, wanted: object) -> None:
    if int(target[-1]) >= torch.cuda.device_count():
        pytest.skip("one CUDA device")
    source = allocate(LAYOUT.bytes, "cuda:0", driver=wanted)
    destination = allocate(LAYOUT.bytes, target, driver=wanted)
    pages = [memory.tensor.view(LAYOUT.pages, LAYOUT.page_bytes) for memory in (source, destination)]
    pages[0].fill_(1)
    pages[1].zero_()
    reports: SimpleQueue[object] = SimpleQueue()
    mover, other = (Mover(Agent(LAYOUT, memory.region), reports.put) for memory in (source, destination))
    there = other._agent.info()
    mover.start()
    other.start()
    verdict = mover.add_peer(there).result(60)
    print(verdict.message)
    torch.cuda.synchronize(0)
    event = torch.cuda.Event()
    with torch.cuda.device(0):
        torch.cuda._sleep(200_000_000)  # about 0.1 s, so that the write is not done when the order is given
        pages[0].fill_(9)
        event.record()
    chosen = list(range(1, 64, 3))
    order = Push(
        attempt="a",
        chunk=0,
        last=True,
        peer=there.incarnation,
        span=Span(0, 0, 8),
        local_pages=chosen,
        remote_pages=[page + 1 for page in chosen],
        timeout_s=30.0,
        ready=event.query,
    )
    mover.move(order)
    moved = reports.get(timeout=60)
    assert isinstance(moved, Moved) and moved.outcome is Outcome.DONE, moved
    torch.cuda.synchronize(int(target[-1]))
    got = pages[1][1:, ::4096].amax(dim=1).tolist()
    low = pages[1][1:, ::4096].amin(dim=1).tolist()
    assert got == low
    assert {page for page, value in enumerate(got, 1) if value} == set(order.remote_pages)
    assert set(got) == {0, 9}
    mover.close()
    other.close()
