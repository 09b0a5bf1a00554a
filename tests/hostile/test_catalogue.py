"""The catalogue as data: enough attacks, each once, from where others were hurt too."""

import re

from tests.hostile.catalogue import BEFORE, BY_ID, CATALOGUE, KNOWN
from tests.hostile.requests import Sender

PUBLIC = re.compile(r"(CVE|PYSEC)-\d{4}-\d+|GHSA(-\w{4}){3}|[\w.-]+/[\w.-]+#\d+")


def test_there_are_enough_and_each_is_there_once() -> None:
    """An id names one attack."""
    assert len(CATALOGUE) == len(BY_ID) >= 80


def test_a_third_is_quick() -> None:
    """`make test` plays these."""
    assert 3 * sum(attack.quick for attack in CATALOGUE) >= len(CATALOGUE)


def test_many_come_from_advisories_and_issues() -> None:
    """What others published is tried here, under the id that it has there."""
    assert len({attack.source for attack in CATALOGUE if PUBLIC.fullmatch(attack.source)}) >= 20


def test_many_did_harm_before_there_were_bounds() -> None:
    """An attack that never hurt anybody shows little."""
    assert len(BEFORE) >= 25
    assert BEFORE.keys() <= BY_ID.keys()


def test_what_is_known_to_do_harm_is_in_the_catalogue() -> None:
    """Nobody forgets to take a name out."""
    assert KNOWN.keys() <= BY_ID.keys()


def test_every_request_can_be_written() -> None:
    """The first request of each attack, and its last."""
    for attack in CATALOGUE:
        for number in {0, attack.count - 1}:
            assert (
                attack.make(Sender("hf_demo_mallory", number, [f"{number:040x}"] * attack.count)) is not None
            )
