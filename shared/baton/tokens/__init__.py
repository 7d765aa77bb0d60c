"""Text to token ids and back: page identities, tokenizers, detokenizers, stop strings, chat templates."""

from baton.tokens.chat import ChatTemplates
from baton.tokens.detokenize import Detokenizer, detokenizer
from baton.tokens.identity import IDENTITY_BYTES, Chain, extend_identities, page_identities, root_salt
from baton.tokens.stop import StopStrings
from baton.tokens.tokenizer import Tokenizer

__all__ = [
    "IDENTITY_BYTES",
    "Chain",
    "ChatTemplates",
    "Detokenizer",
    "StopStrings",
    "Tokenizer",
    "detokenizer",
    "extend_identities",
    "page_identities",
    "root_salt",
]
