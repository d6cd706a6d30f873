"""Addresses of Ray clusters: each has one spelling, and nothing else reaches Ray."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from chords_core import InvalidInput, RayWorkers
from chords_core.execution.ray.address import canonical, check_reachable, host_and_port, resolved
from chords_core.execution.ray.errors import ClusterUnreachable


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("local", "local"),
        (" LOCAL\n", "local"),
        ("Auto", "auto"),
        ("192.168.1.10:6379", "192.168.1.10:6379"),
        (" 192.168.1.10:06379 ", "192.168.1.10:6379"),
        ("Head.Example.COM:6379", "head.example.com:6379"),
        ("RAY://Head:10001", "ray://head:10001"),
        ("[::1]:6379", "[::1]:6379"),
        ("[0:0:0:0:0:0:0:1]:6379", "[::1]:6379"),
        ("ray://[FE80::0:1]:1", "ray://[fe80::1]:1"),
    ],
)
def test_an_address_has_one_spelling(written: str, meant: str) -> None:
    assert canonical(written) == meant
    assert canonical(meant) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "127.0.0.1",
        "localhost",
        "::1",
        "::1:6379",
        "[::1]",
        "[::zz]:1",
        "[1.2.3.4]:1",
        "host:",
        ":6379",
        "host:0",
        "host:65536",
        "host:99999",
        "host:-1",
        "host:6379/path",
        "user@host:6379",
        "os://host:6379",
        "ray://ray://host:1",
        "ray://",
        "http://host:6379",
        "local:",
        "locall",
        "127.0.0.1:9\n127.0.0.1:10",
        "127.0.0.1:9 ,local",
        "not an address; rm -rf /",
        "../../etc",
        "\N{SNOWMAN}:6379",
        "h\N{CYRILLIC SMALL LETTER O}st:6379",
        "host:\N{ARABIC-INDIC DIGIT SIX}379",
        "host\x00:6379",
        "a" * 100_000 + ":1",
    ],
)
def test_anything_else_is_refused_with_its_name_and_the_valid_forms(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^ray_address: .*host:port, such as 192\.168\.1\.10:6379") as caught:
        canonical(text)
    assert len(str(caught.value)) < 500
    with pytest.raises(InvalidInput):
        RayWorkers(lambda: None, text)


@pytest.mark.parametrize(
    ("environment", "meant"),
    [("", "local"), ("auto", "local"), ("local", "local"), (" Head:6379 ", "head:6379")],
)
def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch, environment: str, meant: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", environment)
    assert resolved("auto") == meant
    assert resolved("local") == "local" and resolved("other:1") == "other:1"


def test_the_error_for_an_address_in_the_environment_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head")
    with pytest.raises(InvalidInput, match="^RAY_ADDRESS in the environment: 'http://head'"):
        resolved("auto")


def test_host_and_port() -> None:
    assert host_and_port("ray://[::1]:6379") == ("::1", 6379)
    assert host_and_port("head:6379") == ("head", 6379)


SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@contextlib.contextmanager
def listening(answer: bytes | None, hang_up: bool) -> Iterator[str]:
    """The address of a server that answers this to every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):
                while answer is not None and b"SM\r\n\r\n" not in connection.recv(1000):
                    pass
                connection.sendall(answer or b"")
                while not hang_up and connection.recv(1000):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(60)


def test_only_a_server_that_answers_as_ray_does_is_accepted() -> None:
    with listening(SETTINGS, hang_up=False) as address:
        check_reachable(address, 60.0)
    for answer, hang_up in ((b"HTTP/1.1 400 Bad Request\r\n\r\n", False), (None, True), (SETTINGS[:5], True)):
        with listening(answer, hang_up) as address:
            with pytest.raises(ClusterUnreachable, match=f"something listens at {address}, but it is not Ray"):
                check_reachable(address, 60.0)
    with listening(None, hang_up=False) as address:
        with pytest.raises(ClusterUnreachable, match="but it is not Ray"):
            check_reachable(address, 0.2)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "no-such-host.invalid:9", "ray://" + "a." * 100 + "b:9"])
def test_an_address_that_does_not_answer_is_named(address: str) -> None:
    with pytest.raises(ClusterUnreachable, match="nothing answers at") as raised:
        check_reachable(address, 60.0)
    assert address in str(raised.value)


def test_encrypted_servers_are_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(None, hang_up=False) as address:
        check_reachable(address, 60.0)
