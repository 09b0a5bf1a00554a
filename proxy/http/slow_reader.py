"""Measures how a caller takes what is sent to them, while that is what everything waits for."""

import asyncio
import socket
import struct
from typing import Final

from hubgate.proxy.net.pace import Pace

# Where `struct tcp_info` has `tcpi_bytes_acked` (linux/tcp.h, since Linux 4.1).
_ACKED: Final = struct.Struct("=120xQ")
LOOKS: Final = 60  # at a caller who is slower and slower, while they may take nothing


class ReaderPace:
    """Times a caller while their connection is full; the engine's time does not count against them.

    What they take is what their machine acknowledges. What leaves our own buffer says less: the kernel's
    may hold megabytes, and takes more only once a third of it is free, so that who reads slowly and well
    seems to take nothing for minutes.
    """

    def __init__(self, transport: asyncio.Transport, rate: float, most: float) -> None:
        """They may take nothing for `most` seconds, and on average at least `rate` bytes a second."""
        self._transport = transport
        self._time = asyncio.get_running_loop().time
        self._pace = Pace(rate, most)
        self._least = most / LOOKS
        self._since = 0.0  # when it was begun to wait for them
        self._unsent = 0  # bytes in our buffer then
        self._sent = 0  # bytes that left it while they were waited for, since the last look
        self._acknowledged = 0  # at the last look

    def begin(self) -> float:
        """Wait for them from now on. Gives the seconds after which to `look`."""
        self._since = self._time()
        self._unsent = self._transport.get_write_buffer_size()
        return self._pace.left

    def end(self) -> None:
        """They are not waited for any more."""
        self._sent += self._unsent - self._transport.get_write_buffer_size()
        self._pace.waited(self._time() - self._since, 0)

    def look(self) -> float:
        """Gives for how many seconds they may still be waited for; none, if they are too slow."""
        self.end()
        acknowledged = self._count()
        # A kernel that does not count tells 0, as gVisor's does.
        self._pace.waited(0.0, max(self._sent, acknowledged - self._acknowledged))
        self._sent, self._acknowledged = 0, acknowledged
        left = self.begin()
        return max(left, self._least) if left > 0 else 0.0

    def _count(self) -> int:
        """Bytes that their machine has acknowledged since the connection began."""
        connection = self._transport.get_extra_info("socket")
        if connection is None:
            return self._acknowledged
        try:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
            (count,) = _ACKED.unpack(told)
        except (OSError, ValueError, struct.error):  # uvloop's of a closed one raises ValueError
            return self._acknowledged
        return int(count)
