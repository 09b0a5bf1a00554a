"""The exposition: ours and the engines', without the names of adapters."""

from hubgate.backend.metrics import Metrics
from hubgate.wire.control_api import EngineQueue

QUEUE = EngineQueue(seats=64, taken=65, waiting=3, longest_wait=1.5)

ENGINE = """
# HELP vllm:num_requests_running Number of requests.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo/base"} 3.0
# HELP vllm:request_success_total Count of successes.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop"} 7.0
# HELP vllm:lora_requests_info Running stats on lora requests.
# TYPE vllm:lora_requests_info gauge
vllm:lora_requests_info{max_lora="2",running_lora_adapters="alice/secret-lora@1",waiting_lora_adapters=""} 1.0
# HELP vllm:some_later_counter_total A version to come may name adapters elsewhere.
# TYPE vllm:some_later_counter_total counter
vllm:some_later_counter_total{lora_name="alice/secret-lora@1",model_name="alice/secret-lora@1"} 1.0
# HELP python_gc_objects_collected_total Objects collected during gc
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total{generation="0"} 1.0
"""


def _metrics() -> Metrics:
    metrics = Metrics()
    metrics.observe(
        lambda: ["ready", "ready", "starting"], lambda: 5, lambda: 1000, lambda: {"gpu-0/0": QUEUE}
    )
    return metrics


def test_the_engines_series_are_told_apart() -> None:
    """One family each, with a label that does not collide with vLLM's own `engine`."""
    configured = {"gpu-0/0": "demo/base", "gpu-0/1": "demo/base"}
    text = _metrics().render({"gpu-0/0": ENGINE, "gpu-0/1": ENGINE}, configured).decode()
    for engine in ("gpu-0/0", "gpu-0/1"):
        line = f'vllm:num_requests_running{{engine="0",hubgate_engine="{engine}",model_name="demo/base"}} 3.0'
        assert line in text
    assert text.count("# TYPE vllm:request_success_total counter") == 1
    assert (
        'vllm:request_success_total{engine="0",finished_reason="stop",hubgate_engine="gpu-0/0"} 7.0' in text
    )


def test_no_adapter_is_named_and_nothing_but_vllm_passes() -> None:
    """threats.md, row 29, and nobody reads in a dashboard who has which private adapter."""
    text = _metrics().render({"gpu-0/0": ENGINE}).decode()
    assert "secret-lora" not in text
    assert "lora_requests_info" not in text
    assert "python_gc" not in text


def test_only_configured_models_are_named() -> None:
    """On demand there is no end of names: the engine tells them apart, and engines are few."""
    texts = {"gpu-0/0": ENGINE, "gpu-0/1": ENGINE.replace("demo/base", "eve/anything@" + "a" * 40)}
    lines = _metrics().render(texts, {"gpu-0/0": "demo/base"}).decode()
    assert 'engine="gpu-0/0",model_name="demo/base"} 3.0' in lines
    assert 'vllm:num_requests_running{engine="0",hubgate_engine="gpu-0/1",model_name=""} 3.0' in lines
    assert "eve/" not in lines


def test_our_own_series() -> None:
    """The names and labels of the design."""
    metrics = _metrics()
    metrics.downloaded("adapter", "ok", 100, 2.0)
    metrics.downloaded("adapter", "store_full", 0, 0.1)
    metrics.cold_start("base", "ok")
    metrics.engine_ended("hung")
    metrics.evicted("adapter", "own")
    text = metrics.render({}).decode()
    for line in (
        'hubgate_downloads_total{kind="adapter",result="ok"} 1.0',
        'hubgate_downloads_total{kind="adapter",result="error"} 1.0',
        'hubgate_download_bytes_total{kind="adapter"} 100.0',
        'hubgate_download_seconds_count{kind="adapter"} 2.0',
        'hubgate_cold_starts_total{kind="base",result="ok"} 1.0',
        'hubgate_engine_ends_total{reason="hung"} 1.0',
        "hubgate_adapters_evicted_total 1.0",
        'hubgate_evictions_total{what="adapter",why="own"} 1.0',
        'hubgate_engines{state="ready"} 2.0',
        'hubgate_engines{state="failed"} 0.0',
        "hubgate_adapters_loaded 5.0",
        "hubgate_store_bytes 1000.0",
    ):
        assert line in text


def test_the_queue_of_each_engine_is_told() -> None:
    """Its seats, how many are taken, how many requests wait, and for how long the first one has."""
    lines = _metrics().render({}).decode()
    for name, value in (
        ("seats", 64),
        ("seats_taken", 65),
        ("waiting_requests", 3),
        ("longest_wait_seconds", 1.5),
    ):
        assert f'hubgate_engine_{name}{{hubgate_engine="gpu-0/0"}} {float(value)}' in lines
