"""The package: caches by name, and no torch for whoever only decides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import baton.cache
from baton.cache import NaiveCache, PrefixCache, RadixCache, make_cache
from baton.core.errors import InvalidSetting


def test_a_cache_is_made_by_name() -> None:
    caches: list[PrefixCache] = [make_cache(), make_cache("radix", policy="lfu"), make_cache("naive")]
    assert [type(cache) for cache in caches] == [RadixCache, RadixCache, NaiveCache]
    assert "lfu" in repr(caches[1])


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidSetting, match="'radiks' is none of naive, radix") as caught:
        make_cache("radiks")
    assert caught.value.setting == "cache"
    with pytest.raises(InvalidSetting, match="'fifo' is none of lfu, lru") as caught:
        make_cache("naive", policy="fifo")
    assert caught.value.setting == "eviction"


def test_importing_the_package_imports_no_torch() -> None:
    shared = Path(baton.cache.__file__).parents[2]
    program = (
        f"import sys; sys.path.insert(0, {str(shared)!r}); import baton.cache; print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
