"""The fields of the engine's own that no caller may set, with the reason: every endpoint refuses them.

And those that other servers and gateways know, and clients that are made for them send to everybody.
"""

from hubgate.proxy.fields.table import Dropped, Refused, dropped, refused

# A model's fields that are missing on some endpoints are named on all: the reason is the better answer.
ENGINE: tuple[Refused, ...] = (
    refused("prompt_embeds", "embeddings are unpickled by the engine"),
    refused("chat_template", "templates run in the engine"),
    refused("lora_request", "adapters are chosen by `model`"),
    refused("kv_transfer_params", "it addresses other engines' memory"),
    refused("ec_transfer_params", "it addresses other engines' memory"),
    refused("vllm_xargs", "it reaches engine internals"),
    refused("mm_processor_kwargs", "it reaches the media processor"),
    refused("media_io_kwargs", "it reaches the media loader"),
    refused("mm_payload", "it belongs to the engine's render routes, which are not served"),
    refused(
        "return_mm_kwargs",
        "it belongs to the engine's render routes, which are not served",
        harmless=(False,),
    ),
    refused("return_token_offsets", "it belongs to the engine's render routes, which are not served"),
    refused("routed_experts_prompt_start", "it reaches engine internals"),
    refused("use_beam_search", "its cost is not bounded", harmless=(False,)),
    refused("watermarking", "it is the operator's decision"),
    refused("request_id", "ids are given by the proxy"),
    refused("session_id", "ids are given by the proxy"),
    refused("uuid", "ids are given by the proxy"),
    refused("cache_salt", "the proxy sets it, to keep tenants apart"),
    refused("priority", "callers do not choose their place in the queue", harmless=(0,)),
)
# Where the engine renders no conversation, or what it renders is none of the caller's own.
TEMPLATE_SWITCHES = refused("chat_template_kwargs", "templates run in the engine", harmless=({},))
BACKGROUND = refused("background", "responses are not stored", harmless=(False,))
DOCUMENTS = refused("documents", "they reach the chat template", harmless=([],))

# vLLM took these until 0.12 and ignores them since: the answer would not be bound by them, and not say so.
_GUIDED = "vLLM removed it and would answer unbound; write `structured_outputs`: "
GUIDED: tuple[Refused, ...] = (
    refused("guided_json", _GUIDED + '{"json": schema}'),
    refused("guided_regex", _GUIDED + '{"regex": text}'),
    refused("guided_choice", _GUIDED + '{"choice": [text]}'),
    refused("guided_grammar", _GUIDED + '{"grammar": text}'),
    refused("guided_json_object", _GUIDED + '{"json_object": true}', harmless=(False,)),
    refused("guided_decoding_backend", "the compiler of `structured_outputs` is the operator's"),
    refused("guided_whitespace_pattern", "the compiler of `structured_outputs` is the operator's"),
)

# What the engine ignores, on chat, plain completions and responses alike.
ELSEWHERE: tuple[Dropped, ...] = (
    dropped("client_metadata", "Codex CLI; its installation's id, of no use to an engine"),
    dropped("prompt_cache_retention", "OpenAI; engines keep a cache as long as there is room"),
    dropped("prompt_cache_options", "OpenAI; engines cache by themselves, keyed by our salt"),
    dropped("provider", "OpenRouter; its choice among providers, of which there is one here"),
    dropped("transforms", "OpenRouter; its way to shorten prompts, which it applies itself"),
    dropped("usage", "OpenRouter; usage is always told here"),
    dropped("cache_prompt", "llama.cpp; the engine's prefix cache is always on"),
    dropped("timings_per_token", "llama.cpp; the engine tells none"),
)
