"""What tenants could share and do not: the prefix cache; and what holds while the Hub is away."""

from tests.e2e.product import ADAPTER, BASE, Product


def _hits(product: Product) -> float:
    """Tokens that the engine found in its prefix cache, by its own count."""
    return sum(
        float(line.rpartition(" ")[2])
        for line in product.backend_metrics().splitlines()
        if line.startswith("vllm:prefix_cache_hits_total")
    )


def test_the_prefix_cache_is_salted_per_identity(product: Product) -> None:
    """Alice hits what alice computed; bob, with the same prompt, does not."""
    prompt = "The tide comes in and the tide goes out. " * 9  # 369 tokens: more than two cache blocks
    product.complete(BASE, "hf_demo_alice", prompt=prompt, max_tokens=1).raise_for_status()
    first = _hits(product)
    product.complete(BASE, "hf_demo_bob", prompt=prompt, max_tokens=1).raise_for_status()
    assert _hits(product) == first
    product.complete(BASE, "hf_demo_alice", prompt=prompt, max_tokens=1).raise_for_status()
    assert _hits(product) > first


def test_with_the_hub_down_warm_callers_go_on_and_nobody_else_gets_in(product: Product) -> None:
    """An outage is 503 hub_unavailable for whoever must be asked about, and never a yes or a no."""
    product.complete(ADAPTER, "hf_demo_alice").raise_for_status()
    product.complete(BASE, "hf_demo_alice").raise_for_status()
    product.hub_down("503")
    try:
        assert product.complete(ADAPTER, "hf_demo_alice").status_code == 200
        assert product.complete(BASE, "hf_demo_alice").status_code == 200
        strangers = [
            product.complete(BASE, "hf_demo_rejected"),  # known to the Hub, but not to us yet
            product.complete(BASE, "hf_nobody_knows_me"),
            product.complete("alice/never-asked-before", "hf_demo_alice"),
        ]
        for answer in strangers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub_unavailable")
            assert 1 <= int(answer.headers["Retry-After"]) <= 120
    finally:
        product.hub_down(None)
    recovered = product.complete("alice/never-asked-before", "hf_demo_alice")
    assert recovered.status_code == 404
