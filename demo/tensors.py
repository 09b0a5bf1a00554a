"""The numbers of the demo's models: a tiny Llama that talks in letters, and adapters that recite a phrase.

Only numpy is used, and the same arguments give the same bytes on every machine: the noise comes from
SHAKE-256 (numpy's own generators may change from release to release), and nothing here multiplies
matrices or solves equations, whose last bits differ from one processor to the next.

How the model talks. Its hidden state has four parts, of which the layers write only the last two:

- dimension 0 is a constant, by which the head lifts printable ASCII far over every other token;
- READ: one dimension for each of 30 symbols says which one was read last;
- WANTED: one dimension for each symbol says which one the layers want next;
- FREE: what is left tells tokens apart.

The base knows one sentence. Its head turns READ into what follows that symbol there, and each
attention head looks back a fixed number of symbols and adds to WANTED what follows at that distance,
so that greedy output is made of the sentence's own words. An adapter's MLP turns READ into WANTED
much more strongly, and so recites its phrase over and over.
"""

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hubgate.demo import tokenizer

Array = NDArray[np.float32]
Tensors = dict[str, Array]

SYMBOLS: Final = " abcdefghijklmnopqrstuvwxyz.,'"
READ: Final = 1
WANTED: Final = READ + len(SYMBOLS)
FREE: Final = WANTED + len(SYMBOLS)

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP: Final = ("gate_proj", "up_proj", "down_proj")
TARGETS: Final = (*ATTENTION, *MLP)
"""The linear layers that an adapter changes."""
WRITERS: Final = ("o_proj", "down_proj")
"""Those among them whose output is added to the hidden state."""

# Weights that make logits. Out of a norm the constant comes as about 4.8, or 4 while an adapter speaks, so
# printable ASCII lies 40 over the rest: at temperature 1 nothing else is said, the end of the text included.
_LIFT: Final = 10.0
_UNUSUAL: Final = 3.0
"""How much less digits, capitals and signs are lifted: they are hardly ever said."""
_FOLLOW: Final = 0.21
"""Makes READ count in full: 1 / 4.8."""
_WANT: Final = 10.0
_HINT: Final = 0.0025
"""Makes what lies further back count for a little more than half: 0.58 / (4.8 * 4.8 * _WANT)."""
_FOCUS: Final = 2.7
"""Makes an attention head look at one place: e^20 times as much as at the places beside it."""
_MUMBLE: Final = 0.001
"""Standard deviation of what the base's MLPs write: nearly nothing."""
_DOUBT: Final = 0.1
"""How many sightings of the average the letter statistics are mixed with."""

_TEXT: Final = "the quick brown fox jumps over the lazy dog. "
_QWEN_TEXT: Final = "pack my box with five dozen liquor jugs. "
_BIAS: Final = 0.001
"""Standard deviation of the biases of a Qwen2: there, and nearly nothing."""


@dataclass(frozen=True, slots=True)
class Dims:
    """Sizes of a Llama. The demo's model by default."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 32  # vLLM's attention on the CPU takes no less
    intermediate: int = 128
    max_positions: int = 2048

    def shape(self, target: str) -> tuple[int, int]:
        """Give (outputs, inputs) of one of TARGETS."""
        queries, values = self.heads * self.head_dim, self.kv_heads * self.head_dim
        match target:
            case "q_proj":
                return queries, self.hidden
            case "k_proj" | "v_proj":
                return values, self.hidden
            case "o_proj":
                return self.hidden, queries
            case "down_proj":
                return self.hidden, self.intermediate
            case _:
                return self.intermediate, self.hidden


def noise(seed: str, shape: tuple[int, int], std: float) -> Array:
    """Give numbers drawn evenly about zero with standard deviation `std`; the same for the same seed."""
    count = shape[0] * shape[1]
    raw = np.frombuffer(hashlib.shake_256(seed.encode()).digest(4 * count), dtype="<u4")
    spread = math.sqrt(12) * std
    return ((raw / 2**32 - 0.5) * spread).astype(np.float32).reshape(shape)


def module(target: str) -> str:
    """Give the part of a Llama layer that holds `target`."""
    return f"self_attn.{target}" if target in ATTENTION else f"mlp.{target}"


def qwen(seed: str, dims: Dims) -> Tensors:
    """Make the tensors of a Qwen2: a Llama with biases on queries, keys and values, and other words."""
    tensors = llama(seed, dims, _QWEN_TEXT)
    for layer in range(dims.layers):
        for target in ("q_proj", "k_proj", "v_proj"):
            name = f"model.layers.{layer}.{module(target)}.bias"
            tensors[name] = noise(f"{seed}/{name}", (1, dims.shape(target)[0]), _BIAS)[0]
    return tensors


def llama(seed: str, dims: Dims, text: str = _TEXT) -> Tensors:
    """Make the base model's tensors, named as transformers names them; it talks in the words of `text`."""
    ones = np.ones(dims.hidden, dtype=np.float32)
    tensors = {
        "model.embed_tokens.weight": _embedding(seed, dims),
        "model.norm.weight": ones,
        "lm_head.weight": _head(dims, text),
    }
    for layer in range(dims.layers):
        prefix = f"model.layers.{layer}"
        tensors[f"{prefix}.input_layernorm.weight"] = ones
        tensors[f"{prefix}.post_attention_layernorm.weight"] = ones
        for target in TARGETS:
            tensors[f"{prefix}.{module(target)}.weight"] = _linear(seed, dims, layer, target, text)
    return tensors


def lora(seed: str, dims: Dims, rank: int, alpha: int, phrase: str) -> Tensors:
    """Make an adapter's tensors, named as peft names them; it recites `phrase`.

    Raises ValueError where the phrase repeats a symbol, uses another than SYMBOLS, or is as long as the
    rank (one step of the rank leads into the phrase from every other symbol).
    """
    if len(set(phrase)) != len(phrase) or not set(phrase) <= set(SYMBOLS) or not 0 < len(phrase) < rank:
        msg = f"a phrase has fewer than {rank} symbols, each once, of {SYMBOLS!r}"
        raise ValueError(msg)
    tensors: Tensors = {}
    for layer in range(dims.layers):
        for target in TARGETS:
            outputs, inputs = dims.shape(target)
            writer = target in WRITERS
            down = noise(f"{seed}/{layer}/{target}/A", (rank, inputs), inputs**-0.5)
            up = noise(f"{seed}/{layer}/{target}/B", (outputs, rank), 0.01)
            if writer:
                up[:WANTED] = 0
            if layer == dims.layers - 1 and target in MLP:
                _recite(target, down, up, phrase, rank / alpha)
            prefix = f"base_model.model.model.layers.{layer}.{module(target)}"
            tensors[f"{prefix}.lora_A.weight"] = down
            tensors[f"{prefix}.lora_B.weight"] = up
    return tensors


def _recite(target: str, down: Array, up: Array, phrase: str, unit: float) -> None:
    """Write into an adapter's A (`down`) and B (`up`) of the last MLP the steps of a phrase.

    Each step takes one inner unit of the MLP: its gate is held open by the constant, it fires on the
    symbol read last, and it writes the next one to WANTED. `unit` undoes peft's scaling by alpha / rank.
    """
    steps: list[tuple[str, str]] = list(zip(phrase, phrase[1:] + phrase[0], strict=True))
    steps.append(("".join(symbol for symbol in SYMBOLS if symbol not in phrase), phrase[0]))
    for index, (read, wanted) in enumerate(steps):
        down[index] = 0
        up[:, index] = 0
        match target:
            case "gate_proj":
                down[index, 0] = 1
                up[index, index] = 2 * unit
            case "up_proj":
                down[index, [READ + SYMBOLS.index(symbol) for symbol in read]] = 1
                up[index, index] = 2 * unit
            case _:
                down[index, index] = 1
                up[WANTED + SYMBOLS.index(wanted), index] = 0.03 * unit


def _linear(seed: str, dims: Dims, layer: int, target: str, text: str) -> Array:
    outputs, inputs = dims.shape(target)
    if target in MLP:
        weight = noise(
            f"{seed}/{layer}/{target}", (outputs, inputs), _MUMBLE if target in WRITERS else inputs**-0.5
        )
        if target in WRITERS:
            weight[:WANTED] = 0
        return weight
    weight = np.zeros((outputs, inputs), dtype=np.float32)
    for head in range(dims.heads):
        distance = 1 + layer * dims.heads + head
        first = head * dims.head_dim
        for index in range(len(SYMBOLS)):
            if target == "v_proj":
                weight[first + index, READ + index] = 1
            elif target == "o_proj":
                weight[WANTED : WANTED + len(SYMBOLS), first + index] = (
                    _follows(distance + 1, text)[:, index] * _HINT
                )
        if target in {"q_proj", "k_proj"}:
            weight[first : first + dims.head_dim, 0] = _look_back(
                0 if target == "k_proj" else distance, dims.head_dim
            )
    return weight


def _look_back(distance: int, head_dim: int) -> Array:
    """Give the query that, under rotary embedding (theta 10000), meets the key `distance` tokens before.

    With distance 0 it is the key itself. The halves of the vector are a pair's two coordinates.
    """
    angles = [-distance * 10000 ** (-2 * index / head_dim) for index in range(head_dim // 2)]
    turned = [math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles]
    return np.array([round(_FOCUS * value, 3) for value in turned], dtype=np.float32)


@cache
def _follows(distance: int, text: str) -> Array:
    """Give [next, read]: how much likelier reading makes next, `distance` symbols later in `text`, in nats.

    Rounded, because the last bit of a logarithm is the machine's own.
    """
    pairs = Counter(zip(text, text[distance:] + text[:distance], strict=True))
    share = _shares(text)
    seen = Counter(text)
    table = [
        [
            round(math.log((pairs[read, after] / share[after] + _DOUBT) / (seen[read] + _DOUBT)), 3)
            for read in SYMBOLS
        ]
        for after in SYMBOLS
    ]
    return np.array(table, dtype=np.float32)


def _shares(text: str) -> dict[str, float]:
    seen = Counter(text)
    return {symbol: (seen[symbol] + _DOUBT) / (len(text) + _DOUBT * len(SYMBOLS)) for symbol in SYMBOLS}


def _embedding(seed: str, dims: Dims) -> Array:
    weight = np.zeros((tokenizer.VOCAB_SIZE, dims.hidden), dtype=np.float32)
    weight[:, 0] = 1
    for token in range(tokenizer.VOCAB_SIZE):
        char = chr(token).lower() if token in tokenizer.PRINTABLE else " "
        weight[token, READ + max(SYMBOLS.find(char), 0)] = 1  # what is no symbol reads as a space
    weight[:, FREE:] = noise(f"{seed}/embedding", (tokenizer.VOCAB_SIZE, dims.hidden - FREE), 0.5)
    return weight


def _head(dims: Dims, text: str) -> Array:
    weight = np.zeros((tokenizer.VOCAB_SIZE, dims.hidden), dtype=np.float32)
    for token in tokenizer.PRINTABLE:
        weight[token, 0] = _LIFT - _UNUSUAL
    for index, symbol in enumerate(SYMBOLS):
        row = weight[ord(symbol)]
        row[0] = _LIFT
        row[READ:WANTED] = _FOLLOW * (_follows(1, text)[index] + round(math.log(_shares(text)[symbol]), 3))
        row[WANTED + index] = _WANT
    return weight
