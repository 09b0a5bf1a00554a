"""The tiny model's tokenizer: one token a byte, written by hand as data.

The format is that of `tokenizer.json` of the `tokenizers` library: a byte-level BPE without merges.
Token ids 0-255 are the bytes themselves, so that a prompt's length in tokens is its length in bytes.
"""

import json
from collections.abc import Mapping
from itertools import count
from typing import Final

BOS: Final = "<|begin|>"
EOS: Final = "<|end|>"
PAD: Final = "<|pad|>"
ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
SPECIALS: Final = (BOS, EOS, PAD, *ROLES)

BYTES: Final = 256
MULTIPLE: Final = 64
VOCAB_SIZE: Final = -(-(BYTES + len(SPECIALS)) // MULTIPLE) * MULTIPLE
"""Rows of the embedding: bytes and special tokens, padded to a multiple of 64 as real models are."""

SPECIAL_IDS: Final[Mapping[str, int]] = {text: BYTES + index for index, text in enumerate(SPECIALS)}
PRINTABLE: Final = range(0x20, 0x7F)
"""Printable ASCII, which is all that the tiny model says."""

# One turn a message, then the assistant's turn is opened. Parts of a message that are not text are left out.
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_alphabet() -> tuple[str, ...]:
    """Give the character that stands for each byte in a byte-level vocabulary (GPT-2's table).

    Printable Latin-1 bytes stand for themselves; the others are moved, in order, to U+0100 and up.
    """
    spare = count(0x100)
    as_is = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    return tuple(chr(byte if byte in as_is else next(spare)) for byte in range(BYTES))


def _special(text: str) -> dict[str, object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": SPECIAL_IDS[text], "content": text, **flags, "special": True}


def _byte_level() -> dict[str, object]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def tokenizer_json() -> bytes:
    """Give `tokenizer.json`."""
    vocab = {char: byte for byte, char in enumerate(byte_alphabet())} | dict(SPECIAL_IDS)
    model: dict[str, object] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocab,
        "merges": [],
    }
    return as_json(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_special(text) for text in SPECIALS],
            "normalizer": None,
            "pre_tokenizer": _byte_level(),
            "post_processor": None,
            "decoder": _byte_level(),
            "model": model,
        }
    )


def tokenizer_config_json(max_length: int) -> bytes:
    """Give `tokenizer_config.json` for a model that takes `max_length` tokens."""
    return as_json(
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_length,
            "chat_template": CHAT_TEMPLATE,
        }
    )


def as_json(value: object) -> bytes:
    """Write `value` as JSON text of a file: indented, ASCII, with a last newline."""
    return (json.dumps(value, indent=2) + "\n").encode()
