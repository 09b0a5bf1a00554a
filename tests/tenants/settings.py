"""One engine for all: few seats, two slots and eight places for adapters, and a store of thirty adapters."""

from typing import Any, Final

from hubgate.demo.configs import ENGINE_ARGS
from tests.tenants.catalogue import PLAYS

VICTIM: Final = "bob"
SEATS: Final = 32
WEIGHTS: Final = {"heavy": 1000, "feather": 10}


def user(play: str, who: str) -> str:
    """The name of one caller of a play: each is new, and has used up nothing yet."""
    return f"{play}_{who.partition('/')[0]}".replace("-", "_")


def _overrides() -> dict[str, dict[str, int]]:
    weighed = {
        user(play.id, part.who): {"weight": WEIGHTS[part.who]}
        for play in PLAYS
        for part in play.parts
        if part.who in WEIGHTS
    }
    return {VICTIM: {"requests_per_minute": 10**6, "cold_loads_per_hour": 10**6}, **weighed}


SHARED: Final[dict[str, Any]] = {
    "proxy": {
        "limits": {
            "overrides": {"users": _overrides()},
            "organizations": {"crowd": {"concurrent_requests": 96}},
        }
    },
    "backend": {
        "engines": {"vllm_args": {**ENGINE_ARGS, "max-num-seqs": SEATS}},
        "adapters": {"max_loras": 2, "max_cpu_loras": 8},
        "store": {"max_bytes": 3_000_000, "max_model_bytes": 1_000_000},
    },
}
