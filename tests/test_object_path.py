"""A place in a store does what a path does."""

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import pytest
from s3_server import Fault, Proxy, Store

from ensemble_tune import object_path
from ensemble_tune.errors import ConfigError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, atomic_file, location, names_in, write_bytes, write_text


def test_a_place_is_an_address_or_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    there = location("s3://bucket/runs//one/")
    assert there == ObjectPath("s3", "bucket/runs/one", "http://127.0.0.1:9", "eu-west-1")
    assert location(Path("s3://bucket/runs/one")) == there, "whoever made a path of it, which swallows a slash"
    assert location("gs://bucket/a") == ObjectPath("gs", "bucket/a", "http://127.0.0.1:9")
    assert location(there) is there
    assert location("runs/s3") == Path("runs/s3") and location("a:b/c") == Path("a:b/c")


@pytest.mark.parametrize("address", ["ftp://bucket/a", "s3://", "S3a://bucket/a", "s3://bucket/../other", "hdfs://a/b"])
def test_other_addresses_are_refused_in_one_line(address: str) -> None:
    with pytest.raises(ConfigError, match=r"an address .*but got '") as error:
        location(address)
    assert address in str(error.value) and "\n" not in str(error.value)


def test_it_goes_to_other_machines_with_its_server_but_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    packed = pickle.dumps(location("s3://bucket/run"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(packed).endpoint == "http://127.0.0.1:9" and b"hush" not in packed


def test_its_parts_are_those_of_a_path(place: Location) -> None:
    path = place / "ledger" / "base-00000.parquet"
    assert (path.name, path.stem, path.suffix) == ("base-00000.parquet", "base-00000", ".parquet")
    assert path.parent == place / "ledger" and str(path) == f"{place}/ledger/base-00000.parquet"


def test_files_are_written_read_listed_and_removed(place: Location) -> None:
    assert not place.exists() and not place.is_dir() and names_in(place) == []
    write_text(place / "a.txt", "ä")
    write_bytes(place / "deep" / "b.bin", b"\0\1")
    assert (place / "a.txt").read_text(encoding="utf-8") == "ä" and (place / "deep" / "b.bin").read_bytes() == b"\0\1"
    assert names_in(place) == ["a.txt", "deep"] and [p.name for p in place.glob("*.txt")] == ["a.txt"]
    assert place.is_dir() and not place.is_file()
    assert (place / "a.txt").is_file() and (place / "a.txt").exists() and not (place / "a.txt").is_dir()
    write_text(place / "a.txt", "new")
    assert (place / "a.txt").read_text() == "new"
    (place / "a.txt").unlink()
    (place / "a.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (place / "a.txt").unlink()
    with pytest.raises(FileNotFoundError):
        (place / "a.txt").read_bytes()
    (place / "empty").touch()
    assert (place / "empty").read_bytes() == b"" and names_in(place) == ["deep", "empty"]


def test_a_write_that_fails_leaves_the_older_file(place: Location) -> None:
    write_text(place / "a", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(place / "a") as aside:
        aside.write_text("half")
        _ = 1 / 0
    assert (place / "a").read_text() == "old" and names_in(place) == ["a"]
    with atomic_file(place / "a") as aside:
        aside.write_text("new")
    assert (place / "a").read_text() == "new"


def test_a_small_file_is_one_request(bucket: ObjectPath, proxy: Proxy) -> None:
    write_text(bucket / "warm", "")
    proxy.log.clear()
    write_bytes(bucket / "part", memoryview(bytes(100_000)))
    assert [method for method, _ in proxy.log] == ["PUT"]


def test_large_files_go_in_pieces_and_come_back_whole(bucket: ObjectPath, tmp_path: Path) -> None:
    data = os.urandom(25_000_000)
    (tmp_path / "here").write_bytes(data)
    (bucket / "large").upload(tmp_path / "here")
    (bucket / "large").download(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == data
    assert bucket.objects()["large"].size == len(data)


@pytest.mark.parametrize("fault", ["refuse", "unavailable", "drop", "lose", "slow"])
def test_whatever_fails_for_a_moment_is_tried_again(
    bucket: ObjectPath, proxy: Proxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_path, "_WAITS", (0.0, 0.0, 0.0))
    write_text(bucket / "warm", "")
    proxy.faults, proxy.first = (fault,), 4  # more than the client itself tries
    write_text(bucket / "a", "text")
    assert proxy.injected == (1 if fault == "slow" else 4)
    proxy.first = 4
    assert (bucket / "a").read_text() == "text" and names_in(bucket) == ["a", "warm"]
    proxy.first = 1
    (bucket / "a").unlink(missing_ok=True)
    assert names_in(bucket) == ["warm"]


def test_an_answer_that_breaks_off_is_not_taken_for_a_shorter_file(
    bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(object_path, "_WAITS", (0.0, 0.0, 0.0))
    write_bytes(bucket / "a", bytes(range(250)) * 1000)
    proxy.faults, proxy.only, proxy.first = ("truncate",), ("GET",), 4
    assert (bucket / "a").read_bytes() == bytes(range(250)) * 1000
    proxy.first = 4
    (bucket / "a").download(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == bytes(range(250)) * 1000 and proxy.injected == 8


def test_google_s_client_which_tries_again_by_itself_loses_nothing_either(
    google_bucket: ObjectPath, google_proxy: Proxy
) -> None:
    data = bytes(range(250)) * 1000
    google_proxy.faults, google_proxy.only, google_proxy.first = ("truncate",), ("GET",), 1
    write_bytes(google_bucket / "a", data)
    assert (google_bucket / "a").read_bytes() == data and google_proxy.injected == 1
    faults: tuple[Fault, ...] = ("refuse", "unavailable", "drop", "lose", "slow")
    for fault in faults:
        google_proxy.faults, google_proxy.only, google_proxy.first = (fault,), ("PUT",), 1
        write_text(google_bucket / fault, fault)
        assert (google_bucket / fault).read_text() == fault
    assert google_proxy.injected == 1 + len(faults) and names_in(google_bucket) == sorted(["a", *faults])


def test_a_file_that_is_replaced_while_it_is_read_comes_whole(store: Store) -> None:
    """The client asks for the size, and then for the bytes: what is written in between must not be cut to that size."""
    bucket, proxy = store.folder, store.proxy
    write_bytes(bucket / "a", b"old")
    direct = replace(bucket, endpoint=f"http://{proxy.upstream}")
    assert (direct / "a").exists(), "its first contact"

    def replace_once(method: str, path: str) -> None:
        if method == "GET" and path.endswith(("/a", "%2Fa")):
            proxy.before = None
            (direct / "a").write_bytes(b"newer and longer")

    proxy.before = replace_once
    # Google's client has the bytes on their way before it asks for anything else.
    expected = b"newer and longer" if bucket.scheme == "s3" else b"old"
    assert (bucket / "a").read_bytes() == expected and proxy.before is None


def test_what_fails_for_long_is_an_oserror_that_names_the_place(
    bucket: ObjectPath, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    write_text(bucket / "warm", "")
    proxy.faults, proxy.share = ("refuse",), 1.0
    with pytest.raises(OSError, match="PutObject") as error:
        (bucket / "a").write_bytes(b"")
    assert error.value.filename == f"{bucket}/a" and error.value.errno is not None
    assert naps == [0.3, 1.0, 3.0]
