"""One real product, with one real vLLM, for the whole session."""

from collections.abc import Iterator

import pytest

from tests.e2e.product import Product, started

# Files run in the order of their names: those that break things come last.


@pytest.hookimpl(tryfirst=True)  # before tests/conftest.py asks for these marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in here, and give it the time that a real engine takes."""
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.engine)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(autouse=True, scope="session")
def _what_vllm_knows_of_models(pytestconfig: pytest.Config) -> Iterator[None]:
    """Keep it from run to run: to learn of a model's class, vLLM imports itself once more.

    It looks whether the class's source has changed (vllm/model_executor/models/registry.py).
    """
    assert pytestconfig.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CACHE_ROOT", str(pytestconfig.cache.mkdir("vllm")))
        yield


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product as `make run` starts it, ready."""
    with started(tmp_path_factory.mktemp("product") / "run") as running:
        yield running
