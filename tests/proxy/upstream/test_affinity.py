"""Which backend takes a request."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hubgate.proxy.upstream import affinity

NAMES = [f"gpu-{number}" for number in range(8)]


def choose(names: list[str], model: str, warm: dict[str, int] | None = None) -> str | None:
    return affinity.choose(names, model, name=str, warmth=lambda one: (warm or {}).get(one, 0))


def test_nobody_is_nobody() -> None:
    """Without a candidate there is none."""
    assert choose([], "a/b@c") is None


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 2), min_size=1), st.text(max_size=20))
def test_the_warmest_wins(warm: dict[str, int], model: str) -> None:
    """No cold backend is chosen while a warmer one is there."""
    chosen = choose(list(warm), model, warm)
    assert chosen is not None
    assert warm[chosen] == max(warm.values())


@given(st.permutations(NAMES), st.text(max_size=20))
def test_the_order_does_not_matter(names: list[str], model: str) -> None:
    """Every proxy chooses the same backend without talking to the others."""
    assert choose(names, model) == choose(NAMES, model)


def test_only_the_models_of_a_lost_backend_move() -> None:
    """When a backend goes away, every other model stays where it is."""
    models = [f"org/model-{number}@sha" for number in range(400)]
    before = {model: choose(NAMES, model) for model in models}
    after = {model: choose(NAMES[1:], model) for model in models}
    assert {model for model in models if before[model] != after[model]} == {
        model for model in models if before[model] == NAMES[0]
    }


def test_models_are_spread() -> None:
    """Each of eight backends takes its share of many models."""
    shares = Counter(choose(NAMES, f"org/model-{number}@sha") for number in range(800))
    assert len(shares) == len(NAMES)
    assert min(shares.values()) > 50
