"""The certificate of the public port, which is renewed while the port is open."""

import ssl
from pathlib import Path

from wire.keyfile import KeyFile
from wire.keys import KeyFileError

PROTOCOLS = ("http/1.1",)  # for those who ask by ALPN (RFC 7301), as browsers and curl do


def load(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context with the certificate, its chain and its key, all PEM. Raises `KeyFileError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(PROTOCOLS)
    try:
        # A key that is locked has no use for a service; without a password it would be asked at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError:
        raise KeyFileError(
            f"{certificate} is no certificate of the key in {key}, or one is not PEM"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{certificate} or {key}: {error.strerror}") from None
    return context


def serving(file: KeyFile[ssl.SSLContext]) -> ssl.SSLContext:
    """For a listener: who connects gets the certificate as it is in the file by then."""

    def choose(connecting: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        del name, context
        connecting.context = file.current()

    first = file.current()
    first.sni_callback = choose
    return first
