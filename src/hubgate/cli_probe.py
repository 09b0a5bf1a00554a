"""`hubgate probe URL`: a healthcheck for images that have no curl.

It runs every few seconds for as long as a container lives, beside what serves, so it imports a socket alone.
"""

import socket
import sys

TIMEOUT = 3.0  # seconds for the connection, and for each read
MOST = 4096  # bytes of an answer that are looked at
WORDS = 300  # characters of a reason that are shown


def run(url: str) -> int:
    """Ask; 0 if the answer is 200, 1 if it is not or there is none, 2 if `url` is not `http://host[:port]/path`.

    Says why on standard error: `docker inspect` shows it.
    """
    where = _split(url)
    if where is None:
        sys.stderr.write("hubgate probe: the URL must be http://HOST:PORT/PATH\n")
        return 2
    try:
        status, reason = _ask(*where)
    except (OSError, ValueError) as error:
        status, reason = 0, str(error) or type(error).__name__
    if status == 200:
        return 0
    sys.stderr.write(f"{url}: {status or 'no answer'}: {reason}\n")
    return 1


def _split(url: str) -> tuple[str, int, str] | None:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon:
        host, port = authority, "80"
    known = scheme == "http" and host and port.isascii() and port.isdigit() and url.isprintable()
    return (host.strip("[]"), int(port), slash + path or "/") if known and " " not in url else None


def _ask(host: str, port: int, path: str) -> tuple[int, str]:
    """The status, and the first line of the body. Raises `OSError` and `ValueError`."""
    request = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    answer = b""
    with socket.create_connection((host, port), TIMEOUT) as connection:
        connection.sendall(request.encode())
        while len(answer) < MOST and (part := connection.recv(MOST)):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("that is no HTTP")
    text = body.decode("utf-8", "replace").strip().partition("\n")[0][:WORDS]
    return int(rest[:3]), "".join(c if c.isprintable() else "�" for c in text)
