"""The rules of the house, kept by machine: what may import what, how long things may be."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = ("mxc_ops", "vm_images", "backends")  # imports run from left to right only
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TOP_LEVEL = {
    *(".ci", ".gitignore", "README.md", "backends", "constraints.txt", "docs", "inventories", "mxc_ops"),
    *("pyproject.toml", "quickstart", "run-tests", "tests", "vm_images"),
}
# Only the worker process may load them: gevent patches whatever process it is loaded into.
MAY_IMPORT_PYINFRA = re.compile(
    r"mxc_ops\.prep\.(worker|engine(\..+)?|deploys(\..+)?|windows\.connector|operations(\..+)?|facts(\..+)?)"
)


def _ignored(path: Path) -> bool:
    patterns = [".git", *(CHECKOUT / ".gitignore").read_text().split()]
    parts = path.relative_to(CHECKOUT).parts
    return any(fnmatch(part, pattern.rstrip("/")) for part in parts for pattern in patterns)


def _files(*suffixes: str) -> Iterator[Path]:
    for top in sorted(CHECKOUT.iterdir()):
        for path in [top] if top.is_file() else sorted(top.rglob("*")) if not _ignored(top) else []:
            if path.is_file() and not _ignored(path) and (not suffixes or path.suffix in suffixes):
                yield path


def _product(*suffixes: str) -> list[Path]:
    return [path for path in _files(*suffixes) if path.relative_to(CHECKOUT).parts[0] in PACKAGES]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")


def _imports(node: ast.AST) -> Iterator[str]:
    """Every name that is imported, also inside functions, except for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                yield f"{child.module}.{alias.name}"
        else:
            yield from _imports(child)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Module → modules of ours and top packages of others that it imports."""
    sources = {_module(path): path for path in _product(".py")}

    def resolve(name: str) -> str:
        return name if name in sources else name.rpartition(".")[0]

    found: dict[str, set[str]] = {}
    for module, path in sources.items():
        names = set(_imports(ast.parse(path.read_text())))
        found[module] = {resolve(name) if name.split(".")[0] in PACKAGES else name for name in names}
    return found


def test_imports_run_one_way_between_the_folders(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if name.split(".")[0] in PACKAGES
        and PACKAGES.index(name.split(".")[0]) < PACKAGES.index(module.split(".")[0])
    ]
    assert wrong == []


def test_no_import_runs_in_a_circle(imports: dict[str, set[str]]) -> None:
    graph = {
        module: {name for name in names if name in imports} - {module} for module, names in imports.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" → ".join(circle.args[1]))


def test_only_the_worker_loads_pyinfra_and_gevent(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if name.split(".")[0] in ("pyinfra", "gevent") and not MAY_IMPORT_PYINFRA.fullmatch(module)
    ]
    assert wrong == []


def test_nothing_outside_the_worker_imports_what_loads_pyinfra(imports: dict[str, set[str]]) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in names
        if MAY_IMPORT_PYINFRA.fullmatch(name) and not MAY_IMPORT_PYINFRA.fullmatch(module)
    ]
    assert wrong == []


def test_no_file_is_longer_than_one_idea() -> None:
    lengths = {
        str(path.relative_to(CHECKOUT)): len(path.read_text().splitlines())
        for path in _product(".py", ".c", ".h", ".sh")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    long = [
        f"{_module(path)}.{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for path in _product(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_top_level_is_fixed() -> None:
    assert {path.name for path in CHECKOUT.iterdir() if not _ignored(path)} == TOP_LEVEL


def test_no_file_names_a_machine_or_a_registry() -> None:
    registries = ("pypi" + ".org", "python" + "hosted", "registry." + "npmjs", "deb." + "debian.org")
    places = (CHECKOUT, CHECKOUT.parent / "shared", "/" + "tmp/mxc/")
    named = re.compile("|".join([*map(re.escape, registries), *(rf"(?<![\w]){place}" for place in places)]))
    found = [
        f"{path.relative_to(CHECKOUT)} names {match.group()}"
        for path in _files()
        if (match := named.search(path.read_text(errors="replace")))
    ]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    left = [
        str(path.relative_to(CHECKOUT))
        for path in _files(".py", ".c", ".h", ".sh")
        if marks.search(path.read_text())
    ]
    assert left == []


def test_every_dependency_has_an_exact_version() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line)] == []
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    asked = [
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
    ]
    names = {re.split(r"[\[<>=~!;\s]", line)[0].lower() for line in asked}
    assert names - {line.partition("==")[0] for line in pins} == set()


@pytest.mark.parametrize("script", ["quickstart", "run-tests", ".ci/run", "mxc_ops/prep/bootstrap.sh"])
def test_the_shell_scripts_are_plain_sh(script: str) -> None:
    checked = subprocess.run(["sh", "-n", CHECKOUT / script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
