"""The proxy as a process: what it leaves behind of a token, and how it locks somebody out."""

import signal
from pathlib import Path

import msgspec
import psutil
import yaml

from hubgate.demo.catalog import Token
from tests.e2e.scanner import Finding, Scanner
from tests.fakes.answers import dies, refusal
from tests.fakes.raw import RawAnswer, ask, request
from tests.fakes.running_proxy import ALICE, BASE, BOB, CHAT, MESSAGES, MISSING, PRIVATE, Edge
from tests.threats.process import ProxyProcess, proxy_process

GOOD, REVOKED, JUNK = "hf_canary_good_a8Kx31", "hf_canary_revoked_Zt72", "hf_canary_junk_Qp05"
LOCAL_KEY = "sk-canary-local-key-9911"
CANARIES = (GOOD, REVOKED, JUNK, LOCAL_KEY)


async def chat(proxy: ProxyProcess, *headers: tuple[str, str], model: str = BASE) -> RawAnswer:
    body = msgspec.json.encode({"model": model, "messages": MESSAGES})
    return await ask(proxy.port, request("POST", f"{CHAT}?token={GOOD}&key={JUNK}", headers, body))


async def use(edge: Edge, proxy: ProxyProcess) -> list[RawAnswer]:
    """Requests of every outcome, with credentials in every place where callers put them."""
    answers = []
    edge.engine.then(refusal(500, f"Authorization: Bearer {GOOD}"), dies())
    for token in (GOOD, GOOD, GOOD, REVOKED, JUNK, LOCAL_KEY):
        key = ("Authorization", f"Bearer {token}")
        answers += [await chat(proxy, key, model=model) for model in (BASE, PRIVATE, MISSING, "../x")]
    answers += [
        await chat(proxy, ("Authorization", value))
        for value in (
            f"Bearer Bearer {GOOD}",
            f"Basic {GOOD}",
            GOOD,
            f"Bearer {GOOD}\xff",
            f"Bearer {GOOD} x",
        )
    ]
    for name in ("X-Api-Key", "Cookie", "Proxy-Authorization", "X-Forwarded-Access-Token"):
        answers.append(await chat(proxy, (name, GOOD)))
    answers.append(await chat(proxy, *[("Authorization", f"Bearer {token}") for token in (GOOD, JUNK)]))
    for mode in ("503", "disconnect", "cut", "429"):
        edge.hub.state.set_down(mode)
        answers.append(await chat(proxy, ("Authorization", f"Bearer {JUNK}{mode}")))
        edge.hub.state.set_down(None)
    broken = request("POST", CHAT, [("Authorization", f"Bearer {GOOD}\r\n folded"), ("Content-Length", "x")])
    answers.append(await ask(proxy.port, broken))
    return answers


async def test_row_24_a_token_is_in_no_sink_of_the_proxys(tmp_path: Path) -> None:
    """Log at debug, audit, metrics, answers, argv, environment, core: no token, in no disguise."""
    async with Edge.start(tmp_path) as edge:
        state = edge.hub.state
        state.add_token(GOOD, Token(user="alice", name="good"))
        state.add_token(REVOKED, Token(user="bob", name="revoked"))
        state.revoke(REVOKED)
        async with proxy_process(edge, log={"level": "debug"}) as proxy:
            answers = await use(edge, proxy)
            metrics = await ask(proxy.admin_port, request("GET", "/metrics"))
            running = psutil.Process(proxy.process.pid)
            core = running.rlimit(psutil.RLIMIT_CORE)
            found: list[Finding] = []
            for scanner in map(Scanner, CANARIES):
                found += scanner.process(running)
                found += scanner.text("metrics", metrics.raw)
                found += [hit for answer in answers for hit in scanner.text("answer", answer.raw)]
            await proxy.end()
            for scanner in map(Scanner, CANARIES):
                found += scanner.files(tmp_path)
                found += scanner.text("log", bytes(proxy.said))
    assert not found
    assert {answer.status for answer in answers} >= {200, 400, 401, 404, 502, 503}
    assert core == (0, 0)
    assert b"listening" in proxy.said
    assert (tmp_path / "process" / "audit.jsonl").stat().st_size > 1000


async def test_row_20_a_block_counts_from_the_next_request_on(tmp_path: Path) -> None:
    """An emergency: a user is put on the block list, SIGHUP, and the very next request is refused."""
    async with Edge.start(tmp_path) as edge, proxy_process(edge) as proxy:
        assert (await proxy.models(BOB)).status == 200
        path = tmp_path / "process" / "proxy.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["callers"] = {"anyone": True, "block": {"users": ["bob"]}}
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        assert (await proxy.models(BOB)).status == 200
        proxy.process.send_signal(signal.SIGHUP)
        await proxy.logged("configuration reloaded")
        answer = await proxy.models(BOB)
        assert (answer.status, answer.code) == (403, "caller_not_allowed")
        assert (await proxy.models(ALICE)).status == 200


async def test_row_20_a_reload_forgets_what_was_revoked(tmp_path: Path) -> None:
    """SIGHUP alone ends the use of a token that the Hub has revoked, however long its answer had to live."""
    async with Edge.start(tmp_path) as edge, proxy_process(edge) as proxy:
        assert (await proxy.models(BOB)).status == 200
        edge.hub.state.revoke(user="bob")
        assert (await proxy.models(BOB)).status == 200  # within identity_ttl
        proxy.process.send_signal(signal.SIGHUP)
        await proxy.logged("configuration reloaded")
        assert (await proxy.models(BOB)).code == "invalid_api_key"
