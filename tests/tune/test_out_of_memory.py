import subprocess
import sys

import cv2
import numpy as np
import pytest

from ensemble_tune.errors import OutOfMemoryError, TrainingError
from ensemble_tune.tune.out_of_memory import ran_out


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
        (_opencv_s(), "machine"),
        (TrainingError("the loss is nan"), None),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
    ],
)
def test_whose_memory_ran_out(error: Exception, whose: str | None) -> None:
    assert ran_out(error) == whose


PROGRAM = """
import numpy as np
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
