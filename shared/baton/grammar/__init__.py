"""What an answer may be: grammars as text, and what follows them token by token.

`forms` writes the text, which travels with a request; `matcher` compiles it where tokens are sampled, by
llguidance. Torch-free. Import the modules themselves: whoever needs no grammar should not load that library.
"""

__all__: list[str] = []
