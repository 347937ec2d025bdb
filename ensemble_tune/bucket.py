"""A connection to a bucket: who may use it, how long it may take to answer, and what is said where it does not.

Credentials are the client's own affair: the machine's role, or the store's standard environment variables and files.
"""

from __future__ import annotations

import re
import threading
import time
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ensemble_tune.errors import NoStoreError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_CONNECT_SECONDS, _REQUEST_SECONDS, _ATTEMPTS = 3.0, 20.0, 3
"""Of one request, and how often the client itself tries it, with a second or two between."""
_CONTACT_SECONDS = 9.0
"""How long a bucket may take to answer for the first time: a mistake is told within ten seconds."""
_CLOSED = re.compile(
    "NO_SUCH_BUCKET|ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED|UNRECOGNIZED_CLIENT"
    "|HTTP status 40[0-3]|PERMISSION_DENIED|UNAUTHENTICATED|[Cc]redential"
)
"""What a store says to those who may not come in."""
_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"),
}
"""What a user sets, by scheme: for credentials, and for a server that is not the scheme's own."""


@lru_cache(maxsize=8)
def open_bucket(scheme: str, bucket: str, endpoint: str, region: str) -> FileSystem:
    """A connection to a bucket that has answered once. Raises NoStoreError, in some seconds, where it does not."""
    try:
        from pyarrow import fs  # noqa: F401  # here, since it takes a moment that is not the store's
    except ImportError as error:
        raise NoStoreError(_first_failure(scheme, bucket, endpoint, error)) from error
    outcome: list[FileSystem | BaseException] = []
    until = time.monotonic() + _CONTACT_SECONDS

    def connect() -> None:
        while True:
            try:
                outcome.append(_connection(scheme, bucket, endpoint, region))
                return
            except BaseException as error:
                passes = isinstance(error, OSError) and not _is_for_good(error)
                if not passes or time.monotonic() + _CONTACT_SECONDS / 3 > until:
                    outcome.append(error)
                    return
            time.sleep(0.3)

    # A thread, because a name server, a proxy and a machine's own credentials each have patience of their own.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(_CONTACT_SECONDS)
    answer = outcome[0] if outcome else OSError(f"no answer in {_CONTACT_SECONDS:g} s")
    if not isinstance(answer, BaseException):
        return answer
    if not isinstance(answer, OSError | ImportError):
        raise answer
    raise NoStoreError(_first_failure(scheme, bucket, endpoint, answer)) from answer


def _connection(scheme: str, bucket: str, endpoint: str, region: str) -> FileSystem:
    """A connection; raises OSError where the bucket is not there or not open to us, ImportError without the client."""
    from pyarrow import ArrowException, fs

    store: Any
    protocol, _, server = endpoint.rpartition("://")
    protocol = protocol or ("https" if scheme == "s3" else "http")
    given: dict[str, Any] = {"scheme": protocol, "endpoint_override": server.rstrip("/")} if server else {}
    if scheme == "s3":
        store = fs.S3FileSystem(
            region=region or ("us-east-1" if server else fs.resolve_s3_region(bucket)),
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_REQUEST_SECONDS,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
            allow_delayed_open=True,  # what is small is one request then, instead of three
            **given,
        )
    else:
        # As Google's own clients do, where an emulator is named: it knows no credentials.
        given["anonymous"] = bool(server)
        store = fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_REQUEST_SECONDS), **given)
    try:
        found = store.get_file_info(bucket).type
    except ArrowException as error:
        raise OSError(str(error)) from error
    if found == fs.FileType.NotFound:
        raise FileNotFoundError("there is no such bucket")
    return store


def _is_for_good(error: OSError) -> bool:
    """Whether trying again is of no use: no such bucket, or one that is closed to us."""
    return isinstance(error, FileNotFoundError) or _CLOSED.search(str(error)) is not None


def _first_failure(scheme: str, bucket: str, endpoint: str, error: Exception) -> str:
    """Why a bucket cannot be used, in one line with the remedy."""
    reason = " ".join(str(error).split())
    place = f"{scheme}://{bucket}{f' at {endpoint}' if endpoint else ''}"
    key, server = _VARIABLES[scheme]
    if isinstance(error, ImportError):
        return f"{scheme}:// needs a pyarrow that was built with it, but {reason}; install pyarrow from PyPI"
    if isinstance(error, FileNotFoundError) or "NO_SUCH_BUCKET" in reason:
        return f"an address names a bucket that is there, but {place} is not; make it, or mend the address"
    if _CLOSED.search(reason):
        return (
            f"{place} must be open to this machine's credentials, but is not ({reason}); give the machine a role, or "
            f"set the store's standard variables, such as {key}"
        )
    return f"{place} must answer, but does not ({reason}); check the network, the address and {server}"
