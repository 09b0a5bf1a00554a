"""The path of a request, top to bottom: `_serve` is the whole of it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from proxy import endpoints, errors, opening, record, request, settings, upload
from proxy.audit import Audit
from proxy.auth.ages import OverAge
from proxy.auth.authorization import Access, Authorizer
from proxy.auth.bearer import Credential
from proxy.auth.identity import Caller, Identities, Known
from proxy.body import Bodies
from proxy.clients import Clients
from proxy.drain import Drain
from proxy.errors import Code, Denied
from proxy.exchange import SERVER, Exchange, new_id
from proxy.http.inbound import Inbound, Response
from proxy.limits import Limits
from proxy.loading import Loading
from proxy.metrics import Metrics
from proxy.models import Listing, card
from proxy.opening import Opening
from proxy.policy import CallerPolicy
from proxy.skeleton import Skeleton
from proxy.upload import Upload
from proxy.upstream.control import ControlError
from proxy.upstream.grants import Grants
from proxy.upstream.pool import Pool, Upstream, refusal, unreachable
from proxy.upstream.relay import Relay, Stale, break_off
from wire.control import Engine, Failed

log = structlog.get_logger("gateway")

_JSON: Final = "Content-Type: application/json\r\n"
_NOT_HTTP: Final = "This is not HTTP/1.1 as RFC 9112 defines it."
_FAULTS: Mapping[Code, str] = {
    "headers_too_large": "The request line or a header is too long, or there are too many.",
    "http_version": "Speak HTTP/1.1 or HTTP/1.0 here.",
    "request_timeout": "The head of the request did not come in time.",
}

# What is still to be sent; `None` where the relay has sent it.
Answer = Response | Denied | None


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Authenticates, authorizes and relays; owns nothing but the order in which that happens."""

    request_settings: settings.Request
    cold_start: settings.ColdStart
    per_user: bool  # whether users have series of their own
    clients: Clients
    identities: Identities
    caller_policy: CallerPolicy
    advice: str  # to those who come without a token
    over_age: OverAge
    limits: Limits
    bodies: Bodies
    authorizer: Authorizer
    listing: Listing
    pool: Pool
    loading: Loading
    grants: Grants
    relay: Relay
    audit: Audit
    metrics: Metrics
    drain: Drain
    now: Callable[[], float]

    async def handle(self, inbound: Inbound) -> None:
        """Answer one request, whatever happens, and tell the audit and the metrics."""
        said = opening.of(inbound.head, self.clients, self.advice)
        exchange = Exchange(said.request_id or new_id(), said.client)
        self.metrics.in_flight.inc()
        self.drain.enter()
        try:
            answer = await self._serve(exchange, inbound, said)
            if isinstance(answer, Denied) and inbound.begun:  # heartbeats went before
                break_off(exchange, inbound, answer, streaming=True)
                return
            if isinstance(answer, Denied):
                answer = _refuse(exchange, answer)
            if answer is not None:
                exchange.bytes_out = len(answer.body)
                inbound.respond(answer)
        except asyncio.CancelledError:
            exchange.left()
            raise
        except Exception:
            log.exception("request failed", request_id=exchange.request_id)
            told = Denied("internal_error", "Something went wrong here; the log knows more.")
            if inbound.begun:
                exchange.failed(told.code)
                inbound.cut()
            else:
                inbound.respond(_refuse(exchange, told))
        finally:
            self._finish(exchange)
            self.drain.leave()

    def refuse(self, code: Code) -> Response:
        """The answer to bytes that are no request. Nothing of them is repeated."""
        return _refuse(Exchange(new_id(), ""), Denied(code, _FAULTS.get(code, _NOT_HTTP)))

    # The path of a request is one list, and each step may end it.
    async def _serve(  # noqa: C901, PLR0911, PLR0912
        self, exchange: Exchange, inbound: Inbound, said: Opening
    ) -> Answer:
        exchange.dialect, route = said.dialect, said.route
        if isinstance(route, Denied):
            return route
        endpoint = route.endpoint
        exchange.endpoint = endpoint.path
        if draining := self.drain.refusal():
            return draining
        if endpoint.kind == "health":
            return self._json(exchange, {"status": "alive"})
        if not self.audit.admits():
            return Denied("audit_unavailable", "The audit trail cannot be written right now.", retry_after=10)

        caller = await self._authenticate(exchange, said.credential)
        if isinstance(caller, Denied):
            return caller
        permit = self.limits.acquire_here(caller.identity)
        if permit is None:
            exchange.enter("limits")
            permit = await self.limits.acquire(caller.identity)
            exchange.enter("own")
        if isinstance(permit, Denied):
            return permit
        exchange.permit = permit

        if endpoint.kind == "models":
            return self._json(exchange, await self.listing.all(caller))
        if endpoint.kind == "model":
            found = await self._authorize(exchange, caller, route.argument)
            return found if isinstance(found, Denied) else self._json(exchange, card(found.model))
        inference = await self._read(exchange, inbound, endpoint)
        if isinstance(inference, Denied):
            return inference

        access = await self._authorize(exchange, caller, inference.model)
        if isinstance(access, Denied):
            return access

        upstream = self.pool.lease(access)
        if isinstance(upstream, Denied):
            return upstream
        exchange.upstream = upstream.name
        # Once more, and then surely loaded, where the engine turns out not to hold the model: nothing ran.
        for known in (upstream.engine(access), None):
            engine = known or await self._ensure(exchange, inbound, caller, access, upstream)
            if isinstance(engine, Denied):
                return engine
            address = upstream.address(engine)
            grant = self.grants.use(caller.identity.sub, access.model, engine)
            body = inference.encode(model=access.model, cache_salt=caller.identity.salt)
            exchange.enter("upstream")
            answer = await self.relay.forward(
                exchange,
                inbound,
                address=address,
                body=body,
                content_type=inference.content_type,
                passed=said.passed,
                grant=grant,
                withhold=inference.withholds_usage,
            )
            exchange.enter("own")
            if not isinstance(answer, Stale):
                return answer
            upstream.lost(engine)
            if inference.spent:
                return Denied("model_loading", "The model was just unloaded; send it again.", retry_after=1)
        return Denied("upstream_error", "The model's engine is not in reach.", retry_after=5)

    async def _authenticate(self, exchange: Exchange, credential: Credential | Denied) -> Caller | Denied:
        """Steps 1 and 2: one credential, whose it is, and whether that caller may call at all."""
        exchange.audited = True
        if isinstance(credential, Denied):
            self.metrics.authentications.labels(credential.code, "none").inc()
            return credential
        if credential.doubled:
            self.metrics.doubled_bearers.inc()
        caller: Caller | Denied | None = self.identities.known(credential)
        source: Known = "cache"
        if caller is None:
            exchange.enter("auth")
            caller, source = await self.identities.resolve(credential.secret, exchange.client)
            took = exchange.enter("own")
            if source == "hub":
                exchange.hub_wait += took
        if isinstance(caller, Denied):
            self.metrics.authentications.labels(caller.code, source).inc()
            return caller
        now = self.now()
        exchange.identity = identity = caller.identity
        refused = self.caller_policy.check(identity, now)
        self.metrics.authentications.labels(refused.code if refused else "ok", source).inc()
        if (age := identity.age_days(now)) is not None:
            self.metrics.token_age.labels().observe(age)
        exchange.notice = self.caller_policy.notice(identity, now)
        if exchange.notice is not None:
            self.over_age.saw(identity.fingerprint)
        return refused or caller

    async def _read(
        self, exchange: Exchange, inbound: Inbound, endpoint: endpoints.Endpoint
    ) -> request.InferenceRequest | Upload | Denied:
        """Step 4: the body, read only now, and parsed once; of a form, what stands before its file."""
        if endpoint.kind == "multipart":
            exchange.enter("body")
            form = await upload.receive(self.bodies, exchange, inbound, endpoint, self.request_settings)
            exchange.enter("own")
            if not isinstance(form, Denied):
                exchange.stream = form.stream
            return form
        raw: bytes | Skeleton | Denied | None = self.bodies.take(inbound)
        if raw is None:
            exchange.enter("body")
            raw = await self.bodies.read(inbound)
            exchange.enter("own")
        if isinstance(raw, Denied):
            return raw
        exchange.bytes_in = exchange.buffered = len(raw)
        inference = request.parse(endpoint, raw, self.request_settings)
        if not isinstance(inference, Denied):
            exchange.stream = inference.stream
        return inference

    async def _authorize(self, exchange: Exchange, caller: Caller, name: str) -> Access | Denied:
        """Step 5: on every request, whatever is loaded."""
        asked = self.authorizer.name(name, caller.identity.sub)
        if isinstance(asked, Denied):
            return asked
        exchange.model = str(asked)
        exchange.enter("auth")
        access, source = await self.authorizer.authorize(caller, asked)
        took = exchange.enter("own")
        if source == "hub":
            exchange.hub_wait += took
        if isinstance(access, Denied):
            exchange.access = None  # it may have been granted before a load, and taken away meanwhile
            self.metrics.authorizations.labels(access.code, source).inc()
            return access
        self.metrics.authorizations.labels("ok", source).inc()
        self.listing.granted(caller, access)
        exchange.access = access
        return access

    async def _ensure(
        self, exchange: Exchange, inbound: Inbound, caller: Caller, access: Access, upstream: Upstream
    ) -> Engine | Denied:
        """Step 7: have a cold model loaded, with this caller's own token.

        A caller who streams is told that it goes on; one who does not cannot be, and waits for less.
        """
        name, cold_start = exchange.model or "", self.cold_start
        exchange.cold = True
        refused = await self.limits.cold_load(caller.identity, access.model)
        if refused is not None:
            return refused
        try:
            exchange.enter("load")
            async with asyncio.timeout(cold_start.timeout if exchange.stream else cold_start.plain_wait):
                ended = await self.loading.load(exchange, inbound, caller, access, upstream)
        except TimeoutError:
            return Denied(
                "model_loading", f"{access.model} is still being loaded; try again.", retry_after=30
            )
        except ControlError as error:
            log.warning(
                "ensure failed", upstream=upstream.name, reason=error.reason, request_id=exchange.request_id
            )
            return unreachable()
        finally:
            exchange.enter("own")
        if isinstance(ended, Failed):
            return refusal(ended, name)
        # What was known may have aged before the load and ages while it lasts: both together stay within
        # its time only if it is asked for again, which costs nothing while it is cached.
        known = await self._renew(exchange, caller)
        if isinstance(known, Denied):
            return known
        renewed = await self._authorize(exchange, known, name)
        if isinstance(renewed, Denied):
            return renewed
        exchange.access = access  # what was loaded is what is served, wherever main is by now
        return ended.engine

    async def _renew(self, exchange: Exchange, caller: Caller) -> Caller | Denied:
        """Whether the caller may still call at all, after a wait."""
        exchange.enter("auth")
        known, source = await self.identities.renew(caller, exchange.client)
        took = exchange.enter("own")
        if source == "hub":
            exchange.hub_wait += took
        refused = known if isinstance(known, Denied) else self.caller_policy.check(known.identity, self.now())
        if refused is not None:
            exchange.access = None
            self.metrics.authentications.labels(refused.code, source).inc()
        return refused or known

    def _json(self, exchange: Exchange, body: dict[str, Any] | Denied) -> Answer:
        if isinstance(body, Denied):
            return body
        exchange.answered(200)
        return Response(200, msgspec.json.encode(body), _JSON + exchange.lines())

    def _finish(self, exchange: Exchange) -> None:
        """Step 9: whatever happened, it is told, counted and its place given back."""
        metrics = self.metrics
        metrics.in_flight.dec()
        if exchange.permit is not None:
            used = (exchange.prompt_tokens or 0) + (exchange.completion_tokens or 0)
            self.limits.release(exchange.permit, used)
        self.bodies.release(exchange.buffered)
        if exchange.identity is not None and self.per_user:
            metrics.user(exchange.identity.user, exchange.prompt_tokens, exchange.completion_tokens)
        metrics.requests.labels(exchange.endpoint, str(exchange.status), exchange.code).inc()
        exchange.enter("own")
        times = metrics.times(exchange.endpoint)
        times.total.observe(exchange.elapsed)
        times.overhead.observe(exchange.overhead)
        if exchange.first_byte is not None:
            times.first_byte.observe(exchange.first_byte)
        if exchange.audited:
            event = "auth.denied" if exchange.turned_away else "request.done"
            self.audit.tell(event, record.of(exchange, self.now()))


def _refuse(exchange: Exchange, denied: Denied) -> Response:
    """Render a refusal in the endpoint's dialect. It carries no timing: that could tell tales."""
    exchange.refused(denied)
    # Too many cold loads: the state of the other limits.
    rates = exchange.permit.lines if denied.status == 429 and exchange.permit is not None else ""
    own = _JSON + errors.identified(exchange.request_id, exchange.dialect) + SERVER
    return Response(
        denied.status,
        errors.body(denied, exchange.dialect, exchange.request_id),
        own + rates + errors.lines(denied),
        close=denied.code in ("request_timeout", "request_too_large", "draining"),
    )
