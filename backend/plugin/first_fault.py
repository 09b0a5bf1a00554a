"""Has a request that vLLM's models do not take refused at the first fault in each list.

pydantic looks for every fault there is, in each kind that an item may be: 232 for one item of `/v1/responses`
that is none, each told at length. 60 kB of such items took the API process's loop 19 seconds.
"""

from typing import Any, Final

from fastapi import FastAPI
from pydantic_core import SchemaValidator

from hubgate.backend.plugin.vllm_methods import VllmDiffersError

_LISTS: Final = ("list", "set", "frozenset", "tuple")  # the kinds of pydantic_core's that have `fail_fast`
_OPAQUE: Final = ("cls", "function", "metadata", "serialization")  # keys behind which nothing is validated


def stop_at_first_fault(app: FastAPI) -> None:
    """Replace the validators of all bodies that the routes take so far. Raises `VllmDiffersError`."""
    for route in app.routes:
        dependant = getattr(route, "dependant", None)
        for field in () if dependant is None else dependant.body_params:
            adapter: Any = getattr(field, "_type_adapter", None)
            if not isinstance(getattr(adapter, "validator", None), SchemaValidator):
                raise VllmDiffersError("FastAPI validates bodies in another way")
            adapter.validator = SchemaValidator(_failing_fast(adapter.core_schema), _use_prebuilt=False)


def _failing_fast(schema: Any) -> Any:
    """A copy of a core schema (pydantic_core.core_schema) whose lists are read to their first fault."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_failing_fast, schema))
    if not isinstance(schema, dict):
        return schema
    copy = {key: value if key in _OPAQUE else _failing_fast(value) for key, value in schema.items()}
    if schema.get("type") in _LISTS:
        copy["fail_fast"] = True
    return copy
