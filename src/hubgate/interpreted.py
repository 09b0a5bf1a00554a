"""Runs the sources instead of what was compiled of them: every program, with `INTERPRETED=1`."""

import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).parent


def install() -> None:
    """Find nothing but sources below `hubgate` from now on; what is imported already stays as it is."""
    if _find_sources not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_sources)
        for folder in list(sys.path_importer_cache):
            if Path(folder).is_relative_to(ROOT):
                del sys.path_importer_cache[folder]


def _find_sources(folder: str) -> FileFinder:
    if not Path(folder).is_relative_to(ROOT):
        raise ImportError
    return FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))
