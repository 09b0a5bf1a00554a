"""`/tokenize` and `/detokenize`, vLLM's own: what a prompt becomes, and back. No GPU is asked."""

from hubgate.proxy.fields.content import Message, Tool
from hubgate.proxy.fields.sampling import SWITCHES
from hubgate.proxy.fields.shapes import TOOLS, Ids, Messages, Tools
from hubgate.proxy.fields.table import ExactlyOneOf, Table, field
from hubgate.proxy.fields.unsupported import ENGINE, TEMPLATE_SWITCHES

_MODEL = field("model", str, "what is authorized, and sent on under its pinned name", required=True)

TOKENIZE = Table(
    _MODEL,
    field("prompt", str, "vLLM"),
    field("messages", Messages[Message], "vLLM; walked as chat's are"),
    field("add_special_tokens", bool, "vLLM"),
    field("add_generation_prompt", bool, "vLLM"),
    field("continue_final_message", bool, "vLLM"),
    field("return_token_strs", bool, "vLLM"),
    field("tools", Tools[Tool], "vLLM; as chat's are", max_bytes=TOOLS),
    SWITCHES,
    *ENGINE,
    one_of=ExactlyOneOf((frozenset({"prompt"}), frozenset({"messages"}))),
)
DETOKENIZE = Table(
    _MODEL, field("tokens", Ids, "vLLM; not without end", required=True), TEMPLATE_SWITCHES, *ENGINE
)
