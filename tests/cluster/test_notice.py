"""A machine that will be taken away is told from one that is not, as each cloud tells it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ensemble_tune.cluster.notice import Notice, aws_notice, file_notice, gcp_notice, source
from ensemble_tune.errors import ConfigError


class Metadata(BaseHTTPRequestHandler):
    """Both clouds' metadata services, as their guides describe them; `goes` says whether there is a notice."""

    goes = False

    def do_PUT(self) -> None:
        asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._answer("secret" if asked and self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        if self.path == "/latest/meta-data/spot/instance-action":
            told = '{"action": "terminate", "time": "2026-01-02T03:04:05Z"}' if self.goes else None
            self._answer(told if self.headers.get("X-aws-ec2-metadata-token") == "secret" else None)
        elif self.path == "/computeMetadata/v1/instance/preempted":
            told = "TRUE" if self.goes else "FALSE"
            self._answer(told if self.headers.get("Metadata-Flavor") == "Google" else None)
        else:
            self._answer(None)

    def _answer(self, text: str | None) -> None:
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_each_cloud_s_notice_is_told_with_the_time_that_is_left(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert aws_notice(metadata) is None and gcp_notice(metadata) is None
    monkeypatch.setattr(Metadata, "goes", True)
    aws, gcp = aws_notice(metadata), gcp_notice(metadata)
    assert aws is not None and aws.seconds == 120
    assert gcp is not None and gcp.seconds == 30


def test_the_machine_itself_is_asked_whatever_the_proxy(metadata: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metadata, "goes", True)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert aws_notice(metadata) is not None


def test_where_nobody_answers_there_is_no_notice() -> None:
    assert aws_notice("http://127.0.0.1:1") is None and gcp_notice("http://127.0.0.1:1") is None


def test_a_file_is_a_notice_once_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "leave"
    ask = source(str(path))
    assert ask() is None
    path.touch()
    assert ask() == Notice(f"{path} is there", 60)
    path.write_text("5\n")
    assert file_notice(path) == Notice(f"{path} is there", 5)


def test_no_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="aws, gcp or the path"):
        source(" ")


def test_whoever_watches_says_what_for_before_anything_happens(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ensemble_tune", "cluster", "watch", "--notice", str(tmp_path / "leave")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        process.kill()
    assert told == f"watching {tmp_path / 'leave'} for the notice that this machine is taken away\n"
