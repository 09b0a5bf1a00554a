"""Rows of a mixed batch that belong to the base model stay what they are (vllm-project/vllm#48421)."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hubgate.backend.plugin.vllm_48421 import spare_in

pytestmark = pytest.mark.engine  # and PyTorch is imported where it is used: every module is collected

INDICES = [-1, 0, 1, -1, 0]  # five requests: the base's are -1
SLOTS, RANK, WIDTH = 2, 4, 6


def _kernels() -> ModuleType:
    """A copy of vLLM's own file, without the rest of vLLM."""
    found = importlib.util.find_spec("vllm")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0], "lora", "ops", "torch_ops", "lora_ops.py")
    spec = importlib.util.spec_from_file_location("lora_ops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mended() -> ModuleType:
    module = _kernels()
    spare_in(module)
    spare_in(module, None)  # harmless when repeated
    return module


def _call(module: ModuleType, name: str, indices: list[int], slots: Any) -> Any:
    """What becomes of an output of ones: as vLLM calls its kernels, for prefill and decode."""
    import torch

    torch.manual_seed(1)
    wide, narrow = torch.randn(len(indices), WIDTH), torch.randn(len(indices), RANK)
    at = torch.tensor(indices)
    each = torch.ones(len(indices), dtype=torch.long)
    prefill = (torch.arange(len(indices)), each, at, len(indices), 1, len(indices))
    output = torch.ones(len(indices), RANK if "shrink" in name else WIDTH)
    spans = prefill if name.startswith("sgmv") else (at,)
    match name.partition("_")[2]:
        case "shrink":
            getattr(module, name)(wide, slots.transpose(-1, -2), output, *spans, 2.0)
        case "expand":
            getattr(module, name)(narrow, slots, output, *spans, True)  # noqa: FBT003
        case "expand_slice":
            getattr(module, name)(narrow, slots, output, *spans, 0, WIDTH, True)  # noqa: FBT003
    return output


def _slots() -> Any:
    import torch

    torch.manual_seed(2)
    return torch.randn(SLOTS, 1, WIDTH, RANK)


ALL = [f"{kind}_{name}" for kind in ("bgmv", "sgmv") for name in ("shrink", "expand", "expand_slice")]


@pytest.mark.parametrize("name", ALL)
def test_rows_of_the_base_are_left_alone_and_others_are_as_ever(mended: ModuleType, name: str) -> None:
    """In a mixed batch the base's rows come out as they went in; the adapters' as vLLM computes them."""
    import torch

    base = [row for row, slot in enumerate(INDICES) if slot < 0]
    others = [row for row, slot in enumerate(INDICES) if slot >= 0]
    got = _call(mended, name, INDICES, _slots())
    assert torch.equal(got[base], torch.ones_like(got[base]))
    assert torch.equal(got[others], _call(_kernels(), name, INDICES, _slots())[others])


@pytest.mark.parametrize("name", ALL)
def test_no_weight_reaches_a_row_of_the_base(mended: ModuleType, name: str) -> None:
    """An adapter whose weights are infinite spoils nobody's answer but its own."""
    import torch

    got = _call(mended, name, INDICES, torch.full((SLOTS, 1, WIDTH, RANK), torch.inf))
    assert torch.equal(got[0], torch.ones_like(got[0]))
    assert not torch.isfinite(got[1]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("indices", [[-1], [-1, -1, -1], [0], [1, 0, 1]])
def test_batches_of_one_kind(mended: ModuleType, name: str, indices: list[int]) -> None:
    """Without adapters nothing happens; with nothing else, what vLLM does."""
    import torch

    got = _call(mended, name, indices, _slots())
    untouched = torch.ones_like(got)
    assert torch.equal(got, untouched if indices[0] < 0 else _call(_kernels(), name, indices, _slots()))


@pytest.mark.parametrize("name", ALL)
def test_vllm_still_needs_mending(name: str) -> None:
    """When this fails, the vLLM that is installed has it right itself: take `vllm_48421` out."""
    import torch

    got = _call(_kernels(), name, INDICES, _slots())
    assert not torch.equal(got[0], torch.ones_like(got[0]))
