"""The fields of the engine's own that no caller may set, with the reason: every endpoint refuses them."""

from hubgate.proxy.fields.table import Refused, refused

# A model's fields that are missing on some endpoints are named on all: the reason is the better answer.
ENGINE: tuple[Refused, ...] = (
    refused("prompt_embeds", "embeddings are unpickled by the engine"),
    refused("chat_template", "templates run in the engine"),
    refused("chat_template_kwargs", "templates run in the engine"),
    refused("lora_request", "adapters are chosen by `model`"),
    refused("kv_transfer_params", "it addresses other engines' memory"),
    refused("ec_transfer_params", "it addresses other engines' memory"),
    refused("vllm_xargs", "it reaches engine internals"),
    refused("mm_processor_kwargs", "it reaches the media processor"),
    refused("media_io_kwargs", "it reaches the media loader"),
    refused("mm_payload", "it belongs to the engine's render routes, which are not served"),
    refused("return_mm_kwargs", "it belongs to the engine's render routes, which are not served"),
    refused("return_token_offsets", "it belongs to the engine's render routes, which are not served"),
    refused("routed_experts_prompt_start", "it reaches engine internals"),
    refused("use_beam_search", "its cost is not bounded"),
    refused("watermarking", "it is the operator's decision"),
    refused("request_id", "ids are given by the proxy"),
    refused("session_id", "ids are given by the proxy"),
    refused("uuid", "ids are given by the proxy"),
    refused("cache_salt", "the proxy sets it, to keep tenants apart"),
    refused("priority", "callers do not choose their place in the queue"),
)
BACKGROUND = refused("background", "responses are not stored")
DOCUMENTS = refused("documents", "they reach the chat template")
