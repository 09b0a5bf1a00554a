"""The paths by which the programs ask each other: each is written once, for both sides."""

from typing import Final

# Of an engine, for callers: a proxy forwards to these, and the engine's gate lets a proxy reach no others.
CHAT_COMPLETIONS: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
RERANK: Final = "/v1/rerank"
SCORE: Final = "/v1/score"
TOKENIZE: Final = "/tokenize"
DETOKENIZE: Final = "/detokenize"
TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"
FORWARDED: Final = frozenset(
    {
        CHAT_COMPLETIONS,
        COMPLETIONS,
        EMBEDDINGS,
        RESPONSES,
        MESSAGES,
        COUNT_TOKENS,
        RERANK,
        SCORE,
        TOKENIZE,
        DETOKENIZE,
        TRANSCRIPTIONS,
        TRANSLATIONS,
    }
)
# Of these, what only counts or converts: by the engine's API process, without a step of its core.
COUNTING: Final = frozenset({TOKENIZE, DETOKENIZE, COUNT_TOKENS})

# Of a backend, for proxies and its operator: the control API.
HELLO: Final = "/v1/hello"
ENSURE: Final = "/v1/ensure"
REFRESH: Final = "/v1/refresh"
RELOAD: Final = "/v1/reload"

# Of a proxy's admin port, for its operator.
RELOAD_PROXY: Final = "/reload"

# Of an engine, for proxies: which places requests have that wait at its gate.
PLACES: Final = "/hubgate/places"

# Of an engine, for its supervisor: what Hubgate's plugin adds to vLLM.
LOAD_ADAPTER: Final = "/hubgate/adapters"
UNLOAD_ADAPTER: Final = "/hubgate/adapters/unload"
STATUS: Final = "/hubgate/status"
DRAIN: Final = "/hubgate/drain"
SLEEP: Final = "/hubgate/sleep"
WAKE: Final = "/hubgate/wake"
