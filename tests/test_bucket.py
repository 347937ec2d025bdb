"""A bucket that cannot be used is told in one line, at once, before anything is trained."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from s3_server import Proxy

from ensemble_tune.bucket import open_bucket
from ensemble_tune.errors import ConfigError, StorageError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import location, make_folder


@pytest.fixture(autouse=True)
def first_contact() -> None:
    open_bucket.cache_clear()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = []

        def take() -> None:
            try:
                while True:
                    taken.append(listening.accept())
            except OSError:
                return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for connection, _ in taken:
            connection.close()


def refusal(address: str) -> str:
    """What is said, in one line, and as a mistake of the user's and as a failure of the storage: it ends a search."""
    began = time.monotonic()
    with pytest.raises(ConfigError) as error:
        location(address).exists()
    assert isinstance(error.value, StorageError) and "\n" not in str(error.value)
    assert time.monotonic() - began < 12
    return str(error.value)


def test_a_bucket_that_is_not_there(proxy: Proxy) -> None:
    said = refusal("s3://no-such-bucket/run")
    assert f"but s3://no-such-bucket at {proxy.address} is not; make it, or mend the address" in said


def test_a_bucket_that_is_closed(bucket: ObjectPath, proxy: Proxy) -> None:
    proxy.faults, proxy.share = ("denied",), 1.0
    assert "must be open to this machine's credentials, but is not" in refusal(str(bucket))
    assert proxy.injected < 5, "asking again is of no use"


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "s3://bucket at http://127.0.0.1:9 must answer, but does not (" in refusal("s3://bucket/run")


def test_a_server_that_says_nothing(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    assert "must answer, but does not (no answer in 9 s); check the network" in refusal("s3://bucket/run")


def test_a_server_that_fails_for_a_moment_is_asked_again(bucket: ObjectPath, proxy: Proxy) -> None:
    proxy.faults, proxy.first = ("unavailable",), 2
    assert not bucket.exists() and proxy.injected == 2


def test_no_credentials(bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    proxy.signed_only = True
    assert "or set the store's standard variables, such as AWS_ACCESS_KEY_ID" in refusal(str(bucket))


def test_a_client_that_was_left_out_of_pyarrow(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    monkeypatch.delattr(pyarrow, "fs", raising=False)
    assert "s3:// needs a pyarrow that was built with it" in refusal(str(bucket))


def test_a_folder_that_cannot_be_written_to(bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble_tune.object_path._WAITS", (0.0, 0.0, 0.0))
    make_folder(bucket)
    assert bucket.objects() == {}, "nothing is left of the trial"
    proxy.faults, proxy.only, proxy.share = ("denied",), ("PUT",), 1.0
    with pytest.raises(ConfigError, match=r"must be a folder that can be written to, but is not \(.*ACCESS_DENIED"):
        make_folder(bucket)
