"""TLS at the engine's port: the same checks and the same renewal as at the other ends.

vLLM's server looks at a client's authority and at the usages of TLS; that the client is a proxy it does not
ask, and an authority that was taken out of the file it believes until it is restarted (`--enable-ssl-refresh`
only adds: vllm/entrypoints/launchers/utils/ssl.py). So its context is replaced by one that does both.
"""

import logging
from pathlib import Path
from typing import Any

from hubgate.backend.plugin.engine_identity import EngineIdentity, EngineTls
from hubgate.backend.plugin.vllm_methods import Method, wrap
from hubgate.runtime.tls import Party, Paths, TlsFiles

log = logging.getLogger("hubgate.tls")


def files(identity: EngineTls) -> TlsFiles:
    """What the engine shows, and whom it lets in. Raises `KeyFileError`."""
    authorities = Path(identity.authorities), Path(identity.supervisor)
    paths = Paths(authorities, Path(identity.certificate), Path(identity.key))
    return TlsFiles(paths, Party("server", "engine", ("proxy", "supervisor")), refused=_say)


def secure(identity: EngineIdentity) -> None:
    """Have uvicorn listen so, if it is to. Raises `KeyFileError`, `VllmDiffersError`: nothing starts then."""
    if identity.tls is None:
        return
    from uvicorn import Config  # noqa: PLC0415 - this file is read where no vLLM is

    found = files(identity.tls)

    def loading(original: Method) -> Method:
        def load(config: Any) -> None:
            original(config)
            config.ssl = found.listener()  # what uvicorn's server listens with

        return load

    wrap(Config, "load", "self", loading)


def _say(why: str) -> None:
    log.warning("a connection was refused: %s", why)
