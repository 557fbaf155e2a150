"""A proxy before a web server that delays each request. It is a program: python delaying_proxy.py PORT DELAY_S.

It prints its own port. One thread serves one connection, and copies answers in large pieces, so that it needs little of
the cores that it shares with what is measured: about 0.1 ms for an image of 100 KiB.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
import time
from contextlib import suppress

_PIECE_BYTES = 2**18
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def main() -> None:
    port, delay_s = int(sys.argv[1]), float(sys.argv[2])
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listening.getsockname()[1], flush=True)
    while True:
        client, _ = listening.accept()
        threading.Thread(target=serve, args=(client, port, delay_s), daemon=True).start()


def serve(client: socket.socket, port: int, delay_s: float) -> None:
    """Answer the requests of one connection."""
    piece = memoryview(bytearray(_PIECE_BYTES))
    with suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as server:
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while head := received(client):
            time.sleep(delay_s)
            server.sendall(head)
            answer = received(server)
            headers, _, begun = answer.partition(b"\r\n\r\n")
            length = _LENGTH.search(headers)
            assert length, "the server tells the length"
            left = 0 if head.startswith(b"HEAD") else int(length[1]) - len(begun)
            client.sendall(answer)
            while left > 0:
                count = server.recv_into(piece, min(left, _PIECE_BYTES))
                client.sendall(piece[:count])
                left -= count


def received(connection: socket.socket) -> bytes:
    """Return what arrives until the end of the headers, perhaps with the first bytes of the body."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = connection.recv(_PIECE_BYTES)
        if not more:
            return b""
        head += more
    return head


if __name__ == "__main__":
    main()
