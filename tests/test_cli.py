import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiles import write_tiles
from tiny_run import BASES, FOLDS, Finished, run_command, settings, write_spaces
from written_run import base, usual_run, write_run

from ensemble_tune import cli, results
from ensemble_tune.base_search import search_base
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.stage_data import StageData
from ensemble_tune.errors import RunError, quoted
from ensemble_tune.meta_search import checked_space
from ensemble_tune.tune.search_space import SearchSpace


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line of a command that was refused."""
        assert self.status == 2, self
        (line,) = self.err.splitlines()
        assert line.startswith("error: ") and self.out == "", self
        return line


Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, which has imported torch already."""

    def call(*words: object) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["ensemble-tune", *(str(word) for word in words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return Ended(int(end.value.code or 0), out, err)

    return call


@pytest.fixture
def places_of(tmp_path: Path, tiles: Path, cache: Path) -> dict[str, object]:
    """What the words DATA, OUT, ... of a command line stand for."""
    file = tmp_path / "file"
    file.write_text("not a folder, not TOML either: [")
    (tmp_path / "best.toml").write_text(f"folds = {FOLDS}\nsize = '32x32'\nbatch_size = 4\n{BASES}")
    base_space, meta_space = write_spaces(tmp_path / "spaces")
    (tmp_path / "sized.toml").write_text('[parameters]\nsize = { choices = ["32x32", "64x64"] }\n')
    return {
        "SIZED": tmp_path / "sized.toml",
        "DATA": tiles,
        "CACHE": cache,
        "OUT": tmp_path / "out",
        "FILE": file,
        "UNDER_FILE": file / "under",
        "NOTHING": tmp_path / "nothing",
        "FOLDER": tmp_path,
        "RUN": usual_run(tmp_path / "run"),
        "BASES_ONLY": write_run(tmp_path / "bases", base(0, 0.4), base(1, 0.5)),
        "BEST": tmp_path / "best.toml",
        "BASE_SPACE": base_space,
        "META_SPACE": meta_space,
    }


SEARCH_BASE = "search base --data DATA --out OUT --cache CACHE --space BASE_SPACE --size 32x32 --trials 1 --folds 2"
SEARCH_META = "search meta --data DATA --out RUN --cache CACHE --space META_SPACE --folds 2"
RUN = "run --data DATA --out OUT --cache CACHE --base-space BASE_SPACE --meta-space META_SPACE --size 32x32 --folds 2"
RUN += " --base-trials 2 --meta-trials 2"
TRAIN = "train BEST --data DATA --out OUT --cache CACHE"
SEGMENT = "segment NOTHING FOLDER --out OUT"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # search base
        (f"{SEARCH_BASE} --data NOTHING", "no folder is at "),
        (f"{SEARCH_BASE} --data FOLDER", "train needs the folder "),
        (f"{SEARCH_BASE} --data synthetic:x", "the seed of synthetic must be a whole number, but got 'x'"),
        (f"{SEARCH_BASE} --space bas", "no search space is called 'bas'; did you mean 'base'?"),
        (f"{SEARCH_BASE} --space NOTHING.toml", "a search space is a readable TOML file, but "),
        (f"{SEARCH_BASE} --space FILE", "is not valid TOML: "),
        (f"{SEARCH_BASE} --space meta", "no parameter is called 'kind'"),
        (f"{SEARCH_BASE} --sampler tpee", "no sampler is called 'tpee'; did you mean 'tpe'?"),
        (f"{SEARCH_BASE} --scheduler hasha", "no scheduler is called 'hasha'; did you mean 'asha'?"),
        (f"{SEARCH_BASE} --trials 0", "--trials and --epochs must be at least 1, but got 0 and 30"),
        (f"{SEARCH_BASE} --trials -1", "must be at least 1, but got -1"),
        (f"{SEARCH_BASE} --epochs 0", "must be at least 1, but got 1 and 0"),
        (f"{SEARCH_BASE} --keep 0", "--keep must be at least 1, but got 0"),
        (f"{SEARCH_BASE} --sampler grid", "a grid needs finitely many values, but "),
        (f"{SEARCH_BASE} --grace 0", "grace must be at least 1 and factor at least 2, but got 0 and 2; try 1 and 3"),
        (f"{SEARCH_BASE} --scheduler median --factor 1", "factor at least 2, but got 12 and 1"),
        (f"{SEARCH_BASE} --hours 0", "--hours must be above 0, but got 0; leave it out for no such limit"),
        (f"{SEARCH_BASE} --gpu-hours nan", "--gpu-hours must be above 0, but got nan"),
        (f"{SEARCH_BASE} --cost 5", "--cost needs --price, what a machine costs an hour"),
        (f"{SEARCH_BASE} --patience 0", "--patience must be above 0"),
        (f"{SEARCH_BASE} --target miou", "a target must be NAME=SCORE, but got 'miou'; try miou=0.6"),
        (f"{SEARCH_BASE} --target mioo=0.6", "a score that the search makes better, but got mioo=0.6; try miou=SCORE"),
        (
            f"{SEARCH_BASE} --objective milliseconds:min",
            "the first objective must be a score that is better",
        ),
        (f"{SEARCH_BASE} --objective miou:up", "an objective must be NAME or NAME:min, but got 'miou:up'"),
        (f"{SEARCH_BASE} --objective miou --objective miou", "objectives must differ, but got miou, miou"),
        (f"{SEARCH_BASE} --points NOTHING", "given points are a readable TOML file, but "),
        (f"{SEARCH_BASE} --warm-start NOTHING", "a warm start reads another run's ledger, but "),
        (f"{SEARCH_BASE} --folds 1", "--folds must be at least 2 and at most the 12 training frames, but got 1"),
        (f"{SEARCH_BASE} --folds -2", "--folds must be at least 2"),
        (f"{SEARCH_BASE} --folds 13", "--folds must be at least 2 and at most the 12 training frames, but got 13"),
        (f"{SEARCH_BASE} --folds 2.5", "Invalid value for '--folds': "),
        (f"{SEARCH_BASE} --split block", "Invalid value for '--split': "),
        (f"{SEARCH_BASE} --size big", "a size is HEIGHTxWIDTH in pixels, but got 'big'; try 360x480"),
        (f"{SEARCH_BASE} --size 0x0", "a size is HEIGHTxWIDTH in pixels, but got '0x0'"),
        (f"{SEARCH_BASE} --size 16x16", "size must be at least 32x32 pixels, but got '16x16'"),
        (f"{SEARCH_BASE} --seed -1", "Invalid value for '--seed': "),
        (f"{SEARCH_BASE} --cpus-per-trial 0", "--cpus-per-trial must be above 0, but got 0.0; try 1"),
        (f"{SEARCH_BASE} --cpus-per-trial -1", "--cpus-per-trial must be above 0"),
        (f"{SEARCH_BASE} --cpus-per-trial nan", "--cpus-per-trial must be above 0"),
        (f"{SEARCH_BASE} --cpus-per-trial inf", "--cpus-per-trial must be above 0"),
        (f"{SEARCH_BASE} --gpus-per-trial -1", "--gpus-per-trial must be a fraction of 1 or a whole number"),
        (f"{SEARCH_BASE} --gpus-per-trial 1.5", "--gpus-per-trial must be a fraction of 1 or a whole number"),
        (f"{SEARCH_BASE} --gpus-per-trial nan", "--gpus-per-trial must be a fraction of 1 or a whole number"),
        (f"{SEARCH_BASE} --gpus-per-trial many", "must be auto or a number, but got 'many'; try 0.25"),
        (f"{SEARCH_BASE} --gpus-per-trial auto --trials 0", "--trials and --epochs must be at least 1"),
        (f"{SEARCH_BASE} --memory-per-trial -1", "--memory-per-trial must be 0 GiB or more, but got -1.0"),
        (f"{SEARCH_BASE} --encoder-weights imagnet", "there is no file 'imagnet'"),
        (f"{SEARCH_BASE} --out FILE", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --out UNDER_FILE", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --out /proc/run", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --cache UNDER_FILE", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --cache /proc/cache", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --out RUN", "a run folder holds trials that can be compared"),
        ("search base --out OUT", "Missing option '--data'"),
        ("search bass", "No such command 'bass'"),
        # search meta
        (f"{SEARCH_META} --out NOTHING", "no search is in "),
        (f"{SEARCH_META} --out FILE", "no search is in "),
        (SEARCH_META, "both stages need the same data, but the base trials in "),
        (f"{SEARCH_META} --data NOTHING", "no folder is at "),
        (f"{SEARCH_META} --split blocks", "had official and --split is blocks; add --split official"),
        (f"{SEARCH_META} --trials -1", "--trials must be at least 0 and --epochs at least 1, but got -1 and 30"),
        (f"{SEARCH_META} --epochs 0", "--epochs at least 1, but got 30 and 0"),
        (f"{SEARCH_META} --keep 0", "--keep must be at least 1, but got 0"),
        (f"{SEARCH_META} --deploy refitt", "Invalid value for '--deploy': "),
        (f"{SEARCH_META} --stacking in_sample", "Invalid value for '--stacking': "),
        # run
        ("run --data NOTHING --out OUT --cache CACHE", "no folder is at "),
        (f"{RUN} --base-trials 0", "--trials and --epochs must be at least 1, but got 0"),
        (f"{RUN} --folds 0", "--folds must be at least 2"),
        (f"{RUN} --base-space SIZED", "size is one for all trials of a search, but "),
        (f"{RUN} --base-space bas", "no search space is called 'bas'; did you mean 'base'?"),
        (f"{RUN} --meta-space mete", "no search space is called 'mete'; did you mean 'meta'?"),
        (f"{RUN} --meta-space BASE_SPACE", "no parameter is called 'architecture'"),
        (f"{RUN} --meta-trials -1", "--meta-trials must be at least 0 and --meta-epochs at least 1, but got -1 and 30"),
        (f"{RUN} --meta-epochs 0", "--meta-epochs at least 1, but got 2 and 0"),
        (f"{RUN} --bases 3", "--bases must be within 1 and the 2 base trials, but got 3"),
        (f"{RUN} --bases 0", "--bases must be within 1 and the 2 base trials, but got 0"),
        (f"{RUN} --sampler tpee", "no sampler is called 'tpee'"),
        (f"{RUN} --size 0", "a size is HEIGHTxWIDTH"),
        # results
        ("results NOTHING", "no search is in "),
        ("results FILE", "no search is in "),
        ("results RUN --trial base-1", "has no trial 'base-1'; did you mean 'base-0001'?"),
        ("results RUN --objective mioo", "has no score 'mioo'; did you mean 'miou'?"),
        # plan
        ("plan NOTHING", "no search is in "),
        ("plan RUN --slots 1,x", "--slots must be whole numbers with commas, but got '1,x'; try 1,4,16"),
        ("plan RUN --slots 0", "a plan needs at least 1 slot, 1 trial and 1 repeat, but got --slots 0"),
        ("plan RUN --scheduler hasha", "no scheduler is called 'hasha'; did you mean 'asha'?"),
        ("plan RUN --price 0", "--price must be above 0, but got 0"),
        # export
        ("export RUN --pick kneee", "a pick is best, knee or a bound such as"),
        ("results RUN --top 0", "Invalid value for '--top': "),
        ("results", "Missing argument"),
        # export
        ("export NOTHING", "no search is in "),
        ("export BASES_ONLY --to OUT", "no fusion has ended in "),
        ("export RUN --to FOLDER", "--to is the file to write, but "),
        ("export RUN --to UNDER_FILE/best.toml", "must be a folder that can be written to"),
        ("export RUN --to /proc/x/best.toml", "must be a folder that can be written to"),
        # train
        (f"{TRAIN} --data NOTHING", "no folder is at "),
        (f"{TRAIN} --data DATA --run NOTHING", "no search is in "),
        ("train BEST --out OUT --cache CACHE", "does not say where the data is; add --data DATA"),
        ("train NOTHING --data DATA --out OUT", "no manifest is at "),
        ("train FILE --data DATA --out OUT", "a manifest is a readable TOML file, but "),
        ("train FOLDER --data DATA --out OUT", "a manifest is a readable TOML file, but "),
        (f"{TRAIN} --epochs 0", "epochs must be at least 1, but got 0"),
        (f"{TRAIN} --epochs -3", "epochs must be at least 1, but got -3"),
        (f"{TRAIN} --batch-size 0", "batch_size must be at least 1, but got 0"),
        (f"{TRAIN} --batch-size 100", "batch_size must be at most 6, the frames of the smallest training, but got 100"),
        (f"{TRAIN} --learning-rate 0", "learning_rate must be above 0 and at most 1, but got 0.0"),
        (f"{TRAIN} --learning-rate -1", "learning_rate must be above 0 and at most 1, but got -1.0"),
        (f"{TRAIN} --learning-rate nan", "learning_rate must be above 0 and at most 1, but got nan"),
        (f"{TRAIN} --learning-rate fast", "Invalid value for '--learning-rate': "),
        (f"{TRAIN} --size 64", "a size is HEIGHTxWIDTH in pixels, but got '64'"),
        (f"{TRAIN} --seed -1", "Invalid value for '--seed': "),
        (f"{TRAIN} --out FILE", "must be a folder that can be written to"),
        (f"{TRAIN} --out /proc/final", "must be a folder that can be written to"),
        (f"{TRAIN} --cpus-per-trial 0", "--cpus-per-trial must be above 0"),
        # segment
        (SEGMENT, "no trained ensemble is in "),
        ("segment BEST FOLDER --out OUT", "no trained ensemble is in "),
        ("segment NOTHING", "Missing argument"),
        # convert
        ("convert NOTHING --to OUT.onnx", "no trained ensemble is in "),
        ("convert NOTHING --to OUT", "--to must end in .onnx, but got "),
        ("convert NOTHING --to OUT --format tflite", "Invalid value for '--format': "),
        ("convert NOTHING", "Missing option '--to'"),
        # tensorboard
        ("tensorboard NOTHING --to OUT", "no search is in "),
        ("tensorboard RUN --to UNDER_FILE", "must be a folder that can be written to"),
        (f"{SEARCH_BASE} --tensorboard UNDER_FILE", "must be a folder that can be written to"),
        # anything
        ("results RUN --tpo 3", "No such option: --tpo"),
        ("serach base", "No such command 'serach'"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(
    command: Command, places_of: dict[str, object], line: str, message: str
) -> None:
    assert message in command(*_words(line, places_of)).refused()


def _words(line: str, places_of: dict[str, object]) -> list[str]:
    """The words of a command line; DATA, OUT, ... stand for paths."""
    words = []
    for word in line.split():
        start, slash, rest = word.partition("/")
        start, dot, ending = start.partition(".")
        words.append(f"{places_of.get(start, start)}{dot}{ending}{slash}{rest}")
    return words


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ("0", "--bases must be within 1 and the 2 base trials that ended, but got 0"),
        ("3", "--bases must be within 1 and the 2 base trials that ended, but got 3"),
        ("base-0007", "--bases names 'base-0007', which is no base trial that ended; did you mean 'base-000"),
        ("base-0000,", "--bases names '', which is no base trial that ended"),
        ("best", "--bases names 'best', which is no base trial that ended"),
    ],
)
def test_bases_that_are_not_there_are_refused(
    command: Command, finished: Finished, tiles: Path, bases: str, message: str
) -> None:
    line = ["search", "meta", "--data", tiles, "--out", finished.out, "--cache", finished.folder / "cache"]
    assert message in command(*line, "--bases", bases, "--folds", FOLDS).refused()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "3"], "has folds 2 and this command has 3; use the same folds or another --out"),
        (["--split", "blocks"], "both stages need the same split, but the base trials in "),
        (["--deploy", "folds"], "has deploy refit and this command has folds"),
        (["--stacking", "in-sample"], "has stacking out-of-fold and this command has in-sample"),
        (["--epochs", "9"], "has epochs 8 and this command has 9"),
        (["--sampler", "tpee"], "no sampler is called 'tpee'; did you mean 'tpe'?"),
        (["--scheduler", "ash"], "no scheduler is called 'ash'; did you mean 'asha'?"),
    ],
)
def test_a_search_of_fusions_that_cannot_be_is_refused_before_any_fold_is_trained(
    command: Command, finished: Finished, tiles: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    shutil.copytree(finished.out / "ledger", tmp_path / "run" / "ledger")
    _, space = write_spaces(tmp_path / "spaces")
    line = ["search", "meta", "--data", tiles, "--out", tmp_path / "run", "--cache", finished.folder / "cache"]
    given = ["--space", space, "--folds", FOLDS, "--epochs", 8, "--trials", 1]
    ended = command(*line, *given, *options)
    assert ended.status == 2 and message in ended.err.splitlines()[-1]
    assert not (tmp_path / "run" / "predictions").exists()


def test_data_that_has_changed_is_refused(command: Command, finished: Finished, tmp_path: Path) -> None:
    other = write_tiles(tmp_path / "tiles", {"train": {"a": 6, "b": 7}, "val": {"c": 4}})
    base_space, _ = write_spaces(tmp_path / "spaces")
    line = ["search", "base", "--data", other, "--out", finished.out, "--cache", tmp_path / "cache", "--epochs", 8]
    line += ["--space", base_space, "--size", "32x32", "--folds", FOLDS, "--trials", 9]
    assert "has data " in command(*line).refused()


def test_a_search_of_base_models_is_not_resumed_under_another_split(
    command: Command, finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.out / "ledger", tmp_path / "run" / "ledger")
    base_space, _ = write_spaces(tmp_path / "spaces")
    line = ["search", "base", "--data", tiles, "--out", tmp_path / "run", "--cache", finished.folder / "cache"]
    line += ["--space", base_space, "--size", "32x32", "--folds", FOLDS, "--epochs", 8, "--trials", 9]
    message = command(*line, "--split", "blocks").refused()
    assert "has split official and this command has blocks; use the same split or another --out" in message


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("trials", "results RUN"),
        ("trials", "export RUN --to OUT"),
        ("trials", f"{SEARCH_BASE} --out RUN"),
        ("trials", SEARCH_META),
        ("epochs", "results RUN --trial base-0000"),
        ("epochs", "plan RUN"),
        ("epochs", f"{SEARCH_BASE} --out RUN"),
    ],
)
def test_a_corrupt_part_is_named_by_whatever_needs_it(
    command: Command, places_of: dict[str, object], line: str, table: str
) -> None:
    part = Path(str(places_of["RUN"])) / "ledger" / table / "base-00000.parquet"
    part.write_bytes(part.read_bytes()[:-50])
    refused = command(*_words(line, places_of)).refused()
    assert str(part) in refused and "restore or remove it" in refused


def test_batches_that_no_fold_training_could_fill_are_refused_before_any_trial(
    command: Command, places_of: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "space.toml").write_text("[parameters]\nencoder = 'tu-test_resnet'\nbatch_size = { choices = [4, 8] }")
    line = f"{SEARCH_BASE} --space {tmp_path / 'space.toml'}"
    assert "batch_size must be at most 6" in command(*_words(line, places_of)).refused()


def test_a_search_whose_trials_all_fail_says_why(tiles: Path, tmp_path: Path, cache: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("[parameters]\nencoder = 'tu-test_resnet'\nbatch_size = 4\nprecision = 'float16'")
    with pytest.raises(RunError, match=r"no base trial ended well: base-0000 failed with .*float16 needs a GPU"):
        search_base(settings(tiles, tmp_path / "run", cache), space=space, trials=1, epochs=1, size="32x32")


def test_imagenet_weights_off_line_are_refused_at_once(tiles: Path, tmp_path: Path, cache: Path) -> None:
    base_space, _ = write_spaces(tmp_path)
    base_space.write_text(base_space.read_text().replace("tu-test_efficientnet", "resnet18"))
    words = ["search", "base", "--data", tiles, "--out", tmp_path / "out", "--cache", cache, "--space", base_space]
    words += ["--size", "32x32", "--folds", "2", "--encoder-weights", "imagenet"]
    away = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    code = (
        "import sys, time, ensemble_tune.base_search\nfrom ensemble_tune.cli import main\nstarted = time.monotonic()\n"
        "try:\n    main()\nfinally:\n    print(time.monotonic() - started)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *(str(word) for word in words)],
        env={**os.environ, **away},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2 and line.startswith("error: encoder_weights 'imagenet' of ")
    assert "use --encoder-weights none, or a local state file" in line
    assert float(ended.stdout) < 5


def test_a_cluster_that_does_not_answer_is_one_line(tiles: Path, tmp_path: Path, cache: Path) -> None:
    base_space, _ = write_spaces(tmp_path)
    line = ["search", "base", "--data", tiles, "--out", tmp_path / "out", "--cache", cache, "--space", base_space]
    line += ["--size", "32x32", "--folds", 2, "--trials", 1, "--address", "127.0.0.1:1"]
    ended = _subprocess(*line)
    assert "127.0.0.1:1" in ended.refused() and "--address" in ended.refused()


def test_a_refusal_right_after_reading_the_ledger_ends_in_order(tmp_path: Path) -> None:
    # The process ends while Arrow's threads may still be at work.
    out = usual_run(tmp_path)
    for _ in range(6):
        assert "has no trial 'base-9000'" in _subprocess("results", out, "--trial", "base-9000").refused()


def _subprocess(*words: object) -> Ended:
    ended = subprocess.run(
        [sys.executable, "-m", "ensemble_tune", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize(
    "script", [[sys.executable, "-m", "ensemble_tune"], [str(Path(sys.executable).with_name("ensemble-tune"))]]
)
def test_the_installed_command_refuses_as_the_module_does(tmp_path: Path, script: list[str]) -> None:
    ended = subprocess.run([*script, "results", str(tmp_path)], capture_output=True, text=True, check=False)
    assert "no search is in " in Ended(ended.returncode, ended.stdout, ended.stderr).refused()


def test_a_fault_of_ours_is_one_line_with_a_log_that_holds_the_traceback(
    command: Command, places_of: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise LookupError("this is a bug")

    monkeypatch.setattr(results, "leaderboard", broken)
    ended = command("results", places_of["RUN"])
    assert ended.status == 1 and ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("error: LookupError: this is a bug; this is a fault of ensemble_tune, not yours: ")
    log = Path(line.rsplit(" ", 1)[1])
    text = log.read_text()
    assert "ensemble-tune results" in text and "Traceback" in text and "this is a bug" in text
    log.unlink()


def test_ctrl_c_outside_of_any_training_ends_in_order_too(
    command: Command, places_of: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "leaderboard", interrupted)
    assert command("results", places_of["RUN"]) == Ended(130, "", "interrupted; the same command goes on from here\n")


def test_a_level_of_logging_that_is_none_is_refused(command: Command) -> None:
    refused = command("--log", "loud", "results", "x").refused()
    assert "--log must be debug, info, warning or error, but got 'loud'" in refused


@pytest.mark.parametrize("words", [[], ["search"]])
def test_without_a_verb_the_help_is_shown(command: Command, words: list[str]) -> None:
    ended = command(*words)
    assert ended.status == 2 and "Usage: " in ended.out and ended.err == ""


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "run",
        "search base",
        "search meta",
        "results",
        "export",
        "train",
        "segment",
        "watch",
        "convert",
        "tensorboard",
    ],
)
def test_every_verb_has_help(command: Command, verb: str) -> None:
    ended = command(*verb.split(), "--help")
    assert ended.status == 0 and "Usage: " in ended.out and ended.err == ""


def test_results_are_printed_for_people(command: Command, places_of: dict[str, object]) -> None:
    assert "base-0001" in command("results", places_of["RUN"]).out
    assert "Learning curve" in command("results", places_of["RUN"], "--trial", "meta-0003").out


def test_export_prints_what_it_wrote_and_what_comes_next(command: Command, places_of: dict[str, object]) -> None:
    to = Path(str(places_of["OUT"])) / "[deep]" / "best.toml"
    ended = command("export", places_of["RUN"], "--to", to)
    assert ended.status == 0 and to.exists()
    run = quoted(str(places_of["RUN"]))
    assert f"wrote {to}; next: ensemble-tune train {quoted(to)} --data DATA --out OUT --run {run}" in ended.out


def test_segment_prints_how_many_masks_it_wrote(
    command: Command, finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    ended = command("segment", finished.out / "final", tiles / "val", "--out", tmp_path / "masks", "--overlays")
    assert (ended.status, ended.out) == (0, f"4 masks are in {tmp_path / 'masks'}\n")
    assert len(list((tmp_path / "masks" / "overlays").iterdir())) == 4


def test_tensorboard_prints_how_many_trials_it_wrote_and_how_to_look_at_them(
    command: Command, places_of: dict[str, object], tmp_path: Path
) -> None:
    ended = command("tensorboard", places_of["RUN"], "--to", tmp_path / "[logs]")
    told = f"wrote 7 trials; look at them with: tensorboard --logdir '{tmp_path / '[logs]'}'\n"
    assert ended == Ended(0, told, "")


def test_a_finished_run_is_summed_up_at_once(command: Command, finished: Finished, tiles: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "again")
    started = time.monotonic()
    ended = command(*run_command(tiles, tmp_path / "again")[3:])
    assert time.monotonic() - started < 15
    assert ended.status == 0, ended.err
    assert "Fusions compared" in ended.out and "best single" in ended.out and "test mIoU " in ended.out
    told = ended.err.splitlines()
    assert len(told) == 2 and told[0].startswith("members: ") and told[1].startswith("next: ensemble-tune segment ")


def test_a_search_tells_machines_what_it_does_line_by_line(
    command: Command, finished: Finished, tiles: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished.out, tmp_path / "run")
    space, _ = write_spaces(tmp_path / "spaces")
    line = ["search", "base", "--data", tiles, "--out", tmp_path / "run", "--cache", finished.folder / "cache", "--cpu"]
    line += ["--space", space, "--size", "32x32", "--folds", FOLDS, "--epochs", 8, "--scheduler", "none"]
    ended = command(*line, "--trials", 3, "--json")
    assert ended.status == 0, ended.err
    rows = [json.loads(row) for row in ended.out.splitlines()]
    events = [row["event"] for row in rows if row["event"] != "say"]
    assert events[:3] == ["begin", "trial", "end"] and events[-1] == "result"
    (own,) = [row for row in rows if row["event"] == "trial" and row["stage"] == "base"]
    assert (own["trial"], own["status"], own["epochs"]) == ("base-0002", "finished", 8)
    assert rows[-1]["best"]["score"] >= own["score"]


SHIPPED = sorted(path.stem for path in (Path(__file__).parent.parent / "search_spaces").glob("*.toml"))


@pytest.mark.parametrize("space", [name for name in SHIPPED if "meta" not in name])
def test_every_shipped_space_of_stage_1_is_one_that_can_be_trained(space: str) -> None:
    names = [name for name in BaseConfig.field_names() if name not in ("seed", "stop_epoch")]
    SearchSpace.load(space).check(names, BaseConfig.from_params)


@pytest.mark.parametrize("space", [name for name in SHIPPED if "meta" in name])
def test_every_shipped_space_of_stage_2_is_one_that_can_be_trained(space: str, cache: Path) -> None:
    data = StageData(data="synthetic", cache=cache, folds=3)
    assert checked_space(space, data, size="60x80", epochs=2, members=3).names
