import torch

from ensemble_tune.ensemble.gpu_share import CONTEXT_BYTES, allocated_fraction, gpu_bytes, keep_to_share, most_taken
from ensemble_tune.trial import Share

GIB = 2**30


def test_a_process_needs_more_of_a_card_than_its_tensors() -> None:
    assert gpu_bytes(0) > CONTEXT_BYTES
    assert 1.05 * GIB < gpu_bytes(2 * GIB) - gpu_bytes(GIB) < 1.2 * GIB


def test_tensors_may_take_a_share_without_what_cuda_takes() -> None:
    quarter = (4 * GIB - CONTEXT_BYTES) / (16 * GIB)
    assert allocated_fraction(Share(cpus=1, gpus=0.25, gpu_bytes=4 * GIB), 16 * GIB) == quarter
    assert allocated_fraction(Share(cpus=1, gpus=0.25), 16 * GIB) == quarter, "of a card whose size nobody told"
    assert allocated_fraction(Share(cpus=1, gpus=1, gpu_bytes=32 * GIB), 16 * GIB) == 1
    assert allocated_fraction(Share(cpus=1, gpus=1, gpu_bytes=CONTEXT_BYTES // 2), 16 * GIB) == 0
    for unbounded in (None, Share(cpus=1, gpus=1), Share(cpus=1, gpus=0)):
        assert allocated_fraction(unbounded, 16 * GIB) == 1


def test_what_fits_by_the_estimate_fits_the_limit() -> None:
    for counted in (100 * 2**20, 3 * GIB, 70 * GIB):
        share = Share(cpus=1, gpus=1, gpu_bytes=gpu_bytes(counted))
        assert allocated_fraction(share, 80 * GIB) * 80 * GIB >= 1.1 * counted - 1


def test_a_processor_is_no_card() -> None:
    keep_to_share(torch.device("cpu"))
    assert most_taken(torch.device("cpu")) is None
