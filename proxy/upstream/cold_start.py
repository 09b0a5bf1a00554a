"""Has a cold model loaded while its caller waits, and tells both of them and the audit what becomes of it."""

from contextlib import aclosing, nullcontext
from typing import Any

from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.auth.authorization import Access
from hubgate.proxy.auth.identity import Caller, Identity
from hubgate.proxy.context import RequestContext
from hubgate.proxy.http.request import ServerRequest
from hubgate.proxy.upstream.control_client import ControlError
from hubgate.proxy.upstream.heartbeat import Heartbeat
from hubgate.proxy.upstream.upstream_pool import Upstream
from hubgate.wire.control_api import Download, LoadFailed, Progress, Ready


class ColdLoader:
    """One load after the other, each for one caller; that several wait for one is the backend's business."""

    def __init__(self, audit: AuditWriter, heartbeat_after: float) -> None:
        self._audit = audit
        self._heartbeat_after = heartbeat_after  # seconds

    async def load(
        self,
        context: RequestContext,
        request: ServerRequest,
        caller: Caller,
        access: Access,
        upstream: Upstream,
    ) -> Ready | LoadFailed:
        """Wait until the model is warm, or why it is not. Raises `ControlError`.

        A caller who streams is told meanwhile that it goes on.
        """
        heartbeat = Heartbeat(context, request, self._heartbeat_after)
        with heartbeat if context.stream else nullcontext():
            await upstream.refresh()
            async with aclosing(upstream.ensure(access, caller, context.request_id)) as events:
                async for event in events:
                    if isinstance(event, Progress):
                        heartbeat.progress(event)
                        continue
                    if isinstance(event, Ready):
                        upstream.found(event.engine)
                    self._tell(context, caller.identity, access, event)
                    return event
        raise ControlError("ensure ended without a result")

    def _tell(
        self, context: RequestContext, identity: Identity, access: Access, event: Ready | LoadFailed
    ) -> None:
        """The audit of what a load fetched and loaded, under the name of who asked for it."""
        who = {
            "request_id": context.request_id,
            "user": identity.user,
            "fingerprint": identity.fingerprint,
            "upstream": context.upstream,
        }
        for download in event.downloads:
            self._audit.record("download.done", {**who, "result": "ok", **_describe(download)})
        if isinstance(event, LoadFailed):
            failure = {"result": event.code, "repo": event.repo or access.model, "reason": event.message}
            engine = event.code in ("engine_failed", "no_capacity") or event.stage in ("starting", "loading")
            self._audit.record("engine.state" if engine else "download.done", {**who, **failure})
        elif event.loaded:
            self._audit.record("adapter.loaded", {**who, "repo": access.model, "base": str(access.base)})
        if isinstance(event, Ready) and event.started:
            self._audit.record("engine.state", {**who, "result": "ready", "repo": str(access.base)})
        for gone in event.evicted:
            kind = "adapter.evicted" if gone.kind == "adapter" else "engine.state"
            self._audit.record(kind, {**who, "result": "evicted", "repo": gone.repo, "for": access.model})


def _describe(download: Download) -> dict[str, Any]:
    fetched = {"bytes": download.bytes, "seconds": round(download.seconds, 3)}
    made_room = {"evicted": list(download.evicted)} if download.evicted else {}
    return {"repo": download.repo, "kind": download.kind, **fetched, **made_room}
