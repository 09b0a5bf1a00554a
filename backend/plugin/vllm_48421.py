"""Keeps adapters away from the base model's callers where vLLM's CPU kernels do not.

A batch mixes callers. Its rows carry the slot of their adapter, and -1 for "none", which the Triton
kernels of GPUs leave alone. vLLM 0.32's kernels for the CPU use it as an index, and Python's last
element is the adapter in the last slot: whoever asks for the base at the same time as another for an
adapter is answered with that (vllm/lora/ops/torch_ops/lora_ops.py; vllm-project/vllm#48421).
"""

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

KERNELS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")  # the others call these
_OPS = "vllm.lora.ops.torch_ops"

Kernel = Callable[..., None]


def apply_workaround() -> None:
    """Spare the base's rows in this process of vLLM's, whether its kernels are imported yet or not."""
    from vllm.lora.ops import torch_ops  # noqa: PLC0415 - this file is read where no vLLM is
    from vllm.lora.ops.torch_ops import lora_ops  # noqa: PLC0415

    spare_in(lora_ops, torch_ops, sys.modules.get("vllm.lora.punica_wrapper.punica_cpu"))


def spare_in(first: ModuleType, *others: ModuleType | None) -> None:
    """Replace the kernels of a module, under the same names in the others that imported them."""
    for name in KERNELS:
        kernel = getattr(first, name)
        if not hasattr(kernel, "__wrapped__"):
            kernel = sparing(kernel)
        for module in (first, *others):
            if module is not None:
                setattr(module, name, kernel)


def sparing(kernel: Kernel) -> Kernel:
    """The same kernel, whose rows without an adapter come out as they went in."""

    @functools.wraps(kernel)
    def spared(inputs: Any, weights: Any, output: Any, indices: Any, *how: Any, **more: Any) -> None:
        bare = indices < 0
        if bare.all():
            return
        if not bare.any():
            kernel(inputs, weights, output, indices, *how, **more)
            return
        rows = bare.nonzero().squeeze(1)
        rows = rows[rows < output.shape[0]]
        before = output[rows].clone()
        kernel(inputs, weights, output, indices, *how, **more)
        output[rows] = before  # put back, not masked: a weight may be infinite, and 0 x inf is none

    return spared
