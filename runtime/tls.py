"""TLS between the programs: what each shows, whom it believes, and how both are renewed while they are used.

asyncio, uvloop and aiohttp ask a context for one object per connection (`ssl.SSLContext.wrap_bio`), and let
it shake hands. Both are public, and all that is special here hangs on them: a handshake ends well only if the
other side's certificate is of the right kind, and a server's context goes by what its files hold at that
moment, also where an authority was taken out of them.
"""

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509

from hubgate.wire import certificates
from hubgate.wire.certificates import Kind
from hubgate.wire.keyfile import RECHECK, version_of
from hubgate.wire.keys import KeyFileError

PAUSE: Final = 60.0  # seconds between two lines of the log on the same reason
REASONS: Final = 100  # of which it is known when they were told
KEEPALIVE: Final = 60.0  # seconds that a client keeps an idle connection: a handshake is a millisecond of CPU
SERVER_KEEPALIVE: Final = 75  # seconds that an engine keeps one: it must be the longer of the two


@dataclass(frozen=True, slots=True)
class Party:
    """Who we are on a connection, and who may be at its other end.

    With `anybody`, a server also takes those who show no certificate; what they may ask is not decided here.
    """

    side: Literal["client", "server"]
    kind: Kind
    peers: tuple[Kind, ...]
    name: str | None = None  # that our own certificate has to be for
    anybody: bool = False


@dataclass(frozen=True, slots=True)
class Paths:
    """PEM files: the authorities whose word counts, our certificate with its chain, and its key."""

    authorities: tuple[Path, ...]
    certificate: Path
    key: Path


class TlsFiles:
    """What these files hold now; while they do not fit, or one is gone, what was last good, and a `fault`."""

    def __init__(
        self,
        paths: Paths,
        party: Party,
        *,
        refused: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refused` hears, now and then, why a handshake failed. Raises `KeyFileError`."""
        self.fault: str | None = None
        self._paths = paths
        self._party = party
        self._refused = Pauses(refused, clock)
        self._now = now
        self._clock = clock
        self._checked = clock()
        self._versions = self._look()
        self._contexts, self._until = self._load()

    def current(self) -> object:
        """Look at the files, once a second at most, and take over what is new."""
        clock = self._clock()
        if clock - self._checked < RECHECK:
            return self._contexts
        self._checked = clock
        versions = self._look()
        if versions != self._versions or self.fault is not None:
            try:
                self._contexts, self._until = self._load()
            except KeyFileError as error:
                self.fault = str(error)
            else:
                self._versions, self.fault = versions, None
        elif self._now() > self._until:
            self.fault = f"{self._paths.certificate}: has expired; nobody believes it any more"
        return self._contexts

    @property
    def until(self) -> float:
        """When our own certificate ends, in seconds since the epoch."""
        self.current()
        return self._until

    def context(self, peer: Kind) -> ssl.SSLContext:
        """For the next connection with somebody of this kind; another object once something has changed."""
        self.current()
        return self._contexts[peer]

    def listener(self) -> ssl.SSLContext:
        """For a server that listens for as long as it likes: each handshake is by what is current then."""
        listener = _Listener(ssl.PROTOCOL_TLS_SERVER)
        listener.files = self
        listener.peer = self._party.peers[0]
        return listener

    def _look(self) -> list[object]:
        return [
            version_of(path) for path in (*self._paths.authorities, self._paths.certificate, self._paths.key)
        ]

    def _load(self) -> tuple[dict[Kind, ssl.SSLContext], float]:
        paths, party = self._paths, self._party
        if found := _faults(paths, party, datetime.fromtimestamp(self._now(), UTC)):
            raise KeyFileError("; ".join(found))
        own = certificates.read(paths.certificate)
        if party.side == "server":
            context = self._context(party.peers)
            made = dict.fromkeys(party.peers, context)
        else:
            made = {peer: self._context((peer,)) for peer in party.peers}
        return made, own.not_valid_after_utc.timestamp()

    def _context(self, peers: tuple[Kind, ...]) -> ssl.SSLContext:
        client = self._party.side == "client"
        context = _new(ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER, peers, self._refused)
        context.verify_mode = ssl.CERT_OPTIONAL if self._party.anybody else ssl.CERT_REQUIRED
        if not client:
            context.num_tickets = 0  # no session outlives the authority that it began under
        for path in self._paths.authorities:
            _trust(context, path)
        _show(context, self._paths)
        return context


def believing(authorities: tuple[Path, ...], peer: Kind) -> ssl.SSLContext:
    """For a client that shows nothing itself. Raises `KeyFileError`."""
    context = _new(ssl.PROTOCOL_TLS_CLIENT, (peer,), lambda _: None)
    for path in authorities:
        _trust(context, path)
    return context


class Pauses:
    """Passes a reason on, unless it did within a minute: who causes it may do so a thousand times."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._told: dict[str, float] = {}

    def __call__(self, reason: str) -> None:
        now = self._clock()
        if now - self._told.get(reason, float("-inf")) < PAUSE:
            return
        if len(self._told) >= REASONS:
            self._told.clear()
        self._told[reason] = now
        self._tell(reason)


class _Checked(ssl.SSLObject):
    """One end of a connection, whose handshake fails if the other end is somebody else."""

    def do_handshake(self) -> None:
        context: Any = self.context
        try:
            super().do_handshake()
            self._check(context.peers)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            context.refused(reason(error))
            raise

    def _check(self, peers: tuple[Kind, ...]) -> None:
        shown = self.getpeercert(binary_form=True)
        if shown is None:
            return  # the context does not ask for one
        try:
            wrong = certificates.wrong_kind(x509.load_der_x509_certificate(shown), peers)
        except ValueError:  # OpenSSL takes more than is well-formed
            wrong = "it cannot be read"
        if wrong is not None:
            raise ssl.SSLCertVerificationError(1, wrong)


class _Context(ssl.SSLContext):
    sslobject_class = _Checked  # documented: the type that `wrap_bio` returns
    peers: tuple[Kind, ...] = ()
    refused: Callable[[str], None]


class _Listener(ssl.SSLContext):
    """Holds nothing of its own."""

    files: TlsFiles
    peer: Kind

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return self.files.context(self.peer).wrap_bio(*arguments, **named)


def _new(protocol: int, peers: tuple[Kind, ...], refused: Callable[[str], None]) -> ssl.SSLContext:
    context = _Context(protocol)
    context.peers, context.refused = peers, refused
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are ours
    context.hostname_checks_common_name = False
    return context


# A server that refuses a client's certificate ends the connection when the client's handshake is over,
# and asyncio and uvloop leave the alert unsent that would say why.
ENDED: Final = "it ended the connection without an answer: does it accept our certificate? Its log says why"

# What OpenSSL calls it, and what an operator does. The names of alerts are RFC 8446's, section 6.2.
_NOT_TLS: Final = "the other side does not speak TLS: is its `tls` not set?"
_PLAIN: Final = "plain HTTP came to a port that speaks TLS: the other side's `tls` is not set"
_REASONS: Final = {
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "RECORD_LAYER_FAILURE": _NOT_TLS,
    "HTTP_REQUEST": _PLAIN,
    "HTTPS_PROXY_REQUEST": _PLAIN,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side showed no certificate",
    "CERTIFICATE_REQUIRED": "the other side wants a certificate, and was shown none",
    "UNKNOWN_CA": "the other side does not know the authority of our certificate",
    "CERTIFICATE_EXPIRED": "the other side says that our certificate has expired",
    "CERTIFICATE_UNKNOWN": "the other side does not accept our certificate",
    "UNSUPPORTED_CERTIFICATE": "the other side does not accept a certificate of our kind",
    "BAD_CERTIFICATE": "the other side does not accept our certificate: not valid yet, or broken",
}


def reason(error: BaseException) -> str:
    """What is wrong, for the log: nothing of what was sent is in it."""
    message = getattr(error, "verify_message", "")
    if message:
        return f"the other side's certificate is not accepted: {message.rstrip('.')}"
    name = str(getattr(error, "reason", None) or "")
    for part, said in _REASONS.items():
        if name == part or name.endswith(f"ALERT_{part}"):
            return said
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the other side's certificate is not accepted: {error.args[-1]}"
    return f"the handshake failed: {name or type(error).__name__}"


def of_tls(error: BaseException | None) -> ssl.SSLError | None:
    """The fault of TLS that this error came of, if it did. aiohttp's own are about one, and are none."""
    found: ssl.SSLError | None = None
    while error is not None:
        if isinstance(error, ssl.SSLError):
            found = error
        about = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
        error = about or error.__cause__
    return found


def _faults(paths: Paths, party: Party, now: datetime) -> list[str]:
    """Everything that is wrong with these files."""
    scratch = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found: list[str] = []
    for path in paths.authorities:
        try:
            _trust(scratch, path)
        except KeyFileError as error:
            found.append(str(error))
    try:
        certificates.check(paths.certificate, party.kind, party.name, now)
        _show(scratch, paths)
    except KeyFileError as error:
        found.append(str(error))
    return found


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise KeyFileError(f"{path}: holds no certificate in PEM") from None
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; `hubgate certs make` makes certificates") from None


def _show(context: ssl.SSLContext, paths: Paths) -> None:
    try:
        # Without a password, that of a locked key would be asked for at the terminal.
        context.load_cert_chain(paths.certificate, paths.key, password="")
    except ssl.SSLError:
        told = f"{paths.certificate} is no certificate of the key in {paths.key}, or one is not PEM"
        raise KeyFileError(told) from None
    except OSError as error:
        raise KeyFileError(f"{paths.key}: {error.strerror}") from None
