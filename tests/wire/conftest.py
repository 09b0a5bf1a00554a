"""Two pairs of programs that do not know each other."""

import pytest

from tests.fakes.keyring import Keyring


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """One pair of programs."""
    return Keyring.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Another pair, which the first does not know."""
    return Keyring.make(tmp_path_factory.mktemp("strange"))
