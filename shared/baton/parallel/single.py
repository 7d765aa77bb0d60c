"""One rank: every collective is the identity."""

from __future__ import annotations

from torch import Tensor


class SingleRank:
    """`baton.parallel.base.Ranks` for a model that is not split."""

    rank = 0
    size = 1
    all_reduce = ""

    def sum(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor) -> Tensor:
        return x

    def share(self, x: Tensor) -> Tensor:
        return x

    def close(self) -> None:
        pass
