"""What holds for every test: nothing of this machine's environment reaches one."""

import os

import pytest
from hypothesis import settings

# Machines under load are slow; a test's own timeout is the judge of that, not hypothesis. The same
# examples in every run: a gate must not fail by chance. `--hypothesis-seed` draws others.
settings.register_profile("hubgate", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("hubgate")

_OURS = ("HUBGATE_", "HF_", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take overrides and tokens out of the environment."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)
