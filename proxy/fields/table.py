"""A table of fields, and the one function that applies it to a body.

A row says what a value must be as a type, in msgspec's terms, which are Python's. msgspec checks a
whole body against its table in microseconds, strictly: no text passes for a number, no number for a
truth value, and no key that a nested object does not name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Required, TypedDict

import msgspec

from hubgate.proxy import settings
from hubgate.proxy.errors import Code, Denied
from hubgate.proxy.fields import places, superfluous
from hubgate.proxy.fields.shapes import INT64_MAX
from hubgate.proxy.fields.superfluous import Found, Position
from hubgate.wire import cost
from hubgate.wire.cost import Cost

Cap = Literal["max_n", "max_logprobs", "max_batch"]  # the settings under `request` that bound a cost

MAX_DEPTH: Final = 64  # levels; vllm/sampling_params.py, MAX_STRUCTURED_OUTPUT_JSON_NESTING
FEW_LOGPROBS: Final = 5  # for each token: the API process works as long again for them as for the token
MAX_SHOWN: Final = 48  # of one that shows a value
MAX_TOLD: Final = 300  # characters of a complaint; a key of the caller's may be any length

_NO_SUCH_VALUE: Final = "Invalid enum value"  # msgspec's words, with the value behind them

_convert: Final = msgspec.convert
_typed_dict: Final[Any] = TypedDict  # mypy knows those alone whose fields stand in the code
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?(.*)`$", re.DOTALL)


class MustBeFalse:
    """The type of a switch that may only be `false`."""


class MustBeTrue:
    """The type of a switch that may only be `true`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known of one field; `reason` is for whoever reads the table, or is refused by it."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Field(Row):
    """A field that is let through where its value is of this type. `null` is as good as leaving it out."""

    type: Any
    required: bool = False
    cap: Cap | None = None  # on a number, or on how many stand in a list
    max_bytes: int | None = None  # bytes as JSON; for free JSON, whose depth is then bounded as well
    normalize: Callable[[Any], Any] | None = None  # spells a shorthand out, for the check alone
    left_out: Mapping[str, str] | None = (
        None  # kinds of objects in its list that are dropped, with the reason
    )
    hint: str = ""  # what a client can do where the value is not taken


@dataclass(frozen=True, slots=True)
class Refused(Row):
    """A field that is known and not let through, but for values that ask for nothing."""

    code: Code = "invalid_request"
    harmless: tuple[Any, ...] = ()  # these are dropped


@dataclass(frozen=True, slots=True)
class Dropped(Row):
    """A field that the engine ignores, whatever its value: it is not sent on."""


@dataclass(frozen=True, slots=True)
class Product:
    """Fields whose numbers multiply: the product keeps within the cap."""

    names: tuple[str, ...]
    cap: Cap


@dataclass(frozen=True, slots=True)
class MutuallyExclusive:
    """Fields that are harmless alone and not together."""

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ExactlyOneOf:
    """Sets of fields of which a body carries exactly one, so that no two readers choose differently."""

    sets: tuple[frozenset[str], ...]


def field(name: str, type_: Any, reason: str, **more: Any) -> Field:
    """Make a row of the table."""
    return Field(name=name, type=type_, reason=reason, **more)


def refused(
    name: str, reason: str, code: Code = "invalid_request", harmless: tuple[Any, ...] = ()
) -> Refused:
    """Make a row for a field that is left out on purpose."""
    return Refused(name=name, reason=reason, code=code, harmless=harmless)


def dropped(name: str, reason: str) -> Dropped:
    """Make a row for a field that clients send and the engine ignores."""
    return Dropped(name=name, reason=reason)


class Table:
    """The fields of one endpoint. Raises `ValueError` if a name stands twice."""

    def __init__(
        self,
        *rows: Field | Refused | Dropped,
        translate: Callable[[dict[str, Any]], bool] | None = None,
        product: Product | None = None,
        exclusive: MutuallyExclusive | None = None,
        one_of: ExactlyOneOf | None = None,
    ) -> None:
        """`translate` puts what a client means differently into the engine's words; whether it did."""
        self.allowed = {row.name: row for row in rows if isinstance(row, Field)}
        self.refused = {row.name: row for row in rows if isinstance(row, Refused)}
        self.dropped = {row.name: row for row in rows if isinstance(row, Dropped)}
        if len({row.name for row in rows}) < len(rows):
            raise ValueError("a field stands twice in one table")
        # Fields in which a text may be of any length and is read by its beginning at most.
        self.free_text = frozenset(row.name for row in self.allowed.values() if _is_free_text(row))
        # And those in which a list of whole numbers may be.
        self.free_numbers = frozenset(row.name for row in self.allowed.values() if _takes_any_numbers(row))
        self._bounded = {row.name: row for row in self.allowed.values() if row.cap or row.max_bytes}
        self._spelled = {row.name: row.normalize for row in self.allowed.values() if row.normalize}
        self._product = product
        self._answers = product.names if product else tuple({"n"} & self.allowed.keys())
        self._logprobs = [row.name for row in self.allowed.values() if row.cap == "max_logprobs"]
        self._batches = [row.name for row in self.allowed.values() if row.cap == "max_batch"]
        self._translate = translate
        self._positions: dict[str, Position] = {}
        for row in self.allowed.values():
            position = places.position(row.type, row.left_out or ())
            if not position.empty:
                self._positions[row.name] = position
        self._exclusive = exclusive
        self._one_of = one_of
        self._shape = _typed_dict(
            "Body", {row.name: _member(row) for row in self.allowed.values()}, total=False
        )
        self._read = msgspec.json.Decoder(self._shape, dec_hook=_switch).decode

    def superfluous(self, body: dict[str, Any], extra: frozenset[str] = frozenset()) -> Found:
        """What is to be left out of a body, in its order: what nobody reads, and `null`.

        What the operator lets through as `extra` stays as it is.
        """
        found: Found = []
        for name, value in body.items():
            if name in extra:
                continue
            if value is None or name in self.dropped or self._is_harmless(name, value):
                found.append((body, name))
            elif (position := self._positions.get(name)) is not None:
                found += superfluous.find(value, position)
        return found

    def translate(self, body: dict[str, Any]) -> bool:
        """Put what a client means into the engine's words; whether anything was put differently."""
        return self._translate is not None and self._translate(body)

    def _is_harmless(self, name: str, value: Any) -> bool:
        row = self.refused.get(name)
        if row is None or not row.harmless:
            return False
        for harmless in row.harmless:  # noqa: SIM110 - compiled, a generator takes longer
            if type(value) is type(harmless) and value == harmless:
                return True
        return False

    def check(
        self,
        body: dict[str, Any],
        limits: settings.Request,
        extra: frozenset[str] = frozenset(),
        *,
        raw: bytes = b"",
    ) -> Denied | None:
        """`None` if every field is listed here, or is the operator's `extra`, and is what its row says.

        `raw` is the JSON of `body` where there is only one way to read it: types are checked faster there.
        """
        for name in body:
            if name not in self.allowed and name not in extra:
                return self._unlisted(name)
        try:
            normalize = self._spell(body) if self._spelled else body
            if raw and normalize is body:
                self._read(raw)
            else:
                _convert(normalize, self._shape, dec_hook=_switch)
        except msgspec.ValidationError as error:
            return self._advised(_mistyped(str(error)))
        for name, value in body.items():
            row = self._bounded.get(name)
            if row is not None and value is not None and (fault := _excess(row, value, limits)):
                return Denied("invalid_request", f"`{name}` {fault}.", name)
        return self._multiplied(body, limits) or self._together(body) or self._ambiguous(body)

    def places(self, body: dict[str, Any]) -> int:
        """As how many requests a checked body counts: its answers, with their log-probabilities."""
        places, logprobs = 1, 0
        for name in self._answers:
            if (value := body.get(name)) is not None:
                places *= max(1, _count(value))
        for name in self._logprobs:
            if (value := body.get(name)) is not None:
                logprobs += _count(value)
        return places * (1 + (logprobs + FEW_LOGPROBS - 1) // FEW_LOGPROBS)  # four cost as well

    def cost(self, body: dict[str, Any], places: int) -> str:
        """What the gate of an engine is told of a checked body that counts as so many requests.

        Each text of a batch is a sequence there, though one request here.
        """
        if places == 1 and not self._batches:
            return ""
        sequences, batch = 1, 1
        for name in self._answers:
            if (value := body.get(name)) is not None:
                sequences *= max(1, _count(value))
        for name in self._batches:
            if (value := body.get(name)) is not None:
                batch = max(batch, _count(value))
        return cost.write(Cost(sequences * batch, places // sequences))

    def _spell(self, body: dict[str, Any]) -> dict[str, Any]:
        short = [name for name in self._spelled if name in body]
        return {**body, **{name: self._spelled[name](body[name]) for name in short}} if short else body

    def _unlisted(self, name: str) -> Denied:
        shown = name if name.isidentifier() and len(name) <= 64 else "(unprintable)"
        row = self.refused.get(name)
        because = f": {row.reason}" if row else ""
        code = row.code if row else "invalid_request"
        return Denied(code, f"The field {shown} is not accepted here{because}.", shown)

    def _advised(self, denied: Denied) -> Denied:
        """With the hint of the field's row, where it has one."""
        row = self.allowed.get(denied.param or "")
        if row is None or not row.hint:
            return denied
        return Denied(denied.code, f"{denied.message} {row.hint}", denied.param)

    def _multiplied(self, body: dict[str, Any], limits: settings.Request) -> Denied | None:
        if self._product is None:
            return None
        total = 1
        for name in self._product.names:
            if (value := body.get(name)) is not None:
                total *= max(1, _count(value))
        if total == 1 or total <= (most := getattr(limits, self._product.cap)):
            return None
        names = " times ".join(f"`{name}`" for name in self._product.names)
        return Denied("invalid_request", f"{names} may be {most} at most here.", self._product.names[0])

    def _together(self, body: dict[str, Any]) -> Denied | None:
        if self._exclusive is None:
            return None
        for name in self._exclusive.names:
            if _off(body.get(name)):
                return None
        names = " and ".join(f"`{name}`" for name in self._exclusive.names)
        message = f"{names} are not accepted together: {self._exclusive.reason}."
        return Denied("invalid_request", message, self._exclusive.names[0])

    def _ambiguous(self, body: dict[str, Any]) -> Denied | None:
        if self._one_of is None:
            return None
        given = {name for form in self._one_of.sets for name in form if body.get(name) is not None}
        if given in self._one_of.sets:
            return None
        forms = ", or ".join(" and ".join(f"`{name}`" for name in sorted(form)) for form in self._one_of.sets)
        return Denied("invalid_request", f"The body must carry {forms}.", min(given, default=None))


def _schema(row: Field) -> dict[str, Any]:
    return msgspec.json.schema(row.type, schema_hook=lambda kind: {"const": kind is MustBeTrue})


def _is_free_text(row: Field) -> bool:
    """Whether nothing in this field has a length that counts, by the schema of its type."""
    schema = msgspec.json.encode(_schema(row))
    patterns = set(re.findall(rb'"pattern":"(.*?)"', schema))
    return row.max_bytes is None and b'"maxLength"' not in schema and patterns <= {b"^data:"}


def _takes_any_numbers(row: Field) -> bool:
    """Whether each list of whole numbers in this field takes as many as come, and each that 63 bits hold."""
    if row.max_bytes is not None:
        return False
    nodes: list[Any] = [_schema(row)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes += node
        if not isinstance(node, dict):
            continue
        nodes += node.values()
        items = node.get("items")
        if isinstance(items, dict):
            for kind in (items, *items.get("anyOf", ())):
                bounds = (kind.get("minimum", 0), kind.get("maximum", INT64_MAX))
                if kind.get("type") == "integer" and ("maxItems" in node or bounds != (0, INT64_MAX)):
                    return False
    return True


def _member(row: Field) -> Any:
    return Required[row.type] if row.required else row.type | None


def _switch(kind: type, value: object) -> MustBeFalse | MustBeTrue:
    if kind is MustBeFalse and value is False:
        return MustBeFalse()
    if kind is MustBeTrue and value is True:
        return MustBeTrue()
    raise ValueError(f"must be {'false' if kind is MustBeFalse else 'true'} or left out")


def _mistyped(complaint: str) -> Denied:
    """Msgspec's words, with the place in front: `messages[0].content`."""
    place = _PLACE.search(complaint)
    path = place.group(1) if place else ""
    text = complaint[: place.start()] if place else complaint
    name = re.split(r"[.\[]", path, maxsplit=1)[0] or None
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing and name is None:
        name = missing.group(1)
        return Denied("invalid_request", f"`{name}` is missing.", name)
    if text.startswith(_NO_SUCH_VALUE) and len(text) > MAX_SHOWN:
        text = _NO_SUCH_VALUE
    if "^data:" in text:
        text = "media must come in the request, as a data: URL"
    told = f"`{path}`: {text}."
    if not told.isprintable() or len(told) > MAX_TOLD:
        told = f"`{name}` has a key or a value that is not accepted here."
    return Denied("invalid_request", told, name)


def _excess(row: Field, value: Any, limits: settings.Request) -> str | None:
    if row.cap is not None and _is_mixed(value):
        return "may hold texts or token ids and not both"
    if row.cap is not None and _count(value) > (most := getattr(limits, row.cap)):
        return f"may be {most} at most here"
    if row.max_bytes is not None:
        if len(msgspec.json.encode(value)) > row.max_bytes:
            return f"may be {row.max_bytes} bytes long at most"
        if _deeper(value, MAX_DEPTH):
            return f"may be nested {MAX_DEPTH} levels deep at most"
    return None


def _count(value: Any) -> int:
    """A number itself; of a list its length, but one list of token ids is one prompt."""
    if isinstance(value, list):
        return 1 if value and set(map(type, value)) == {int} else len(value)
    return value if isinstance(value, int) else 1


def _is_mixed(value: Any) -> bool:
    return isinstance(value, list) and len(kinds := set(map(type, value))) > 1 and int in kinds


def _off(value: Any) -> bool:
    return value is None or value is False  # and not 0, which is a number


def _deeper(value: Any, levels: int) -> bool:
    layer: Sequence[Any] = [value]
    for _ in range(levels):
        inside = [one for one in layer if isinstance(one, dict | list)]
        if not inside:
            return False
        layer = [child for one in inside for child in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, dict | list) for one in layer)
