import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from s3_server import ENVIRONMENT, Proxy, Store, faulty_proxy, google_server, make_bucket, make_google_bucket, s3_server
from tiles import write_tiles
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from ensemble_tune.object_path import ObjectPath
from ensemble_tune.storage import Location, location

if TYPE_CHECKING:
    from tiny_run import Finished

_ON_THEIR_OWN = ("tests/cluster/", "tests/ensemble/", "tests/fuzz/", "tests/tune/")

# No test may join a cluster that happens to run on this machine.
os.environ.pop("RAY_ADDRESS", None)
os.environ |= ENVIRONMENT
# Ray's workers are nice to whatever else runs here, and would be waited for too long.
os.environ |= {"RAY_worker_niceness": "0"}
# A test that asks Ray something without having started it fails, and does not join whatever it finds.
os.environ |= {"RAY_ENABLE_AUTO_CONNECT": "0"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """With `-n 2`, a file at a time to whoever is free, but those together that share the finished run.

    They come first, and beside them the SSH hosts, which mostly wait.
    """
    config.option.loadscopereorder = False
    return ByFile(config, log)


class ByFile(LoadScopeScheduling):
    """Hands out files of tests."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file.startswith(_ON_THEIR_OWN) else "of the finished run"


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set: 12 training frames in two sequences, 4 of val, 4 of test."""
    return write_tiles(tmp_path_factory.mktemp("data") / "tiles")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded frames, shared by all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Trials set the threads of the process that they run in; other tests get theirs back."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> "Finished":
    """A whole run on the tiles, interrupted in every stage, in a folder as people name them; never write to it."""
    from tiny_run import finish

    return finish(tiles, tmp_path_factory.mktemp("finished") / "ein Lauf ü")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """An S3 server's address."""
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the server, which addresses go to during the test; without faults at first."""
    with faulty_proxy(server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        yield proxy


@pytest.fixture
def bucket(server: str, proxy: Proxy) -> ObjectPath:
    """A folder in a new bucket, behind the proxy."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_bucket(server, name)
    return ObjectPath.parse(f"s3://{name}/runs")


@pytest.fixture(scope="session")
def google() -> Iterator[str]:
    """The address of a server of Google's kind."""
    with google_server() as address:
        yield address


@pytest.fixture
def google_proxy(google: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before it, which addresses go to during the test; without faults at first."""
    with faulty_proxy(google) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.address)
        yield proxy


@pytest.fixture
def google_bucket(google: str, google_proxy: Proxy) -> ObjectPath:
    """A folder in a new bucket of Google's kind, behind the proxy."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    make_google_bucket(google, name)
    return ObjectPath.parse(f"gs://{name}/runs")


@pytest.fixture(params=["bucket", "google_bucket"])
def store(request: pytest.FixtureRequest) -> Store:
    """A folder in a new bucket of either kind."""
    proxy = {"bucket": "proxy", "google_bucket": "google_proxy"}[request.param]
    return Store(request.getfixturevalue(request.param), request.getfixturevalue(proxy))


@pytest.fixture(params=["disk", "bucket", "google_bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder that does not exist yet, on a disk and in object stores of both kinds."""
    if request.param == "disk":
        return tmp_path / "runs"
    return location(request.getfixturevalue(request.param))
