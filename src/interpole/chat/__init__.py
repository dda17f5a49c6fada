"""How a family is asked, and how its response is read apart: `ThinkFormat`, with `render` and `parse`. Everything is text."""

from interpole.chat.format import ThinkFormat
from interpole.chat.markers import Markers, added_tokens, find_markers, special_variables
from interpole.chat.response import ParsedResponse, Span, parse_response
from interpole.chat.stream import Parts, ThoughtStream
from interpole.chat.template import opens_thinking, render

__all__ = [
    "Markers",
    "ParsedResponse",
    "Parts",
    "Span",
    "ThinkFormat",
    "ThoughtStream",
    "added_tokens",
    "find_markers",
    "opens_thinking",
    "parse_response",
    "render",
    "special_variables",
]
