"""README.md and docs/ hold: every command and every snippet runs as it stands there, but for smaller numbers.

A page is read from top to bottom in a folder of its own, where CamVid is a tiny data set, runs/camvid and runs/demo are
a finished run of it, runs/final is its final training, and photos a folder of images. The smaller numbers stand in
`_SMALLER` and `_SMALLER_CALLS`, what is not run in `ELSEWHERE`.
"""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
from pages import PAGES, README, ROOT, Block, anchors, blocks, links, spans
from tiles import SIZE
from tiny_run import (
    BASE_EPOCHS,
    BASE_TRIALS,
    FOLDS,
    META_EPOCHS,
    META_TRIALS,
    Finished,
    write_spaces,
)

from ensemble_tune import cli
from ensemble_tune.ensemble.config import BaseConfig
from ensemble_tune.ensemble.dataset_spec import DatasetSpec
from ensemble_tune.ensemble.manifest import EnsembleManifest
from ensemble_tune.tune.given import load_points
from ensemble_tune.tune.search_space import SearchSpace

ELSEWHERE: Mapping[str, str] = {
    "make test": "it is what runs this",
    "pip install -c constraints.txt .": "`make setup` is this with more; it comes before every test",
    'pip install -c constraints.txt ".[notebook]"': "the same",
    'pip install -c constraints.txt ".[onnx]"': "the same",
    "pip install tensorboard": "the same",
    "tensorboard --logdir logs": "a server, which does not end; test_tensorboard.py reads the logs with its parts",
    "ensemble-tune --install-completion": "it writes into the user's home; test_completion.py gives it one of its own",
    "ensemble-tune run --data s3://bucket/CamVid --out s3://bucket/runs/camvid --address auto": (
        "a cloud account and a cluster; test_run_in_a_store.py has an S3 server, tests/cluster has hosts"
    ),
    "ensemble-tune run --data CamVid --out runs/camvid --base-space base-small --meta-space meta-small --size 90x120 "
    "--hours 0.3333 --cpu": "a measurement: it takes its twenty minutes",
}
"""Commands that are not run here, and why."""
_OF_OTHERS = ("--logdir", "--set")
"""Options that are spoken of and are not of ensemble-tune."""
_DATASET = "CamVid"
_SMALL_BASES = {"trials": BASE_TRIALS, "epochs": BASE_EPOCHS}
_SMALL_METAS = {"trials": META_TRIALS, "epochs": META_EPOCHS}
_SMALL_SPACES = {"base_space": "spaces/base.toml", "meta_space": "spaces/meta.toml"}
_SMALL_RUN = {
    **_SMALL_SPACES,
    "size": SIZE,
    **{f"base_{name}": number for name, number in _SMALL_BASES.items()},
    **{f"meta_{name}": number for name, number in _SMALL_METAS.items()},
}
_SMALLER: Mapping[str, Mapping[str, object]] = {
    "run": {**_SMALL_RUN, "folds": FOLDS, "scheduler": "none", "cpu": True},
    "search base": {"space": "spaces/base.toml", **_SMALL_BASES, "size": SIZE, "folds": FOLDS, "cpu": True},
    "search meta": {"space": "spaces/meta.toml", **_SMALL_METAS, "folds": FOLDS, "cpu": True},
    "train": {"size": SIZE, "epochs": 1, "batch_size": 4, "cpu": True},
    "watch": {"once": True},
}
"""By verb, the options that are added to a command: the last one counts. `watch` would wait for a next stage."""
_SMALLER_CALLS: Mapping[str, Mapping[str, object]] = {
    "run_all": {**_SMALL_RUN, "base_trials": 1, "base_epochs": 1, "meta_epochs": 1},
    "search_base": {"space": "spaces/base.toml", **_SMALL_BASES, "size": SIZE},
    "search_meta": {"space": "spaces/meta.toml", **_SMALL_METAS},
    "Settings": {"folds": FOLDS},
}
"""By function, the arguments that replace those of a call, or are added to them."""
_SMALL_ENCODERS = {"resnet34": "tu-test_efficientnet", "resnet18": "tu-test_resnet"}


class Reader:
    """Somebody who tries whatever a page shows, in the order of the page."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._space: SearchSpace | None = None
        """The last one that the page has shown."""
        self.elsewhere: set[str] = set()
        """Commands that were passed over."""

    def try_out(self, block: Block) -> None:
        match block.language:
            case "bash":
                for command in block.commands:
                    self._type(command, block)
            case "python":
                self._python(block)
            case "sql":
                for statement in duckdb.extract_statements(block.text):
                    assert duckdb.execute(statement).fetchall(), f"{block}: nothing is found by {statement.query}"
            case "toml":
                self._toml(block)
            case "text":
                assert not block.text.startswith(("ensemble-tune", "make ", "pip ", "python "))
            case other:
                pytest.fail(f"{block}: nobody runs what stands there as {other or 'indented code'!r}")

    def _type(self, command: str, block: Block) -> None:
        if command in ELSEWHERE:
            self.elsewhere.add(command)
            return
        if command == "make demo":
            command = f"{demo()} --data {_DATASET}"  # the built-in scenes are for the program on the same page
        words = shlex.split(command)
        if words[0] == "export":
            self._patch.setenv(*words[1].split("=", 1))
        elif words[0] == "ensemble-tune":
            verb = next((verb for verb in _SMALLER if words[1:][: verb.count(" ") + 1] == verb.split()), "")
            for name, value in _SMALLER.get(verb, {}).items():
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
            self._patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert end.value.code in (0, None), f"{block}: {command} ended with {end.value.code}"
        else:
            pytest.fail(f"{block}: nobody runs {command!r}; run it here, or say in ELSEWHERE why not")

    def _python(self, block: Block) -> None:
        program = ast.fix_missing_locations(_Smaller().visit(ast.parse(block.text)))
        exec(compile(program, str(block), "exec"), {"__name__": "__main__"})

    def _toml(self, block: Block) -> None:
        document = tomllib.loads(block.text)
        if "classes" in document:
            folder = Path("spec")
            folder.mkdir(exist_ok=True)
            (folder / "dataset.toml").write_text(block.text)
            spec = DatasetSpec.load(folder)
            assert spec.classes and spec.whole == (spec.pool is not None)
        elif "parameters" in document:
            self._space = SearchSpace.parse(block.text)
            self._space.check(BaseConfig.field_names(), BaseConfig.from_params)
        elif "points" in document:
            assert self._space is not None, f"{block}: these points are of no space"
            Path("points.toml").write_text(block.text)
            assert load_points("points.toml", self._space)
        elif "bases" in document:
            text = block.text
            for encoder, small in _SMALL_ENCODERS.items():
                text = text.replace(f'"{encoder}"', f'"{small}"')
            Path("my.toml").write_text(text)
            assert EnsembleManifest.load(Path("my.toml")).bases
        else:
            pytest.fail(f"{block}: nobody knows what this file is")


class _Smaller(ast.NodeTransformer):
    """Gives the calls in a program their smaller numbers."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _SMALLER_CALLS:
            given = _SMALLER_CALLS[node.func.id]
            names = [None if each.arg is None else ast.Constant(each.arg) for each in node.keywords]
            keys = [*names, *map(ast.Constant, given)]
            values = [*(each.value for each in node.keywords), *map(ast.Constant, given.values())]
            node.keywords = [ast.keyword(None, ast.Dict(keys, values))]  # of equal names the last one counts
        return node


def demo() -> str:
    """What `make demo` runs."""
    told = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = re.findall(r"^\.venv/bin/(ensemble-tune .*)$", told.replace("\\\n", " "), re.MULTILINE)
    return command


@pytest.fixture
def reader(
    finished: Finished, tiles: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    """In a folder that has what the pages speak of."""
    shutil.copytree(finished.out, tmp_path / "runs" / "camvid")
    (tmp_path / "runs" / "demo").symlink_to(tmp_path / "runs" / "camvid")
    (tmp_path / "runs" / "final").symlink_to(tmp_path / "runs" / "camvid" / "final")
    (tmp_path / _DATASET).symlink_to(tiles)
    (tmp_path / "photos").symlink_to(tiles / "test")
    write_spaces(tmp_path / "spaces")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    yield Reader(monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_everything_that_a_page_shows_runs(reader: Reader, page: Path) -> None:
    for block in blocks(page):
        reader.try_out(block)
    shown = {command for block in blocks(page) for command in block.commands}
    assert reader.elsewhere == shown & set(ELSEWHERE)


def test_what_is_run_elsewhere_stands_on_a_page() -> None:
    shown = {command for page in PAGES for block in blocks(page) for command in block.commands}
    assert set(ELSEWHERE) <= shown


def test_a_block_that_nobody_runs_is_found(reader: Reader) -> None:
    for language, text in (("bash", "rm -r runs"), ("", "ensemble-tune results"), ("toml", "a = 1"), ("json", "{}")):
        with pytest.raises(pytest.fail.Exception, match=r"README\.md, line 1: nobody"):
            reader.try_out(Block(README, 1, language, text))


def test_a_command_that_ends_badly_is_found(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="ended with 2"):
        reader.try_out(Block(README, 1, "bash", "ensemble-tune results runs/nothing"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_options_targets_and_benchmarks_that_a_page_names_are_there(page: Path) -> None:
    command = typer.main.get_command(cli.app)
    verbs, options = _verbs_and_options(command)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for span in spans(page):
        first, *others = span.split()
        if first == "ensemble-tune":
            assert " ".join(others) in verbs, f"{page.name}: `{span}` stands in the text; commands stand in fences"
        elif first == "make":
            assert others[0].rstrip(",") in targets, f"{page.name}: {span}"
        elif first.startswith("--"):
            assert first in (*options, *_OF_OTHERS), f"{page.name}: no verb has {first}"
        elif first.endswith(".py"):
            assert any((ROOT / folder / first).is_file() for folder in ("", "benchmarks")), f"{page.name}: {span}"


def _verbs_and_options(command: Any) -> tuple[set[str], set[str]]:
    """All verbs, "search base" too, and all options of all of them."""
    verbs = {""}
    options = {option for parameter in command.params for option in parameter.opts}
    for name, below in getattr(command, "commands", {}).items():
        inner, more = _verbs_and_options(below)
        verbs |= {f"{name} {verb}".strip() for verb in inner}
        options |= more
    return verbs, options


LINKING = [
    *PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md", "cluster/scale.md")),
]


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in links(README)}
    assert set(PAGES) - {README} <= linked


def test_the_readme_quotes_its_figures_from_the_page_of_measurements() -> None:
    (told,) = re.findall(
        r"^## What is measured, and what is not\n(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE
    )
    measured = re.findall(r"[\d.]*\d", (ROOT / "docs" / "measurements.md").read_text())
    for figure in re.findall(r"\d+\.\d+", told):
        assert figure in measured, f"the README says {figure}"


@pytest.mark.parametrize("name", ["Ray", "Optuna"])
def test_the_versions_that_are_compared_with_are_those_that_are_installed(name: str) -> None:
    pinned = re.search(rf"^{name.lower()}==(\d+\.\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    named = re.findall(rf"{name} (\d+\.\d+)", (ROOT / "docs" / "alternatives.md").read_text())
    assert named and set(named) == {pinned[1]}, f"docs/alternatives.md compares with {name} {named}"
