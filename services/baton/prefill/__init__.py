"""The prefill pod: prompts computed for decode pods, and pushed into their pages."""

__all__: list[str] = []
