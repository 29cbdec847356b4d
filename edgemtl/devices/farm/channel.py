"""Messages between a worker and a program that stays: eight bytes of length, then so many."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Callable

from edgemtl.errors import as_data, from_data
from edgemtl.files import as_told

_LENGTH = struct.Struct(">Q")
_CHUNK = 1 << 20
#: what an answer begins with
_ANSWER, _PROBLEM = b"\0", b"\1"


def send(channel: socket.socket, message: bytes) -> None:
    """Write one message.

    Raises:
        OSError: the other end is gone.
    """
    channel.sendall(_LENGTH.pack(len(message)))
    channel.sendall(message)


def receive(channel: socket.socket) -> bytes | None:
    """Read one message; None where the other end is gone, or a time limit has passed before it."""
    head = _exactly(channel, _LENGTH.size)
    return None if head is None else _exactly(channel, _LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts, left = [], count
    while left:
        try:
            part = channel.recv(min(left, _CHUNK))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def ask(channel: socket.socket, question: bytes) -> bytes | None:
    """The worker's side: the answer; None where the program is gone.

    Raises:
        EdgemtlError: the program met it.
    """
    try:
        send(channel, question)
    except OSError:
        return None
    found = receive(channel)
    if found is None or found[:1] == _ANSWER:
        return None if found is None else found[1:]
    raise from_data(json.loads(found[1:]))


def serve(handle: int, ready: Callable[[], Callable[[bytes], bytes]], idle_seconds: float) -> None:
    """The program's side: answer until the worker is gone or nothing was asked for so long.

    Args:
        handle: number of the open socket.
        ready: makes what answers a message; called at the first one, so that what goes wrong there
            is an answer, too.
        idle_seconds: a program that nobody needs any more gives its memory back.
    """
    channel = socket.socket(fileno=handle)
    channel.settimeout(idle_seconds)
    answer: Callable[[bytes], bytes] | None = None
    with channel, contextlib.suppress(OSError):
        while (message := receive(channel)) is not None:
            try:
                answer = answer or ready()
                found = _ANSWER + answer(message)
            except Exception as problem:
                found = _PROBLEM + json.dumps(as_data(as_told(problem))).encode()
            send(channel, found)
