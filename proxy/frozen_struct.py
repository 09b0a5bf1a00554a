"""The values that a request makes on its way."""

from typing import dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True)
class FrozenStruct(msgspec.Struct, frozen=True, gc=False):
    """An immutable value whose making is C; a dataclass makes itself in Python, in compiled code too.

    `gc=False`: it holds only what was there before it, so that no cycle can go through it. What is said
    here holds for its subclasses, which say nothing of their own: mypyc drops the keywords of a class.
    """
