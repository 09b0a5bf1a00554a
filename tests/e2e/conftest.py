"""One real product, with one real vLLM, for the whole session: `product` of tests/conftest.py."""

import pytest

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
def _what_vllm_knows_is_kept(what_vllm_knows_of_models: None) -> None:
    """Whatever starts an engine in here gains by it."""
