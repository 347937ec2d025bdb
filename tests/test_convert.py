import io
import json
import re
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from tiles import CLASSES
from tiny_run import TRAINED_FUSION, hand_written
from torch import nn

from ensemble_tune import cli
from ensemble_tune.convert import convert_ensemble
from ensemble_tune.ensemble.base_model import BaseModel, build_base_model
from ensemble_tune.ensemble.fusion import build_fusion
from ensemble_tune.ensemble.image_file import read_image, read_mask, resized
from ensemble_tune.ensemble.scoring import labels_at
from ensemble_tune.ensemble.trained_ensemble import assemble
from ensemble_tune.ensemble.training_state import WEIGHTS_FILE
from ensemble_tune.errors import ConfigError, RunError
from ensemble_tune.object_path import ObjectPath
from ensemble_tune.segment import segment_images


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a final training leaves, but for the training: two tiny members and a fusion with random weights."""
    final = tmp_path_factory.mktemp("run") / "final"
    manifest = replace(hand_written(final.parent, fusion=TRAINED_FUSION), classes=CLASSES)
    saved = []
    for place, base in enumerate(manifest.bases):
        model = build_base_model(base, len(CLASSES))
        _make_undecided(model)
        saved.append([_saved(model, final.parent / f"{place}")])
    fusion = _saved(build_fusion(manifest.fusion, len(saved), len(CLASSES)), final.parent / "fusion")
    assemble(final / "ensemble", manifest, saved, fusion)
    return final


def _make_undecided(model: BaseModel) -> None:
    """Gives every class the same mean and spread of its logits, so that none wins everywhere."""
    last = [module for module in model.network.modules() if isinstance(module, nn.Conv2d)][-1]
    assert last.bias is not None
    noise = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spread, mean = torch.std_mean(model.eval()(noise), (0, 2, 3))
        last.weight.mul_(2 / spread.view(-1, 1, 1, 1))
        last.bias.sub_(mean).mul_(2 / spread)


def _saved(model: nn.Module, folder: Path) -> Path:
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS_FILE)
    return folder


@pytest.fixture(scope="module")
def told(final: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file that the command line wrote from a run, and what it printed."""
    file = tmp_path_factory.mktemp("converted") / "deep" / "[model].onnx"
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["ensemble-tune", "convert", str(final.parent), "--to", str(file)])
        cli.main()
    assert not end.value.code
    return file, printed.getvalue()


def test_convert_says_what_it_wrote_and_how_well_that_predicts(told: tuple[Path, str]) -> None:
    assert re.fullmatch(rf"wrote {re.escape(str(told[0]))}; on a made-up picture ONNX Runtime gives .*%.*\n", told[1])
    assert [path.name for path in told[0].parent.iterdir()] == ["[model].onnx"]


def test_a_file_gives_the_masks_of_segment(told: tuple[Path, str], final: Path, tiles: Path, tmp_path: Path) -> None:
    """By the same steps: to the working size, through the graph, and the logits back to the image's own size."""
    session = onnxruntime.InferenceSession(str(told[0]))
    for mask in segment_images(final, tiles / "test", tmp_path / "masks"):
        image = read_image(tiles / "test" / mask.name)
        working = resized(image, (32, 32)).transpose(2, 0, 1)[None]
        (logits,) = session.run(["logits"], {"images": working})
        labels = labels_at(torch.from_numpy(logits)[0], image.shape[:2]).numpy()
        assert len(np.unique(labels)) > 1 and np.mean(read_mask(mask) == labels) > 0.99


def test_an_ensemble_is_converted_into_an_object_store(final: Path, bucket: ObjectPath) -> None:
    for _ in range(2):
        (name, *_) = convert_ensemble(final / "ensemble", bucket / "smp", form="smp").models
    assert json.loads((bucket / "smp" / name / "config.json").read_text())["_model_class"] == "Linknet"


def test_a_file_that_no_ending_explains_needs_a_format(final: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to must end in \.onnx, but got .*model; name it so, or add --format smp"):
        convert_ensemble(final, tmp_path / "model")
    with pytest.raises(ConfigError, match="no format is called 'onxx'; did you mean 'onnx'"):
        convert_ensemble(final, tmp_path / "model", form="onxx")  # type: ignore[arg-type]


def test_what_cannot_be_converted_or_written_is_refused(final: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no trained ensemble is in .*; train one with"):
        convert_ensemble(tmp_path, tmp_path / "model.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"--to is the file to write, but .* is a folder; try .*/model\.onnx"):
        convert_ensemble(final, tmp_path / "folder.onnx")
    with pytest.raises(ConfigError, match="must be a folder that can be written to"):
        convert_ensemble(final, Path("/proc/model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.onnx"]


def test_members_are_written_as_folders_of_smp_and_written_anew(final: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = convert_ensemble(final, tmp_path / "smp", form="smp")
        assert done.agreement is None and len(done.models) >= 1
        assert sorted(path.name for path in (tmp_path / "smp").iterdir()) == sorted(done.models)
    network = smp.from_pretrained(str(tmp_path / "smp" / done.models[0])).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_a_folder_with_anything_else_in_it_is_never_replaced(final: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")
    with pytest.raises(ConfigError, match=r"a new folder for smp's, but .*mine holds thesis\.txt; choose another"):
        convert_ensemble(final, tmp_path / "mine", form="smp")
    with pytest.raises(ConfigError, match=r"--to is the folder to write, but .*thesis\.txt is a file"):
        convert_ensemble(final, tmp_path / "mine" / "thesis.txt", form="smp")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all my work"
    another = tmp_path / "models" / "bert"
    another.mkdir(parents=True)
    (another / "config.json").write_text("{}")
    done = convert_ensemble(final, tmp_path / "smp", form="smp")
    tuned = tmp_path / "smp" / done.models[0] / "fine-tuned.safetensors"
    tuned.write_bytes(b"days of work")
    for folder, holds in ((tmp_path / "models", "bert"), (tmp_path / "smp", done.models[0])):
        with pytest.raises(ConfigError, match=f"a new folder for smp's, but .* holds {holds}; choose another"):
            convert_ensemble(final, folder, form="smp")
    assert (another / "config.json").exists() and tuned.exists()
