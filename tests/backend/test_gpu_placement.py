"""Which devices an engine gets, and what can never run, found before anything starts."""

import pytest

from hubgate.backend.gpu_placement import Need, faults, fitting, need, split, used


def test_needs_are_read_from_the_flags() -> None:
    """The share is 0.92 by default, as in vLLM; the sizes of all kinds of parallelism multiply."""
    assert need("x", {}) == Need("x", 1, 0.92)
    args = {"tensor-parallel-size": 2, "pipeline-parallel-size": 3, "gpu-memory-utilization": 0.5}
    assert need("x", args) == Need("x", 6, 0.5)


@pytest.mark.parametrize("args", [{"distributed-executor-backend": "ray"}, {"nnodes": 2}])
def test_workers_on_other_machines_are_not_counted(args: dict[str, int | str]) -> None:
    """Ray finds their devices by itself."""
    assert need("x", {"tensor-parallel-size": 16, **args}).devices is None


@pytest.mark.parametrize(
    "args",
    [
        {"tensor-parallel-size": 0}, {"tensor-parallel-size": "2"}, {"pipeline-parallel-size": True},
        {"gpu-memory-utilization": 0}, {"gpu-memory-utilization": 92}, {"gpu-memory-utilization": True},
    ],
)  # fmt: skip
def test_sizes_that_are_none_are_refused(args: dict[str, int | str | bool]) -> None:
    """The message says whose they are."""
    with pytest.raises(ValueError, match=r"preload a/b: (tensor|pipeline|gpu)"):
        need("preload a/b", dict(args))


def test_a_model_gets_the_smallest_slot_that_is_large_enough() -> None:
    """The large one is left for those who need it; slots of unknown devices fit all."""
    slots = [("0", "1"), ("2",), ("3", "4")]
    assert fitting(slots, Need("x", 1, 0.9)) == [1, 0, 2]
    assert fitting(slots, Need("x", 2, 0.9)) == [0, 2]
    assert fitting(slots, Need("x", 4, 0.9)) == []
    assert fitting([(), ()], Need("x", 4, 0.9)) == [0, 1]


def test_an_engine_uses_the_first_devices_of_its_slot() -> None:
    """As vLLM takes them."""
    assert used(("4", "5"), Need("x", 1, 0.9)) == ("4",)
    assert used(("4", "5"), Need("x", None, 0.9)) == ("4", "5")


def test_devices_are_split_as_cuda_reads_them() -> None:
    """Spaces do not count."""
    assert split("0, 1,GPU-a") == ("0", "1", "GPU-a")


def test_a_model_that_no_slot_can_hold_is_a_fault() -> None:
    """Each one is named."""
    wide = need("preload a/b", {"tensor-parallel-size": 4})
    said = faults([("0", "1")], [wide], [need("on_demand c/*", {"pipeline-parallel-size": 3})])
    assert said == [
        "preload a/b wants 4 devices at once, and no slot has as many",
        "on_demand c/* wants 3 devices at once, and no slot has as many",
    ]


def test_engines_that_share_a_device_must_fit_it_together() -> None:
    """By the largest shares that can meet there."""
    half, most, little = Need("half", 1, 0.5), Need("most", 1, 0.92), Need("little", 1, 0.3)
    shared = [("0",), ("0",)]
    assert not faults(shared, [], [half])
    assert not faults([("0",), ("1",)], [], [most])
    assert "device 0 is shared by 2 engines, which want 1.84" in faults(shared, [], [most])[0]
    # Preloaded models run once each: their own shares count, and what is left is on demand.
    assert not faults(shared, [Need("six", 1, 0.6), little], [])
    assert not faults(shared, [Need("six", 1, 0.6), little], [most])
    assert faults(shared, [little], [most])


def test_a_device_that_is_taken_whole_leaves_nothing_for_sleepers() -> None:
    """A little of its memory stays with each; how much, only vLLM knows."""
    assert not faults([("0",)], [], [Need("most", 1, 0.92)], asleep=2)
    assert "device 0 has no memory left" in faults([("0",)], [], [Need("all", 1, 1.0)], asleep=1)[0]
    assert not faults([("0",)], [], [Need("all", 1, 1.0)])


def test_only_devices_that_are_really_taken_are_shared() -> None:
    """Two engines see both devices, and each takes the first."""
    assert len(faults([("0", "1"), ("0", "1")], [], [Need("x", 1, 0.92)])) == 1
    assert not faults([("0", "1"), ("1", "0")], [], [Need("x", 1, 0.92)])
