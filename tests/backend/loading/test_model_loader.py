"""From a scoped token to a warm model, with a real Hub client in the workers and fake engines."""

import asyncio
import re
import shutil
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from hubgate.backend.downloads import worker_pool
from hubgate.demo import weights
from hubgate.demo.hub import DemoHub
from hubgate.wire.control_api import Download, Evicted, Progress
from tests.backend.harness import BASE, Running, running
from tests.fakes.running_proxy import eventually

PIRATE = "alice/pirate-lora"
PUBLIC = "demo/public-lora"


def _files_asked(hub: DemoHub) -> int:
    return sum("/resolve/" in entry.path for entry in hub.log)


def _stored(tmp_path: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tmp_path / "store")) for path in (tmp_path / "store").glob("[!.]*/*/*")
    )


async def test_a_cold_adapter_becomes_warm(backend: Running, tmp_path: Path) -> None:
    """Base and adapter are fetched and loaded once; what was fetched is told, byte for byte."""
    base, adapter = backend.sha(BASE), backend.sha(PIRATE)
    ready = await backend.ready(base, adapter)
    assert ready.loaded
    assert ready.engine.state == "ready"
    assert ready.engine.adapters == (adapter,)
    assert {(d.repo, d.kind) for d in ready.downloads} == {(base, "base"), (adapter, "adapter")}
    for download in ready.downloads:
        path = tmp_path / "store" / download.repo.replace("@", "/")
        assert download.bytes == sum(file.stat().st_size for file in path.iterdir())
        assert download.seconds > 0
    assert (await backend.use(ready.engine, adapter))[0] == 200
    assert (await backend.use(ready.engine, base))[0] == 200
    (told,) = (await backend.hello()).engines
    assert msgspec.structs.replace(told, queue=None) == msgspec.structs.replace(ready.engine, queue=None)
    # A second caller causes no byte and no load, and the audit says so.
    asked = len(backend.hub.log)
    again = await backend.ready(base, adapter, who="bob")
    assert (again.loaded, again.downloads) == (False, ())
    assert len(backend.hub.log) == asked


async def test_the_store_survives_a_restart(tmp_path: Path, hub: DemoHub) -> None:
    """What was downloaded once is not downloaded again."""
    async with running(tmp_path, hub) as backend:
        base, adapter = backend.sha(BASE), backend.sha(PIRATE)
        await backend.ready(base, adapter)
        boot = (await backend.hello()).boot
    asked = _files_asked(hub)
    async with running(tmp_path, hub) as backend:
        ready = await backend.ready(base, adapter)
        assert (await backend.hello()).boot != boot
    assert (ready.loaded, ready.downloads) == (True, ())
    assert _files_asked(hub) == asked


async def test_what_a_killed_backend_left_on_the_disk_is_used(tmp_path: Path, hub: DemoHub) -> None:
    """A store as SIGKILL leaves it, in the middle of another download: nothing is fetched again."""
    async with running(tmp_path, hub) as backend:
        base, adapter = backend.sha(BASE), backend.sha(PIRATE)
        await backend.ready(base, adapter)
        half = tmp_path / "store" / ".staging" / "half" / "content"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes(b"half")
        shutil.copytree(tmp_path / "store", tmp_path / "left" / "store")
    asked = _files_asked(hub)
    async with running(tmp_path / "left", hub) as backend:
        ready = await backend.ready(base, adapter)
    assert (ready.loaded, ready.started, ready.downloads) == (True, True, ())
    assert _files_asked(hub) == asked
    assert not (tmp_path / "left" / "store" / ".staging" / "half").exists()


async def test_an_unfit_adapter_is_rejected_with_the_reason(backend: Running) -> None:
    """threats.md, row 36: the engine never hears of it."""
    reasons = {
        "demo/pickle-lora": "pickle",
        "demo/wrong-base-lora": "made for another base model: a module is 128x256 there and 64x128 here",
    }
    for repo, said in reasons.items():
        failed = await backend.failed(backend.sha(BASE), backend.sha(repo))
        assert failed.code == "rejected"
        assert said in failed.message
        assert failed.repo == backend.sha(repo)
    assert all(not engine.adapters for engine in (await backend.hello()).engines)


async def test_a_pickle_is_rejected_before_its_first_byte(backend: Running) -> None:
    """The listing is enough, and no base model is fetched for it either."""
    await backend.failed(backend.sha(BASE), backend.sha("demo/pickle-lora"))
    assert _files_asked(backend.hub) == 0


async def test_hostile_adapters_are_rejected(backend: Running) -> None:
    """Code, lies, nonsense and size."""
    hostile: dict[str, tuple[dict[str, bytes], str]] = {
        "eve/code": ({"handler.py": b"import os"}, "Python code"),
        "eve/lie": ({"adapter_model.safetensors": b"\xff" * 64}, "malformed"),
        "eve/nonsense": ({"adapter_config.json": b"[]"}, "adapter_config.json"),
        "eve/huge": ({"adapter_model.safetensors": bytes(10**7)}, "10000000 are allowed"),
    }
    for repo, (files, said) in hostile.items():
        backend.hub.state.add_repo(repo, {**weights.adapter(name=repo, phrase="x"), **files})
        failed = await backend.failed(backend.sha(BASE), backend.sha(repo))
        assert failed.code == "rejected"
        assert said in failed.message


async def test_a_token_that_may_not_read_fetches_nothing(backend: Running, tmp_path: Path) -> None:
    """The download asks with the caller's own token, so the Hub decides once more."""
    base = backend.sha(BASE)
    assert (await backend.failed(base, backend.sha(PIRATE), "bob")).code == "not_found"
    assert (await backend.failed(base, None, "pending")).code == "denied"
    assert (await backend.failed(base, None, "expired")).code == "denied"
    assert (await backend.failed(f"{BASE}@{'0' * 40}")).code == "not_found"
    assert _stored(tmp_path) == []


async def test_what_the_backend_does_not_run_is_not_even_listed(backend: Running) -> None:
    """`on_demand` is asked before the Hub."""
    asked = len(backend.hub.log)
    failed = await backend.failed(f"other/model@{'0' * 40}", backend.sha(PIRATE))
    assert failed.code == "no_capacity"
    assert len(backend.hub.log) == asked


async def test_an_absent_hub_is_said_with_a_time(backend: Running) -> None:
    """Fail closed, and tell when to come again."""
    for mode in ("503", "429", "disconnect"):
        sealed = await backend.scoped(backend.sha(BASE))
        backend.hub.state.set_down(mode)
        _, events = await backend.post(sealed)
        assert events[-1].code == "hub_unavailable"
        assert 1 <= events[-1].retry_after <= 120


async def test_a_cut_download_logs_no_link(backend: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub's signed link opens a private file to whoever holds it; a broken download never logs it."""
    said: list[str] = []
    monkeypatch.setattr(worker_pool.log, "warning", lambda event, **fields: said.append(f"{event} {fields}"))
    backend.hub.state.set_down("cut", origin="files", after_bytes=1000, times=1)
    await backend.post(await backend.scoped(backend.sha(BASE), backend.sha(PIRATE)))
    assert any(entry.origin == "files" for entry in backend.hub.log)
    assert not [line for line in said if "signature" in line or "://" in line]


async def test_a_full_store_is_said(tmp_path: Path, hub: DemoHub) -> None:
    """Nothing that is in use goes."""
    async with running(tmp_path, hub, store={"max_bytes": 600_000, "max_model_bytes": 600_000}) as backend:
        hub.state.add_repo("demo/second", weights.tiny_llama("second"))
        await backend.ready(backend.sha(BASE))
        failed = await backend.failed(backend.sha("demo/second"))
    assert failed.code == "store_full"


async def test_a_file_that_is_not_what_was_listed_is_refused(backend: Running, tmp_path: Path) -> None:
    """Plain HTTP checks sizes only; we check hashes."""
    repo = backend.hub.state.repos[PUBLIC]
    blob = next(iter(repo.commits.values())).files["adapter_model.safetensors"]
    flipped = blob.content[:-1] + bytes([blob.content[-1] ^ 1])
    object.__setattr__(blob, "content", flipped)
    failed = await backend.failed(backend.sha(BASE), backend.sha(PUBLIC))
    assert failed.code == "error"
    assert "differs" in failed.message
    assert _stored(tmp_path) == []


async def test_a_download_for_an_engine_shows_in_the_metrics(backend: Running) -> None:
    """As an engine of that state, and an adapter's does not."""
    backend.hub.state.set_down("hang", origin="files")
    waiting = asyncio.create_task(backend.ensure(backend.sha(BASE), backend.sha(PUBLIC)))

    async def downloading(count: int) -> bool:
        return f'hubgate_engines{{state="downloading"}} {count}.0' in await backend.metrics()

    async def adapter_asked() -> bool:
        return _files_asked(backend.hub) > 0

    await eventually(adapter_asked)
    assert await downloading(0)
    waiting.cancel()
    other = asyncio.create_task(backend.ensure(backend.sha(BASE)))
    await eventually(lambda: downloading(1))
    other.cancel()


async def test_many_callers_cause_one_download(backend: Running) -> None:
    """Single flight: the bytes of each file once, and only one of them is told that it fetched."""
    base, adapter = backend.sha(BASE), backend.sha(PUBLIC)
    readies = await asyncio.gather(*(backend.ready(base, adapter) for _ in range(8)))
    assert sum(len(ready.downloads) for ready in readies) == 2
    assert sum(ready.loaded for ready in readies) == 1
    asked = [entry.path for entry in backend.hub.log if entry.method == "GET" and "/resolve/" in entry.path]
    assert len(asked) == len(set(asked))


async def test_a_denied_caller_does_not_spoil_it_for_another(backend: Running) -> None:
    """Each is served by their own right, whoever came first."""
    base, adapter = backend.sha(BASE), backend.sha(PIRATE)
    denied, ready = await asyncio.gather(
        backend.ensure(base, adapter, who="bob"), backend.ensure(base, adapter, who="alice")
    )
    assert getattr(denied, "code", "") in {"not_found", ""}
    assert getattr(ready, "loaded", None) is not None


async def test_a_load_goes_on_when_its_caller_leaves(backend: Running) -> None:
    """It is not lost: whoever comes back finds it warm."""
    base, adapter = backend.sha(BASE), backend.sha(PUBLIC)
    sealed = await backend.scoped(base, adapter)
    async with backend.asked(sealed) as answer:
        assert b"progress" in await answer.content.readline()
    hello = await backend.until_state("ready")
    async with asyncio.timeout(5):
        while not (await backend.hello()).engines[0].adapters:  # noqa: ASYNC110  # it is not of this task
            await asyncio.sleep(0.05)
    assert hello.engines[0].base == base


async def test_progress_is_told_while_it_lasts(tmp_path: Path, hub: DemoHub) -> None:
    """Stages in their order, never more bytes than there are, and at most two reports a second."""
    engines = {"vllm_args": {"slow-start": True}}
    async with running(tmp_path, hub, engines=engines) as backend:
        base, adapter = backend.sha(BASE), backend.sha(PUBLIC)
        sealed, started = await backend.scoped(base, adapter), time.monotonic()
        _, events = await backend.post(sealed)
        elapsed = time.monotonic() - started
    progress = [event for event in events if isinstance(event, Progress)]
    assert len(progress) <= 2 * elapsed
    order = ["queued", "downloading", "starting", "loading"]
    stages = [order.index(event.stage) for event in progress]
    assert stages == sorted(stages)
    assert "starting" in {event.stage for event in progress}
    assert all(event.done <= event.total for event in progress if event.total)


async def test_beyond_capacity_the_idlest_adapter_makes_room(backend: Running) -> None:
    """Two places in this backend: the third adapter takes that of the first, files and all."""
    base = backend.sha(BASE)
    names = []
    for number in range(3):
        files = weights.adapter(name=f"demo/lora-{number}", phrase="abc"[number])
        backend.hub.state.add_repo(f"demo/lora-{number}", files)
        names.append(backend.sha(f"demo/lora-{number}"))
        ready = await backend.ready(base, names[-1])
        await backend.use(ready.engine, names[-1])
        await asyncio.sleep(0.02)
    assert set(ready.engine.adapters) == set(names[1:])
    assert ready.evicted == (Evicted(repo=names[0], kind="adapter"),)
    assert (await backend.use(ready.engine, names[0]))[0] == 421
    assert "hubgate_adapters_loaded 2.0" in await backend.metrics()


async def test_busy_adapters_do_not_make_room(backend: Running) -> None:
    """The answer says when to come again."""
    base = backend.sha(BASE)
    async with AsyncExitStack() as busy:
        for number in range(2):
            files = weights.adapter(name=f"demo/lora-{number}", phrase="abc"[number])
            backend.hub.state.add_repo(f"demo/lora-{number}", files)
            name = backend.sha(f"demo/lora-{number}")
            ready = await backend.ready(base, name)
            await busy.enter_async_context(backend.busy(ready.engine, name))
        failed = await backend.failed(base, backend.sha(PUBLIC))
    assert (failed.code, failed.retry_after) == ("no_capacity", 10)


def _environments_and_arguments(ours: str) -> list[str]:
    """Of engines and workers of this test, those of other users left out."""
    seen = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
            if ours.encode() in environ or b"HF_HUB_DISABLE_XET" in environ:
                seen += [environ.decode(), (process / "cmdline").read_bytes().decode()]
        except OSError:
            continue
    return seen


def _contents(folder: Path) -> list[str]:
    return [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]


async def test_no_token_reaches_an_engine(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """threats.md, row 24: neither a caller's nor the service's, in its environment, argv or files."""
    monkeypatch.setenv("HF_TOKEN", hub.token("service"))
    async with running(tmp_path, hub) as backend:
        base, adapter = backend.sha(BASE), backend.sha(PIRATE)
        ready = await backend.ready(base, adapter)
        _, answer = await backend.use(ready.engine, base)
        seen = [str(answer["environ"])]
        seen += _environments_and_arguments(str(tmp_path))
        seen += _contents(tmp_path / "store")
    assert len(seen) >= 5
    assert not [text for text in seen if re.search(r"hf_demo_\w+", text)]


async def test_preloaded_models_use_the_service_token(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment scheme: `main` is resolved once, and the backend is ready when it answers."""
    monkeypatch.setenv("HF_TOKEN", hub.token("service"))
    async with running(tmp_path, hub, engines={"preload": [{"repo": BASE}], "on_demand": []}) as backend:
        await backend.until_state("ready")
        async with backend.session.get(f"{backend.url}/readyz") as response:
            assert response.status == 200
        assert (await backend.hello()).engines[0].base == backend.sha(BASE)
        ready = await backend.ready(backend.sha(BASE), backend.sha(PIRATE))
        other = await backend.failed(f"{BASE}@{'0' * 40}")
    assert isinstance(ready.downloads[0], Download)
    assert "at another commit" in other.message
    users = {entry.path.split("?")[0]: entry.user for entry in hub.log if entry.path.startswith("/api/")}
    assert users[f"/api/models/{BASE}/revision/main"] == "service"
    assert set(users.values()) <= {"service", "alice"}


async def test_without_a_service_token_a_gated_preload_is_not_ready(
    tmp_path: Path, hub: DemoHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again and again, and the backend serves what else it can."""
    monkeypatch.setattr("hubgate.backend.loading.preloader.RETRY", 0.05)
    async with running(tmp_path, hub, engines={"preload": [{"repo": BASE}], "on_demand": []}) as backend:

        async def again() -> bool:
            found = re.search(r'downloads_total{kind="base",result="denied"} (\d+)', await backend.metrics())
            return found is not None and int(found[1]) > 2

        await eventually(again)
        async with backend.session.get(f"{backend.url}/readyz") as response:
            assert response.status == 503
        await backend.ready(backend.sha(BASE))
