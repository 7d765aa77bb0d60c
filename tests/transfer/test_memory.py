"""The pool's bytes: on the host for real, on a GPU by a driver that records what it is asked."""

from __future__ import annotations

import gc

import pytest

from baton.core.errors import InvalidSetting
from baton.transfer import vmm
from baton.transfer.memory import Kind, allocate

GRAIN = 1 << 21


class Recorded:
    """A driver that refuses one call, and remembers what is allocated, reserved and mapped."""

    def __init__(self, refuses: str = "", rdma: bool = True) -> None:
        self.refuses = refuses
        self.rdma = rdma
        self.calls: list[str] = []
        self.held: set[str] = set()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.refuses:
            raise vmm.Refused(name, vmm.NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED")

    def rdma_capable(self, device: int) -> bool:
        self._called("rdma_capable")
        return self.rdma

    def granularity(self, device: int, rdma: bool) -> int:
        self._called("granularity")
        assert rdma is self.rdma
        return GRAIN

    def create(self, device: int, size: int, rdma: bool) -> int:
        self._called("create")
        assert size % GRAIN == 0 and rdma is self.rdma
        self.held.add("memory")
        return 77

    def reserve(self, size: int, alignment: int) -> int:
        self._called("reserve")
        self.held.add("address")
        return 1 << 40

    def map(self, address: int, size: int, handle: int) -> None:
        self._called("map")
        assert (address, handle) == (1 << 40, 77)
        self.held.add("mapping")

    def allow(self, device: int, address: int, size: int) -> None:
        self._called("allow")

    def unmap(self, address: int, size: int) -> None:
        self._called("unmap")
        self.held.remove("mapping")

    def unreserve(self, address: int, size: int) -> None:
        self._called("unreserve")
        assert "mapping" not in self.held
        self.held.remove("address")

    def release(self, handle: int) -> None:
        self._called("release")
        assert "mapping" not in self.held
        self.held.remove("memory")


def test_host_memory_is_page_aligned_and_all_there() -> None:
    memory = allocate(100_001, "cpu")
    assert memory.region.address % 4096 == 0
    assert (memory.region.bytes, memory.region.kind, memory.region.segment) == (100_001, Kind.HOST, "DRAM")
    assert memory.tensor.data_ptr() == memory.region.address
    assert memory.tensor.numel() == 100_001
    memory.tensor.fill_(3)


def test_an_unknown_device_is_a_setting_that_is_wrong() -> None:
    with pytest.raises(InvalidSetting):
        allocate(1, "tpu")


@pytest.mark.parametrize("rdma", [True, False])
def test_a_mapping_is_undone_once_when_its_last_view_is_gone(rdma: bool) -> None:
    driver = Recorded(rdma=rdma)
    mapped = vmm.mapping(driver, 0, 3 * GRAIN + 1)
    assert (mapped.address, mapped.size) == (1 << 40, 4 * GRAIN)
    assert mapped.__cuda_array_interface__["data"] == (1 << 40, False)
    assert mapped.__cuda_array_interface__["shape"] == (4 * GRAIN,)
    assert driver.held == {"memory", "address", "mapping"}
    view = mapped
    del mapped
    gc.collect()
    assert driver.held == {"memory", "address", "mapping"}, "somebody still views it"
    del view
    gc.collect()
    assert driver.held == set()
    assert driver.calls[-3:] == ["unmap", "unreserve", "release"]
    assert driver.calls.count("release") == 1


@pytest.mark.parametrize("call", ["rdma_capable", "granularity", "create", "reserve", "map", "allow"])
def test_a_mapping_that_fails_leaves_nothing_behind(call: str) -> None:
    driver = Recorded(refuses=call)
    with pytest.raises(vmm.Refused) as refused:
        vmm.mapping(driver, 0, GRAIN)
    assert refused.value.code == vmm.NOT_PERMITTED
    assert driver.held == set()


def test_the_driver_says_so_where_there_is_none() -> None:
    try:
        vmm.Driver()
    except vmm.Refused as refused:
        assert "libcuda" in str(refused) or "cuInit" in str(refused)
    else:
        pytest.skip("this machine has a driver")


def test_the_structures_have_the_sizes_of_the_drivers_header() -> None:
    import ctypes

    assert ctypes.sizeof(vmm._Properties) == 32
    assert ctypes.sizeof(vmm._Access) == 12
    assert vmm._Properties.flags.offset == 24
    assert vmm._Flags.rdma_capable.offset == 1
