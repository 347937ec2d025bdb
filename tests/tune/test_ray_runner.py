import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from ensemble_tune.errors import ConfigError
from ensemble_tune.tune.ray_start import start_ray
started = time.monotonic()
try:
    start_ray(sys.argv[1])
except ConfigError as error:
    print(error)
assert time.monotonic() - started < 15
"""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_answers_is_one_line_at_once(address: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"no Ray cluster answers at {address!r} (")
    assert "); check --address or leave it out, and" in done.stdout and done.stdout.count("\n") == 1
