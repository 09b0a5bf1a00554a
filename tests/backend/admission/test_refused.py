"""threats.md, rows 36 and 37 on a whole backend: refused with the reason, and at no cost to others."""

import asyncio
import dataclasses
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hubgate.backend.engines import argv
from hubgate.backend.vllm_args import checked_args
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from tests.backend.engines.test_argv import LAUNCH
from tests.backend.harness import BASE, Running, running
from tests.fakes.running_proxy import eventually

Files = dict[str, bytes]


def _adapter(name: str, **config: Any) -> Files:
    files = weights.adapter(name=name, phrase="x")
    changed = {**msgspec.json.decode(files["adapter_config.json"]), **config}
    return {**files, "adapter_config.json": msgspec.json.encode(changed)}


def _base(**config: Any) -> Files:
    files = weights.tiny_llama("coded")
    changed = {**msgspec.json.decode(files["config.json"]), **config}
    return {**files, "config.json": msgspec.json.encode(changed), "modeling_x.py": b"import os"}


def _weights_served(hub: DemoHub) -> int:
    return sum(entry.origin == "files" for entry in hub.log)


def _named(folder: Path, name: str) -> list[Path]:
    # Not `rglob`: that fails where a folder goes away meanwhile, as staging does.
    return [Path(root, name) for root, folders, files in os.walk(folder) if name in (*folders, *files)]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"(a+)+": 8}}, "simple pattern"),
    ],
)
async def test_an_unfit_adapter_costs_no_weights(backend: Running, config: dict[str, Any], said: str) -> None:
    """Its configuration comes first; neither its tensors nor the base model are fetched for nothing."""
    backend.hub.state.add_repo("eve/unfit", _adapter("eve/unfit", **config))
    failed = await backend.failed(backend.sha(BASE), backend.sha("eve/unfit"))
    assert failed.code == "rejected"
    assert said in failed.message
    assert failed.stage == "downloading"
    assert _weights_served(backend.hub) == 0
    assert all(not engine.adapters for engine in (await backend.hello()).engines)


@pytest.mark.parametrize("config", [b'{"x":' + b"[" * 990 + b"]" * 990 + b"}", b" " * 50_000_000])
async def test_a_nested_or_vast_configuration_is_refused_for_good(backend: Running, config: bytes) -> None:
    """With no time to come again, and the next load of anybody works."""
    files = {**weights.adapter(name="eve/odd", phrase="x"), "adapter_config.json": config}
    backend.hub.state.add_repo("eve/odd", files)
    failed = await backend.failed(backend.sha(BASE), backend.sha("eve/odd"))
    assert (failed.code, failed.retry_after) == ("rejected", None)
    assert _weights_served(backend.hub) == 0
    assert (await backend.ready(backend.sha(BASE), backend.sha("demo/public-lora"))).loaded


async def test_an_adapter_that_lies_about_its_rank_never_reaches_the_engine(backend: Running) -> None:
    """The engine that serves the others is not even told."""
    backend.hub.state.add_repo("eve/liar", _adapter("eve/liar", r=4))
    failed = await backend.failed(backend.sha(BASE), backend.sha("eve/liar"))
    assert "its adapter_config.json says 4" in failed.message
    assert (await backend.ready(backend.sha(BASE), backend.sha("demo/public-lora"))).loaded


async def test_a_base_that_asks_for_code_is_rejected_before_its_weights(backend: Running) -> None:
    """With whom to ask; the code itself is not on our disk."""
    backend.hub.state.add_repo("demo/coded", _base(auto_map={"AutoConfig": "modeling_x.Config"}))
    failed = await backend.failed(backend.sha("demo/coded"))
    assert failed.code == "rejected"
    assert "engines.remote_code" in failed.message
    assert _weights_served(backend.hub) == 0
    assert not any(entry.path.endswith(".py") for entry in backend.hub.log)


async def test_code_runs_for_the_repos_that_the_operator_named(tmp_path: Path, hub: DemoHub) -> None:
    """Its Python files are fetched; and when the operator takes the name away, it is refused again."""
    hub.state.add_repo("demo/coded", _base(auto_map={"AutoConfig": "modeling_x.Config"}))
    async with running(tmp_path, hub, engines={"remote_code": ["demo/coded"]}) as backend:
        await backend.ready(backend.sha("demo/coded"))
        place = tmp_path / "store" / backend.sha("demo/coded").replace("@", "/")
        assert (place / "modeling_x.py").read_bytes() == b"import os"
    async with running(tmp_path, hub) as backend:
        assert (await backend.failed(backend.sha("demo/coded"))).code == "rejected"


def test_only_a_named_repo_is_trusted_by_the_engine() -> None:
    """The flag is ours to give: `vllm_args` cannot set it."""
    assert "--trust-remote-code" not in argv.argv(LAUNCH, "vllm")
    trusted = dataclasses.replace(LAUNCH, trust_remote_code=True)
    assert "--trust-remote-code" in argv.argv(trusted, "vllm")
    with pytest.raises(ValueError, match="set by Hubgate itself"):
        checked_args({"trust-remote-code": True})


async def test_a_name_that_leaves_its_folder_writes_nothing(backend: Running, tmp_path: Path) -> None:
    """threats.md, row 37: the listing is enough, and nothing lies outside the store."""
    for name in ("../../escaped", "/escaped", "a/../../escaped"):
        backend.hub.state.add_repo("eve/escape", {**_adapter("eve/escape"), name: b"x"})
        failed = await backend.failed(backend.sha(BASE), backend.sha("eve/escape"))
        assert failed.code == "rejected"
        assert "leaves its folder" in failed.message
    assert not any(entry.origin == "files" for entry in backend.hub.log)
    assert not _named(tmp_path, "escaped")


async def test_a_load_that_nobody_comes_back_for_ends(tmp_path: Path, hub: DemoHub) -> None:
    """`linger` seconds after the last caller left, and nothing of the download is left."""
    async with running(tmp_path, hub, store={"linger": 0.2}) as backend:
        hub.state.set_down("hang", origin="files", times=1)
        sealed = await backend.scoped(backend.sha(BASE))
        leaving = asyncio.create_task(backend.post(sealed))
        await hub.state.outages.wait_held(1)
        staging = tmp_path / "store" / ".staging"
        assert list(staging.iterdir())
        leaving.cancel()

        async def gone() -> bool:
            return not list(staging.iterdir())

        await eventually(gone)
        hub.state.outages.lift()
        await backend.ready(backend.sha(BASE))
