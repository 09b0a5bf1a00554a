"""Binds a request to the model of its grant, where vLLM itself resolves the name in the body.

Whatever the body looks like (JSON with a key twice, a form with a part twice or with none), vLLM 0.32 parses
it once and looks the result up in `OpenAIServingModels` (vllm/entrypoints/openai/models/serving.py):
`is_base_model` and `lora_requests`, by `_check_model` and `_maybe_get_adapters` of
vllm/entrypoints/serve/engine/serving.py, before anything is generated. These two are replaced by ones that
know a single name in each request. Nothing has to be parsed a second time, and no parser can differ.

A name that is missing means the base model to vLLM; here it is not the granted name, whichever that is.
"""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class NotGrantedError(Exception):
    """The request names another model than its grant, or none. Carries no name."""


class Binding:
    """One request, and how the look-ups of its model went."""

    def __init__(self, granted: str | None) -> None:
        """`granted` is a served name, `org/name@sha`; `None` for the supervisor, who may see all."""
        self._granted = granted
        self._found = False
        self._refused = False
        self._begun = False

    def look_up(self, name: object) -> None:
        """Let the granted name pass. Raises `NotGrantedError` for every other."""
        if self._granted is None or name == self._granted:
            self._found = True
        else:
            self.refuse()

    def settle(self, status: int) -> None:
        """Let an answer of this HTTP status begin. Raises `NotGrantedError`.

        One that succeeds although nothing was looked up is not bound to anything, and does not pass.
        """
        if self._refused or (status < 400 and not self._found):
            self.refuse()
        self._begun = True

    def refuse(self) -> None:
        """Remember it, whatever becomes of the error on its way through vLLM's handlers."""
        self._refused = True
        raise NotGrantedError

    @property
    def refused(self) -> bool:
        """Whether nothing of vLLM's may leave any more."""
        return self._refused

    @property
    def unanswered(self) -> bool:
        """Whether it is refused before an answer began, and so is to be answered with 403."""
        return self._refused and not self._begun

    def only(self, names: Iterator[str]) -> Iterator[str]:
        """Those of the names that this request may see."""
        return (name for name in names if self._granted in (None, name))


_current: ContextVar[Binding] = ContextVar("binding")


@contextmanager
def bound(granted: str | None) -> Iterator[Binding]:
    """Bind what runs in this context, and the tasks that it starts."""
    binding = Binding(granted)
    token = _current.set(binding)
    try:
        yield binding
    finally:
        _current.reset(token)


class BoundAdapters(MutableMapping[str, Any]):
    """`OpenAIServingModels.lora_requests`, of which a request sees the granted adapter alone.

    Every look-up outside of a request raises `LookupError`: vLLM does none, and one that it comes to do
    must not go unbound.
    """

    def __init__(self, adapters: MutableMapping[str, Any]) -> None:
        self._adapters = adapters

    def __getitem__(self, name: str) -> Any:
        _current.get().look_up(name)
        return self._adapters[name]

    def __setitem__(self, name: str, adapter: Any) -> None:
        _current.get().look_up(name)
        self._adapters[name] = adapter

    def __delitem__(self, name: str) -> None:
        _current.get().look_up(name)
        del self._adapters[name]

    def __iter__(self) -> Iterator[str]:
        return _current.get().only(iter(self._adapters))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def bind(models: Any) -> None:
    """Replace both look-ups of vLLM's registry of models, which all of its endpoints share."""
    held: Callable[[str], bool] = models.is_base_model

    def is_base_model(name: str) -> bool:
        _current.get().look_up(name)
        return held(name)

    models.lora_requests = BoundAdapters(models.lora_requests)
    models.is_base_model = is_base_model
