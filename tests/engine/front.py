"""A front process to be killed: `python front.py MODEL RANKS`. Prints its ranks' process ids, then works."""

from __future__ import annotations

import sys

from baton.engine import LLM, SamplingParams

if __name__ == "__main__":
    settings = {"pages": 600, "max_model_len": 4096, "max_running": 4, "threads": 1}
    with LLM(sys.argv[1], tensor_parallel=int(sys.argv[2]), **settings) as llm:
        print(*(process.pid for process in llm._llm.worker._processes), flush=True)
        while True:
            llm.generate(["The cat", "Red is"], SamplingParams(max_tokens=4000, ignore_eos=True))
