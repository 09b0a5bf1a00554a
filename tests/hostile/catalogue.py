"""Every attack there is: what is played, one by one, while somebody else works."""

from collections.abc import Mapping
from typing import Final

from tests.hostile import on_bodies, on_doors, on_engines
from tests.hostile.attack import Attack

CATALOGUE: Final[tuple[Attack, ...]] = (*on_bodies.ATTACKS, *on_engines.ATTACKS, *on_doors.ATTACKS)
BY_ID: Final[Mapping[str, Attack]] = {attack.id: attack for attack in CATALOGUE}

# What each did to others on the last version without these bounds (6d0614c), where it was seen to do harm.
BEFORE: Final[Mapping[str, str]] = {}

# What still does harm: the bound against it is not there yet.
KNOWN: Final[Mapping[str, str]] = {}
