"""Where a model's files are: a local directory as it is, or a hub id made into one.

Called once by each worker when it starts (and by the router for its tokenizer). Torch-free. The only
module of the package that may reach the network.
"""

from __future__ import annotations

from pathlib import Path

from baton.core.errors import InvalidSetting

_TEXT = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
_WEIGHTS = ["*.safetensors"]
_NEVER = ["consolidated*", "original/*", "*/*"]


def locate(model: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """The local directory of `model`: the directory itself, or a snapshot of the hub repository of that
    name, downloaded if the local hub cache lacks it. Without `weights`, only configuration and
    tokenizer files are fetched. Raises InvalidSetting("model") saying what was tried."""
    local = Path(model).expanduser()
    if local.is_dir():
        return local.resolve()
    if model.startswith(("/", ".", "~")) or model.count("/") > 1:
        raise InvalidSetting("model", f"{model} is not a directory")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise InvalidSetting(
            "model", f"{model} is not a directory, and huggingface_hub is not installed to look it up"
        ) from error
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=_TEXT + (_WEIGHTS if weights else []),
                ignore_patterns=_NEVER,
            )
        )
    except LocalEntryNotFoundError as error:
        raise InvalidSetting(
            "model",
            f"{model} is not a directory, is not in the local hub cache, and the hub cannot be reached"
            " (offline?). Give a directory, or fetch it first with `hf download`",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InvalidSetting("model", f"{model} cannot be fetched from the hub: {error}") from error
