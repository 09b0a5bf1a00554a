"""Each attack of the catalogue against the compiled proxy and a real vLLM, while somebody else works."""

from collections.abc import Iterator

import pytest
from _pytest.mark.structures import ParameterSet

from tests.e2e.product import Product
from tests.hostile.attack import Attack
from tests.hostile.catalogue import CATALOGUE, KNOWN
from tests.hostile.stage import Stage, staged


@pytest.fixture(scope="module")
def stage(product: Product) -> Iterator[Stage]:
    """The victim works for as long as there are attacks."""
    with staged(product) as made:
        yield made


def of(attacks: Iterator[Attack]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("attack", [_case(attack) for attack in attacks])


def _case(attack: Attack) -> ParameterSet:
    known = KNOWN.get(attack.id)
    marks = [pytest.mark.xfail(reason=known, strict=False)] if known else []
    return pytest.param(attack, id=attack.id, marks=marks)


def harmless(stage: Stage, attack: Attack) -> None:
    """Nothing ends; the victim is answered in time; the attacker gets what is documented."""
    assert stage.play(attack).failures(attack, stage.limit) == []


@of(one for one in CATALOGUE if one.quick)
def test_a_quick_attack_harms_nobody_else(stage: Stage, attack: Attack) -> None:
    """A third of them, in every run."""
    harmless(stage, attack)


@pytest.mark.long("hostile")
@of(iter(CATALOGUE))
def test_no_attack_harms_anybody_else(stage: Stage, attack: Attack) -> None:
    """All of them."""
    harmless(stage, attack)
