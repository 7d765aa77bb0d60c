"""What is said of settings that cannot be meant, before a model is loaded for them."""

from __future__ import annotations

import pytest

from baton.core.errors import InvalidSetting
from baton.decode.settings import HandoffSettings


@pytest.mark.parametrize(
    "address", ["prefill-0:5600", "tcp://prefill-0", "tcp://prefill-0:", "tcp://:x", "tcp://"]
)
def test_an_address_that_nothing_can_be_reached_by_is_refused(address: str) -> None:
    with pytest.raises(InvalidSetting, match="tcp://host:port"):
        HandoffSettings(prefill=("tcp://prefill-1:5600", address))


def test_addresses_of_every_kind_are_taken() -> None:
    for address in ("tcp://prefill-0:5600", "tcp://[::1]:5600", "tcp://10.0.0.1:5600", "ipc:///run/legs"):
        assert HandoffSettings(prefill=(address,)).prefill == (address,)
