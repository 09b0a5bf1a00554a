"""Reads a program's YAML configuration, with overrides from the environment, and says every fault."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hubgate.wire.file_faults import unreadable

PREFIX = "HUBGATE_"


class ConfigError(Exception):
    """The configuration cannot be used. `faults` names each, as `path.to.key: what is wrong`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,  # an endless life of an answer would never see a revocation
    )


class Settings(BaseSettings):
    """A whole configuration. `HUBGATE_HUB__TIMEOUT=3` overrides `hub: {timeout: …}`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @classmethod
    def misplaced(cls, values: Mapping[str, Any]) -> list[str]:
        """Faults of what stands in the YAML file itself: secrets come from elsewhere."""
        del values
        return []


AnySettings = TypeVar("AnySettings", bound=Settings)


def load(kind: type[AnySettings], path: Path) -> AnySettings:
    """Read the file at `path`. Raises `ConfigError` with every fault at once, and no values in it."""
    values = _read(path)
    faults = [*_unknown_overrides(kind), *kind.misplaced(values)]
    try:
        settings = kind(**values)
    except ValidationError as error:
        faults += [_fault(dict(fault)) for fault in error.errors(include_input=False, include_url=False)]
    except ValueError as error:  # an override that is no JSON where a list or mapping is due
        faults.append(str(error).partition("\n")[0])
    if faults:
        raise ConfigError(faults)
    return settings


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a fault and not a silent choice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        own = (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge")  # `<<: *anchor`
        keys = [self.construct_object(key, deep=True) for key in own]
        doubled = {str(key) for key in keys if keys.count(key) > 1}
        if doubled:
            raise ConfigError([f"{key}: stands twice" for key in sorted(doubled)])
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        # A SafeLoader all the same; ruff knows only the shorter spelling.
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except OSError as error:
        raise ConfigError([unreadable(path, error)]) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError([f"{path}: is not YAML{line}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError([f"{path}: must be a mapping of keys to values"])
    return values


def _unknown_overrides(kind: type[Settings]) -> list[str]:
    """Faults of nested overrides that match no key: a typing error must not pass in silence."""
    names = (name for name in os.environ if name.startswith(PREFIX) and "__" in name)
    known = {field.upper() for field in kind.model_fields}
    return [
        f"{name}: overrides no key of this configuration"
        for name in sorted(names)
        if name.removeprefix(PREFIX).partition("__")[0].upper() not in known
    ]


def _fault(error: dict[str, Any]) -> str:
    parts = (str(part) for part in error["loc"])  # in brackets: which kind of entry it is, and no key
    where = ".".join(part for part in parts if not part.startswith("(")) or "configuration"
    what = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(error["type"], error["msg"])
    return f"{where}: {what.removeprefix('Value error, ')}"
