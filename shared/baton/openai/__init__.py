"""OpenAI's HTTP shapes (and SGLang's /generate): reading requests, writing answers and streams.

Knows no socket and no engine: bodies in, bodies out.
"""

from baton.openai.answer import response
from baton.openai.ask import Asked, read_chat, read_completion, read_generate
from baton.openai.bookmark import Bookmark, Had, digest_of, mark_of, read_bookmark, ticket_of
from baton.openai.events import DONE, Delivered, EventRelay, ending, sse
from baton.openai.failures import error_body, error_event, read_error, status_of
from baton.openai.form import Form
from baton.openai.sampling import SamplingDefaults
from baton.openai.served import ServedModel, model_list, model_told
from baton.openai.shape import Choice, Endpoint, Prompt, Shape, Timeline, Usage
from baton.openai.stream import ChoiceStream, choice_stream, timeline_event, usage_event
from baton.openai.tokenizing import detokenize, tokenize

__all__ = [
    "DONE",
    "Asked",
    "Bookmark",
    "Choice",
    "ChoiceStream",
    "Delivered",
    "Endpoint",
    "EventRelay",
    "Form",
    "Had",
    "Prompt",
    "SamplingDefaults",
    "ServedModel",
    "Shape",
    "Timeline",
    "Usage",
    "choice_stream",
    "detokenize",
    "digest_of",
    "ending",
    "error_body",
    "error_event",
    "mark_of",
    "model_list",
    "model_told",
    "read_bookmark",
    "read_chat",
    "read_completion",
    "read_error",
    "read_generate",
    "response",
    "sse",
    "status_of",
    "ticket_of",
    "timeline_event",
    "tokenize",
    "usage_event",
]
