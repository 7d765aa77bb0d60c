"""Several ranks as processes of this machine, for tests of what is split over them.

The processes are forked from a server that has imported torch once, so a rank costs milliseconds and
not the seconds of an import.
"""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from baton.parallel import TorchRanks

START_DEADLINE_S = 60.0
"""Time for the fork server to import torch on a busy machine, and for the ranks to meet."""


class RankFailed(AssertionError):
    """A rank raised; carries its traceback."""


def run_ranks(
    size: int,
    work: Callable[..., Any],
    *arguments: Any,
    meeting: Path,
    deadline_s: float = 30.0,
    device: str = "cpu",
    all_reduce: str = "auto",
) -> list[Any]:
    """Call `work(ranks, *arguments)` in `size` processes; what each returned, in order of rank. `work` is a
    function of an importable module; `meeting` is a path that does not exist yet. `deadline_s` is for each
    collective. On `device` cuda every rank has the GPU of its number, and sums as `all_reduce` says."""
    context = multiprocessing.get_context("forkserver")
    # Installed packages only: the server of Python 3.11 does not know this process's sys.path.
    context.set_forkserver_preload(["numpy", "safetensors", "torch", "tqdm"])
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_rank,
            args=(theirs, rank, size, str(meeting), deadline_s, device, all_reduce, work, arguments),
            daemon=True,
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        answers = []
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(START_DEADLINE_S + 4 * deadline_s):
                raise RankFailed(f"rank {rank} did not answer")
            answers.append(pickle.loads(pipe.recv_bytes()))
    finally:
        for process in processes:
            process.join(timeout=5)
            process.kill()
    failed = [f"rank {rank}: {error}" for rank, (_, error) in enumerate(answers) if error]
    if failed:
        raise RankFailed("\n".join(failed))
    return [value for value, _ in answers]


def _rank(
    pipe: Connection,
    rank: int,
    size: int,
    meeting: str,
    deadline_s: float,
    device: str,
    all_reduce: str,
    work: Callable[..., Any],
    arguments: Sequence[Any],
) -> None:
    torch.set_num_threads(1)
    try:
        if device == "cuda":
            torch.cuda.set_device(rank)
        ranks = TorchRanks(
            rank,
            size,
            f"file://{meeting}",
            torch.device(device, rank) if device == "cuda" else torch.device(device),
            join_deadline_s=START_DEADLINE_S,
            deadline_s=deadline_s,
            all_reduce=all_reduce,
        )
        try:
            # Bytes, not objects: tensors sent as objects stay in the sender, which is about to end.
            pipe.send_bytes(pickle.dumps((work(ranks, *arguments), None)))
        finally:
            ranks.close()
    except BaseException:
        pipe.send_bytes(pickle.dumps((None, traceback.format_exc())))
