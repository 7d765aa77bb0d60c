"""How the next token is chosen from logits."""

__all__: list[str] = []
