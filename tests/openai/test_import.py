from __future__ import annotations

import subprocess
import sys


def test_a_router_needs_neither_torch_nor_transformers() -> None:
    code = "import sys, baton.openai; print(*{'torch', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    path = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=path)
    assert done.stdout.split() == []
