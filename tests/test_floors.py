"""The house stands: the wings never meet, imports go down and never in circles, no file grows into a god."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ensemble_tune"
FILES = sorted(path for path in ROOT.rglob("*.py"))
MOST_LINES = 350
SEAM = {
    f"ensemble_tune.{name}"
    for name in ("trial", "storage", "store_folder", "object_path", "bucket", "scratch", "documents", "errors", "waits")
}
WHAT_A_REPORT_READS = {
    f"ensemble_tune.{name}"
    for name in (
        *("choices", "comparison", "final_folder", "fused", "results", "storage", "object_path", "errors"),
        *(f"tune.{noun}" for noun in ("aim", "ledger", "pareto", "record", "session")),
        *(f"ensemble.{noun}" for noun in ("bootstrap", "dataset", "disk_cache", "evidence", "image_file", "labels")),
        *(f"ensemble.{noun}" for noun in ("manifest", "mask", "overlay", "pieces", "pixels", "score_names")),
    )
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path, *, everywhere: bool = True) -> Iterator[str]:
    """Every imported module, inside functions too; without `everywhere`, only what runs when the file is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    if not everywhere:
        for node in ast.walk(tree):
            typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the module whole"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def under(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def wing(path: Path) -> str:
    return path.relative_to(ROOT).parts[0] if len(path.relative_to(ROOT).parts) > 1 else ""


@pytest.mark.parametrize("path", [path for path in FILES if wing(path) == "ensemble"], ids=module_of)
def test_the_ensemble_wing_knows_no_searching(path: Path) -> None:
    for name in imports_of(path):
        assert not under(name, "ray", "optuna", "pyarrow", "ensemble_tune.tune"), f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if wing(path) == "tune"], ids=module_of)
def test_the_tune_wing_knows_no_training(path: Path) -> None:
    for name in imports_of(path):
        forbidden = ("torch", "segmentation_models_pytorch", "albumentations", "cv2", "ensemble_tune.ensemble")
        assert not under(name, *forbidden), f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if wing(path) not in ("", "report")], ids=module_of)
def test_a_wing_leans_on_itself_and_the_seam_alone(path: Path) -> None:
    for name in imports_of(path):
        if under(name, "ensemble_tune"):
            assert name in SEAM or under(name, f"ensemble_tune.{wing(path)}"), f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if wing(path) == "report"], ids=module_of)
def test_a_report_reads_what_others_wrote(path: Path) -> None:
    for name in imports_of(path):
        if under(name, "ensemble_tune") and not under(name, "ensemble_tune.report"):
            assert name in WHAT_A_REPORT_READS, f"{path} imports {name}"


def test_nothing_leans_on_a_report_but_its_verb() -> None:
    leaning = {
        name for name, path in MODULES.items() if any(under(n, "ensemble_tune.report") for n in imports_of(path))
    }
    above = {name for name in leaning if not under(name, "ensemble_tune.report")}
    assert above == {"ensemble_tune", "ensemble_tune.cli_read"}


@pytest.mark.parametrize("name", sorted(SEAM))
def test_the_seam_leans_on_nothing_of_ours_but_the_seam(name: str) -> None:
    for imported in imports_of(MODULES[name]):
        assert not under(imported, "ensemble_tune") or imported in SEAM, f"{name} imports {imported}"


def test_only_five_files_know_tune_s_interfaces() -> None:
    def knowing(package: str) -> set[str]:
        return {module_of(path) for path in FILES if any(under(name, package) for name in imports_of(path))}

    hooks = ("ray_runner", "trainable", "tune_events", "tune_hooks", "tune_workers")
    assert knowing("ray.tune") == {f"ensemble_tune.tune.{name}" for name in hooks}
    # Joining a cluster, its machines and their folder, what Ray starts and prints, `ray up`'s schema, draining: Ray
    # itself, not Tune.
    others = ("tune.ray_start", "tune.lean_ray", "tune.machines", "tune.shared_folder", "tune.quiet")
    others += ("cluster.launcher", "cluster.drain")
    assert knowing("ray") == knowing("ray.tune") | {f"ensemble_tune.{name}" for name in others}


def test_imports_go_in_no_circle() -> None:
    graph = {
        name: {other for other in imports_of(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    while graph:
        leaves = {name for name, needs in graph.items() if not needs & set(graph)}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {name: needs for name, needs in graph.items() if name not in leaves}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_file_is_a_room_not_a_hall(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{path} has {lines} lines; give one of its nouns a file of its own"


@pytest.mark.parametrize(
    "name",
    [f"ensemble_tune.{name}" for name in ("cli", "plan", "results", "report.page", "tune.ledger")],
)
def test_help_results_report_and_ledger_come_without_torch_and_ray(name: str) -> None:
    seen, ahead = set(), [name]
    while ahead:
        module = ahead.pop()
        for imported in imports_of(MODULES[module], everywhere=False):
            assert not under(imported, "torch", "ray", "segmentation_models_pytorch"), f"{module} imports {imported}"
            if imported in MODULES and imported not in seen:
                seen.add(imported)
                ahead.append(imported)


_HUSHING = ("simplefilter", "filterwarnings", "setLevel", "set_verbosity")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_what_is_silenced_is_named_with_its_reason(path: Path) -> None:
    """A category or a module of warnings, or one logger; a comment beside it, or on the line above, says why."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if name not in _HUSHING:
            continue
        assert isinstance(node, ast.Call)
        if name.endswith(("filter", "warnings")):
            named = {keyword.arg for keyword in node.keywords} & {"category", "module", "message"}
            assert named or len(node.args) > 1, f"{path}:{node.lineno} silences every warning; name category or module"
        elif name == "setLevel":
            assert isinstance(node.func, ast.Attribute)
            assert ast.unparse(node.func.value) != "logging.getLogger()", f"{path}:{node.lineno} silences everybody"
        told = lines[node.lineno - 1].partition(")  # ")[2] or lines[node.lineno - 2].strip().startswith("# ")
        assert told, f"{path}:{node.lineno} silences something without a word why"


def test_nobody_is_silenced_who_is_not_named() -> None:
    """The root logger tells what it is told: who tells too much has a line of its own."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.basicConfig":
                levels = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "level"]
                assert levels == ["logging.WARNING"], f"{path}:{node.lineno} silences everybody's warnings at once"
