"""Each play of tests/tenants on a real vLLM that all share: what one caller does costs the others little."""

from collections.abc import Iterator

import pytest

from tests.tenants.catalogue import PLAYS
from tests.tenants.play import Play
from tests.tenants.stage import Stage, staged

pytestmark = [pytest.mark.long("tenants"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A product of its own."""
    with staged(tmp_path_factory.mktemp("tenants") / "run") as made:
        yield made


@pytest.mark.parametrize("play", [pytest.param(play, id=play.id) for play in PLAYS])
def test_a_play_costs_the_others_little(stage: Stage, play: Play) -> None:
    """Nothing ends, the victim is answered, and nothing of the play is left in the engine."""
    assert stage.play(play).failures(play) == []
