"""The path of a request, top to bottom: `_serve` is the whole of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from hubgate.proxy import endpoints, errors, request_head, settings
from hubgate.proxy.audit import record
from hubgate.proxy.audit.long_requests import LongRequests
from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.auth.authorization import Access, Authorizer
from hubgate.proxy.auth.bearer import Credential
from hubgate.proxy.auth.identity import Caller, Identities, Known
from hubgate.proxy.auth.old_tokens import OldTokenGauge
from hubgate.proxy.auth.policy import CallerPolicy
from hubgate.proxy.body import json_request, upload
from hubgate.proxy.body.large_json import LargeBody
from hubgate.proxy.body.reader import BodyReader
from hubgate.proxy.body.upload import Upload
from hubgate.proxy.context import SERVER, RequestContext, new_id
from hubgate.proxy.drain import Drain
from hubgate.proxy.errors import Code, Denied
from hubgate.proxy.http.client_address import ClientAddresses
from hubgate.proxy.http.cors import Cors
from hubgate.proxy.http.request import Response, ServerRequest
from hubgate.proxy.limits.limiter import Limiter
from hubgate.proxy.limits.loads import Loads
from hubgate.proxy.limits.refusals import Refusals, caller_name
from hubgate.proxy.limits.shared_address import SharedAddress
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.model_listing import ModelListing, model_card
from hubgate.proxy.request_head import RequestHead
from hubgate.proxy.upstream.balancer import Lease
from hubgate.proxy.upstream.cold_start import ColdLoader
from hubgate.proxy.upstream.control_client import ControlError
from hubgate.proxy.upstream.grant_signer import GrantSigner
from hubgate.proxy.upstream.relay import DIED, UNREACHED, Relay, StaleEngine, break_off
from hubgate.proxy.upstream.upstream_pool import Pool, Upstream, refusal, unreachable
from hubgate.wire.control_api import EngineInfo, LoadFailed

log = structlog.get_logger("gateway")

_JSON: Final = "Content-Type: application/json\r\n"
_NOT_HTTP: Final = "This is not HTTP/1.1 as RFC 9112 defines it."
_FAULTS: Mapping[Code, str] = {
    "headers_too_large": "The request line or a header is too long, or there are too many.",
    "http_version": "Speak HTTP/1.1 or HTTP/1.0 here.",
    "request_timeout": "The head of the request did not come in time.",
}

SILENT: Final = StaleEngine(unloaded=False)  # nor is anybody there whom one could ask to load it

SMALL: Final = 4 * 1024  # bytes of a body that is parsed at once, in half a millisecond at most

# What is still to be sent; `None` where the relay has sent it.
Answer = Response | Denied | None


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Authenticates, authorizes and relays; owns nothing but the order in which that happens."""

    request_settings: settings.Request
    cold_start: settings.ColdStart
    per_user: bool  # whether users have series of their own
    clients: ClientAddresses
    cors: Cors | None  # `None` where no browser's script may read an answer
    identities: Identities
    caller_policy: CallerPolicy
    advice: str  # to those who come without a token
    old_tokens: OldTokenGauge
    refusals: Refusals
    throttled: Refusals  # the same of callers whom the limits do not let in
    shared_address: SharedAddress | None  # `None` where a load balancer tells the clients' own
    limits: Limiter
    loads: Loads
    bodies: BodyReader
    authorizer: Authorizer
    listing: ModelListing
    pool: Pool
    cold_loader: ColdLoader
    grants: GrantSigner
    relay: Relay
    audit: AuditWriter
    long_requests: LongRequests
    metrics: Metrics
    drain: Drain
    now: Callable[[], float]

    async def handle(self, request: ServerRequest) -> None:
        """Answer one request, whatever happens, and tell the audit and the metrics."""
        head = request_head.parse_head(request.head, self.clients, self.advice, self.cors)
        context = RequestContext(head.request_id or new_id(), head.client)
        context.cors = head.cors
        request.context = context
        self.metrics.in_flight.inc()
        self.drain.enter()
        self.long_requests.enter(context)
        try:
            try:
                answer = await self._serve(context, request, head)
            except asyncio.CancelledError:
                answer = context.interrupted()
                if answer is None:
                    raise
            if isinstance(answer, Denied) and not context.admitted:
                answer = self._turn_away(context, head, answer)
            if isinstance(answer, Denied) and request.begun:  # heartbeats went before
                break_off(context, request, answer, streaming=True)
                return
            if isinstance(answer, Denied):
                answer = _refuse(context, answer)
            if answer is not None:
                context.bytes_out = len(answer.body)
                request.respond(answer)
        except asyncio.CancelledError:
            context.left()
            raise
        except Exception:
            log.exception("request failed", request_id=context.request_id)
            told = Denied("internal_error", "Something went wrong here; the log knows more.")
            if request.begun:
                context.failed(told.code)
                request.cut()
            else:
                request.respond(_refuse(context, told))
        finally:
            self._finish(context)
            self.drain.leave()

    def locked_out(self, request: ServerRequest) -> bool:
        """Whether a request under way is that of somebody who was locked out since; it will be told so."""
        context = request.context
        if not isinstance(context, RequestContext) or context.identity is None:
            return False
        if context.locked_out is not None:
            return False  # it is being told already
        context.locked_out = self.caller_policy.blocklist.refusal(context.identity, self.now())
        return context.locked_out is not None

    def refuse(self, code: Code, stranger: str | None) -> Response:
        """The answer to bytes that are no request. Nothing of them is repeated.

        `stranger` is the peer's address, unless a request of this connection was let in before.
        """
        if stranger is not None:
            self.refusals.count(self.clients.address(stranger, ()))
        return _refuse(RequestContext(new_id(), ""), Denied(code, _FAULTS.get(code, _NOT_HTTP)))

    # The path of a request is one list, and each step may end it.
    async def _serve(  # noqa: C901, PLR0911, PLR0912, PLR0915
        self, context: RequestContext, request: ServerRequest, head: RequestHead
    ) -> Answer:
        # 0. Route.
        context.dialect, route = head.dialect, head.route
        if self.cors is not None and head.preflight:
            context.answered(204)
            own = errors.identified(context.request_id, context.dialect) + SERVER
            return Response(204, b"", own + self.cors.preflight(head.cors))
        if isinstance(route, Denied):
            return route
        endpoint = route.endpoint
        context.endpoint = endpoint.path
        if draining := self.drain.refusal():
            return draining
        if endpoint.kind == "health":
            return self._json(context, {"status": "alive"})
        if not self.audit.admits():
            return Denied("audit_unavailable", "The audit trail cannot be written right now.", retry_after=10)

        # 1. Credential, and 2. identity.
        caller = await self._authenticate(context, head.credential)
        if isinstance(caller, Denied):
            return caller
        context.admitted = True
        if not head.admitted:
            head.admitted = True
            request.admit()
        if self.shared_address is not None:
            self.shared_address.seen(context.client, caller.identity.sub)

        # 3. Limits.
        permit = self.limits.try_acquire(caller.identity)
        if permit is None:
            context.enter("limits")
            permit = await self.limits.acquire(caller.identity)
            context.leave()
        if isinstance(permit, Denied):
            return permit
        context.permit = permit

        if endpoint.kind == "models":
            return self._json(context, await self.listing.all(caller))
        if endpoint.kind == "model":
            found = await self._authorize(context, caller, route.argument)
            return found if isinstance(found, Denied) else self._json(context, model_card(found.model))

        # 4. Body.
        inference = await self._read(context, request, endpoint, caller.identity.sub)
        if isinstance(inference, Denied):
            return inference
        if inference.places > 1 and (many := self.limits.widen(permit, inference.places)):
            return many

        # 5. Authorization.
        access = await self._authorize(context, caller, inference.model)
        if isinstance(access, Denied):
            return access

        # 6. Backend, 7. ensure, and 8. relay. Once more where nothing of the request was accepted: elsewhere,
        # if the first backend is not in reach.
        avoided: Upstream | None = None
        silent: Upstream | None = None
        unloaded = stale = False
        for _ in range(2):
            lease = self.pool.lease(access, avoided)
            if isinstance(lease, Denied):
                return lease
            upstream = self.pool.upstream(lease)
            context.upstream = upstream.name
            if upstream is silent:
                lease.end()
                break
            try:
                answer = await self._send(
                    context,
                    request,
                    head.passed,
                    caller=caller,
                    access=access,
                    weight=permit.weight,
                    inference=inference,
                    lease=lease,
                    upstream=upstream,
                    engine=None if stale else lease.engine,  # a hello may tell of it again, as it was
                )
            finally:
                lease.end()
            if not isinstance(answer, StaleEngine):
                return answer
            unloaded = answer.unloaded
            if answer is SILENT:
                silent = upstream
            if answer is SILENT or answer is UNREACHED:
                avoided = upstream
            else:
                stale = True
            if inference.spent:
                return _unloaded()
        if silent is not None:
            return unreachable()
        if unloaded:  # loaded a moment ago, and its place is another adapter's already
            return _unloaded()
        return Denied("upstream_error", "The model's engine is not in reach.", retry_after=5)

    async def _send(
        self,
        context: RequestContext,
        request: ServerRequest,
        passed: str,
        *,
        caller: Caller,
        access: Access,
        weight: int,
        inference: json_request.InferenceRequest | Upload,
        lease: Lease,
        upstream: Upstream,
        engine: EngineInfo | None,
    ) -> Denied | StaleEngine | None:
        """Steps 7 and 8 at one backend; `StaleEngine`: nothing of the request was accepted there."""
        if engine is None:
            ensured = await self._ensure(context, request, caller, access, upstream)
            if isinstance(ensured, Denied | StaleEngine):
                return ensured
            engine = ensured
        grant = self.grants.use(caller.identity.sub, access.model, engine, weight, self.limits.queue_seconds)
        body = inference.encode(model=access.model, cache_salt=caller.identity.salt)
        context.enter("upstream")
        answer = await self.relay.forward(
            context,
            request,
            address=upstream.address(engine),
            engine=engine,
            body=body,
            content_type=inference.content_type,
            passed=passed,
            grant=grant,
            cost=inference.cost,
            withhold=inference.withholds_usage,
        )
        context.leave()
        if answer is UNREACHED or answer is DIED:
            self.pool.failed(lease)
        else:
            lease.answered()
        if answer is UNREACHED:
            upstream.lost(engine)
        elif isinstance(answer, StaleEngine):
            upstream.unloaded(engine, access.model)
        return answer

    async def _authenticate(
        self, context: RequestContext, credential: Credential | Denied
    ) -> Caller | Denied:
        """Steps 1 and 2: one credential, whose it is, and whether that caller may call at all."""
        context.audited = True
        if isinstance(credential, Denied):
            self.metrics.authentications.labels(credential.code, "none").inc()
            return credential
        if credential.doubled:
            self.metrics.doubled_bearers.inc()
        caller: Caller | Denied | None = self.identities.known(credential)
        source: Known = "cache"
        if caller is None:
            wait = self.refusals.wait(context.client)
            # A token that the Hub may know is asked about all the same: the junk of a neighbour behind the
            # same address says nothing of it, and what questions cost is bounded where they are asked.
            heard = credential.unsuitable is None or self.identities.accepted(credential, context.client)
            if wait and not heard:
                self.metrics.authentications.labels("rate_limit_exceeded", "none").inc()
                return _spent(wait)
            context.enter("auth")
            caller, source = await self.identities.resolve(credential.secret, context.client)
            context.leave(source)
        if isinstance(caller, Denied):
            self.metrics.authentications.labels(caller.code, source).inc()
            return caller
        now = self.now()
        context.identity = identity = caller.identity
        refused = self.caller_policy.check(identity, now)
        self.metrics.authentications.labels(refused.code if refused else "ok", source).inc()
        if (age := identity.age_days(now)) is not None:
            self.metrics.token_age.labels().observe(age)
        context.notice = self.caller_policy.notice(identity, now)
        if context.notice is not None:
            self.old_tokens.seen(identity.fingerprint)
        return refused or caller

    def _turn_away(self, context: RequestContext, head: RequestHead, denied: Denied) -> Denied:
        """Count a refusal of who is not let in; past its client's budget, tell only that.

        It is not counted where the fault is ours, or the path is wrong of somebody who is known.
        """
        client, credential = context.client, head.credential
        if denied.status >= 500:
            return denied
        known = isinstance(credential, Credential) and self.identities.accepted(credential, client)
        if known and isinstance(head.route, Denied):
            return denied
        wait = self.refusals.wait(client)
        self.refusals.count(client)
        if not wait:
            return denied
        context.audited = context.spent = True
        return _spent(wait)

    async def _read(
        self, context: RequestContext, request: ServerRequest, endpoint: endpoints.Endpoint, sub: str
    ) -> json_request.InferenceRequest | Upload | Denied:
        """Step 4: the body, read only now, and parsed once; of a form, what stands before its file."""
        if endpoint.kind == "multipart":
            context.enter("body")
            form = await upload.receive(self.bodies, context, request, endpoint, self.request_settings)
            context.leave()
            if not isinstance(form, Denied):
                context.stream = form.stream
            return form
        raw: bytes | LargeBody | Denied | None = self.bodies.take(request)
        if raw is None:
            context.enter("body")
            raw = await self.bodies.read(request, sub)
            context.leave()
            if not isinstance(raw, Denied):
                context.buffered = len(raw)
        if isinstance(raw, Denied):
            return raw
        context.bytes_in = len(raw)
        if len(raw) < SMALL and not isinstance(raw, LargeBody):
            inference = json_request.parse(endpoint, raw, self.request_settings)
        else:
            inference = await self._parse_in_turn(endpoint, raw, sub)
        if not isinstance(inference, Denied):
            context.stream = inference.stream
        return inference

    async def _parse_in_turn(
        self, endpoint: endpoints.Endpoint, raw: bytes | LargeBody, sub: str
    ) -> json_request.InferenceRequest | Denied:
        await self.bodies.turns.begin(sub)
        try:
            if isinstance(raw, LargeBody):
                return await json_request.parse_large(endpoint, raw, self.request_settings)
            return json_request.parse(endpoint, raw, self.request_settings)
        finally:
            self.bodies.turns.end(sub)

    async def _authorize(self, context: RequestContext, caller: Caller, name: str) -> Access | Denied:
        """Step 5: on every request, whatever is loaded."""
        asked = self.authorizer.name(name, caller.identity.sub)
        if isinstance(asked, Denied):
            return asked
        context.model = str(asked)
        context.enter("auth")
        access, source = await self.authorizer.authorize(caller, asked)
        context.leave(source)
        if isinstance(access, Denied):
            context.access = None  # it may have been granted before a load, and taken away meanwhile
            self.metrics.authorizations.labels(access.code, source).inc()
            return access
        self.metrics.authorizations.labels("ok", source).inc()
        self.listing.granted(caller, access)
        context.access = access
        return access

    async def _ensure(
        self,
        context: RequestContext,
        request: ServerRequest,
        caller: Caller,
        access: Access,
        upstream: Upstream,
    ) -> EngineInfo | Denied | StaleEngine:
        """Step 7: have a cold model loaded, with this caller's own token; `SILENT`: nobody is there.

        A caller who streams is told that it goes on; one who does not cannot be, and waits for less.
        """
        name, cold_start = context.model or "", self.cold_start
        context.cold = True
        sub, model = caller.identity.sub, access.model
        refused = (
            self.loads.failed(sub, model)
            or await self.limits.cold_load(caller.identity, model)
            or self.loads.begin(sub, model)
        )
        if refused is not None:
            return refused
        failed: Denied | None = None
        goes_on = True  # for all that is known, where the caller leaves or waits no more
        try:
            context.enter("load")
            async with asyncio.timeout(cold_start.timeout if context.stream else cold_start.plain_wait):
                ended = await self.cold_loader.load(context, request, caller, access, upstream)
            goes_on = False
            failed = refusal(ended, name) if isinstance(ended, LoadFailed) else None
        except TimeoutError:
            return Denied(
                "model_loading", f"{access.model} is still being loaded; try again.", retry_after=30
            )
        except ControlError as error:
            log.warning(
                "ensure failed", upstream=upstream.name, reason=error.reason, request_id=context.request_id
            )
            goes_on = False
            return SILENT
        finally:
            context.leave()
            self.loads.end(sub, model, ended=not goes_on, failed=failed)
        if isinstance(ended, LoadFailed):
            return failed or refusal(ended, name)
        # What was known may have aged before the load and ages while it lasts: both together stay within
        # its time only if it is asked for again, which costs nothing while it is cached.
        known = await self._renew(context, caller)
        if isinstance(known, Denied):
            return known
        renewed = await self._authorize(context, known, name)
        if isinstance(renewed, Denied):
            return renewed
        context.access = access  # what was loaded is what is served, wherever main is by now
        return ended.engine

    async def _renew(self, context: RequestContext, caller: Caller) -> Caller | Denied:
        """Whether the caller may still call at all, after a wait."""
        context.enter("auth")
        known, source = await self.identities.renew(caller, context.client)
        context.leave(source)
        refused = known if isinstance(known, Denied) else self.caller_policy.check(known.identity, self.now())
        if refused is not None:
            context.access = None
            self.metrics.authentications.labels(refused.code, source).inc()
        return refused or known

    def _json(self, context: RequestContext, body: dict[str, Any] | Denied) -> Answer:
        if isinstance(body, Denied):
            return body
        context.answered(200)
        return Response(200, msgspec.json.encode(body), _JSON + context.lines())

    def _finish(self, context: RequestContext) -> None:
        """Step 9: whatever happened, it is told, counted and its place given back."""
        metrics = self.metrics
        metrics.in_flight.dec()
        self.long_requests.leave(context)
        if context.permit is not None:
            used = (context.prompt_tokens or 0) + (context.completion_tokens or 0)
            self.limits.release(context.permit, used)
        if context.buffered and context.identity is not None:
            self.bodies.release(context.identity.sub, context.buffered)
        if context.identity is not None and self.per_user:
            metrics.user(context.identity.user, context.prompt_tokens, context.completion_tokens)
        metrics.requests.labels(context.endpoint, str(context.status), context.code).inc()
        context.leave()
        times = metrics.times(context.endpoint)
        times.total.observe(context.elapsed)
        times.overhead.observe(context.overhead)
        if context.first_byte is not None:
            times.first_byte.observe(context.first_byte)
        if context.queue_seconds:
            metrics.queue_seconds.labels().observe(context.queue_seconds)
        if context.audited and (context.permit is not None or self._takes_line(context)):
            event = "auth.denied" if context.turned_away else "request.done"
            self.audit.append(event, record.of(context, self.now()))

    def _takes_line(self, context: RequestContext) -> bool:
        """Whether a request that was not let in, here or by the limits, has a line; else it is counted."""
        caller = context.identity if context.admitted else None
        counts = self.refusals if caller is None else self.throttled
        reason = "budget"
        if self.audit.scarce:
            reason = "disk"
            counts.leave_out()
        elif counts.takes_line(context.client if caller is None else caller_name(caller.sub, caller.user)):
            return True
        self.metrics.unwritten_refusals.labels(reason).inc()
        return False


def _unloaded() -> Denied:
    return Denied("model_loading", "The model was just unloaded; send it again.", retry_after=1)


def _spent(wait: float) -> Denied:
    return Denied("rate_limit_exceeded", "Too many requests of your address were refused.", retry_after=wait)


def _refuse(context: RequestContext, denied: Denied) -> Response:
    """Render a refusal in the endpoint's dialect. It carries no timing: that could tell tales."""
    context.refused(denied)
    # Too many cold loads: the state of the other limits.
    rates = context.permit.lines if denied.status == 429 and context.permit is not None else ""
    own = _JSON + errors.identified(context.request_id, context.dialect) + SERVER
    return Response(
        denied.status,
        errors.body(denied, context.dialect, context.request_id),
        own + rates + errors.lines(denied) + context.cors,
        close=denied.code in ("request_timeout", "request_too_large", "draining") or context.spent,
    )
