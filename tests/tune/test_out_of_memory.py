import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ensemble_tune.errors import OutOfMemoryError, TrainingError
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.out_of_memory import OF_RAY_S_MONITOR, ran_out
from ensemble_tune.tune.record import Status


class _Torch:
    class OutOfMemoryError(RuntimeError): ...


def _opencv_s() -> Exception:
    """What OpenCV raises where an image does not fit the memory: here one of 2**46 bytes."""
    try:
        cv2.resize(np.zeros((1, 1), np.uint8), (2**23, 2**23))
    except cv2.error as error:
        return error
    raise AssertionError("it fitted")


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (OutOfMemoryError("a step must fit"), "gpu"),
        (_Torch.OutOfMemoryError("CUDA out of memory"), "gpu"),
        (MemoryError(), "machine"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), "machine"),
        (RuntimeError("CUDA error: out of memory"), "gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), "gpu"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "gpu"),
        (_opencv_s(), "machine"),
        (TrainingError("the loss is nan"), None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
    ],
)
def test_whose_memory_ran_out(error: Exception, whose: str | None) -> None:
    assert ran_out(error) == whose


PROGRAM = """
import numpy as np
from ensemble_tune.tune.ledger import LEDGER, Ledger
from ensemble_tune.tune.out_of_memory import keep_to_memory, ran_out

keep_to_memory(600 * 2**20)
held = np.ones(300 * 2**20, np.uint8)
try:
    np.ones(400 * 2**20, np.uint8)
except Exception as error:
    print(ran_out(error))
del held
held = np.ones(400 * 2**20, np.uint8)
keep_to_memory(None)
more = np.ones(400 * 2**20, np.uint8)
print("lifted")
"""


def test_a_process_is_kept_to_its_part_of_the_machine_until_that_is_lifted() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["machine", "lifted"], done.stderr


WATCHED = """
import sys
from pathlib import Path
from counting_search import search

search(Path(sys.argv[1]), 1, 3, 60.0).run()
"""


def test_a_trial_that_ray_s_monitor_kills_is_out_of_memory(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # So little that any worker is too much, whatever else this machine does.
    environment |= {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    environment["PYTHONPATH"] = f"{Path(__file__).parent}:{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    (killed,) = Ledger(tmp_path / LEDGER).trials()
    assert (killed.status, killed.epochs) == (Status.OUT_OF_MEMORY, 0)
    assert killed.error is not None and killed.error.startswith("out of memory with no GPU, the second time: ")
    assert OF_RAY_S_MONITOR in killed.error and "documentation" not in killed.error
