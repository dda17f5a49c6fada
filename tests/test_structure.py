"""The structure: the order of layers, public names, documented commands, sizes."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/interpole"

LAYERS = (  # a module imports from its own layer and from those before it; docs/design.md shows the same list
    "errors",
    "records",
    "systems",
    "files",
    "formats",
    "schema",
    "guarded",
    "actors",
    "checkpoints",
    "chat",
    "merging",
    "diagnostics",
    "tasks",
    "engines",
    "runs",
    "analysis",
    "sweep",
    "search",
    "serve",
    "report",
    "lab",
    "paper",
    "cli",
    "__main__",
)
ORDER_WITHIN = {"chat": ("markers", "template", "response", "stream", "format", "template_worker")}
HEAVY = {"torch", "transformers", "inspect_ai", "vllm"}
MAY_BE_HEAVY = {"engines", "lab", "tasks", "sweep"}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def layer_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path):
    """(module, line, whether at import time) of every import in a file."""
    tree = ast.parse(path.read_text())
    late = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for n in ast.walk(f)}
    late |= {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, id(node) not in late) for alias in node.names)


def test_the_layers_are_what_is_there_and_what_the_docs_show():
    there = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))}
    assert there - {"__init__", "__pycache__"} == set(LAYERS)
    shown = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert tuple(shown) == LAYERS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_its_own_layer_and_those_before_it(path):
    layer = layer_of(path)
    for module, line, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "interpole" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) <= LAYERS.index(layer), f"{path.name}:{line} imports {module}, a later layer"


def test_no_modules_import_each_other_in_a_circle_not_even_late_or_for_types():
    names = {".".join(("interpole", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in MODULES}
    paths = {name.removesuffix(".__init__"): path for name, path in names.items()}
    needed = {
        name: {module if module in paths else module.rpartition(".")[0] for module, _, _ in imports(path)} & {*paths}
        for name, path in paths.items()
    }
    order = list(TopologicalSorter(needed).static_order())  # raises CycleError, with the circle
    assert order.index("interpole.cli.lab") < order.index("interpole.cli.commands")


@pytest.mark.parametrize("package", ORDER_WITHIN)
def test_within_a_package_with_an_order_modules_import_only_from_those_before(package):
    order = ORDER_WITHIN[package]
    assert {path.stem for path in (SOURCE / package).glob("*.py")} == {"__init__", *order}
    for number, name in enumerate(order):
        parts = [module.split(".") for module, _, _ in imports(SOURCE / package / f"{name}.py")]
        inside = {rest[0] for first, *rest in (one[1:] for one in parts if one[0] == "interpole") if first == package}
        assert inside <= set(order[:number]), f"{name}.py imports {inside - set(order[:number])}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_core_imports_no_torch(path):
    heavy = [module for module, _, _ in imports(path) if module.split(".")[0] in HEAVY]
    assert not heavy or layer_of(path) in MAY_BE_HEAVY, f"{path.name} imports {heavy}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_engines_in_processes_are_asked_through_the_pool(path):
    taken = {module for module, _, _ in imports(path) if module.startswith("interpole.engines.process.")}
    assert not taken or layer_of(path) == "engines"


def tree_of(path):
    return ast.parse(path.read_text())


def declared(tree):
    """The names in `__all__`."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if getattr(target, "id", None) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def defined(tree):
    """Functions and classes at the top of a module."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name: node for node in tree.body if isinstance(node, kinds)}


@pytest.fixture(scope="module")
def used():
    """Every word of every file that could use a name, by file."""
    files = [*(p for d in ("src", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py"))]
    files += [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return {path: set(re.findall(r"\w+", path.read_text())) for path in files}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_looks_public_is_in_all_and_what_is_in_all_is_used_elsewhere(path, used):
    if path.name.startswith("_") and path.name != "__init__.py":
        return
    tree = tree_of(path)
    names, own = declared(tree), defined(tree)
    assert names is not None, f"{path.name} declares no __all__"
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)} | {
        *own
    }
    bound |= {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    bound |= {name for name in names if (path.parent / f"{name}.py").exists()}
    assert names <= bound
    assert {name for name in own if not name.startswith("_")} <= names, "begin it with _, or put it into __all__"
    signatures = {word for name in names & own.keys() for word in re.findall(r"\w+", ast.unparse(own[name]))}
    elsewhere = set().union(signatures, *(words for other, words in used.items() if other != path))
    assert names <= elsewhere, f"used by nobody: {sorted(names - elsewhere)}"


def test_the_package_exports_what_it_says():
    package = import_module("interpole")
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_functions_fit_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno <= 80, f"{path.name}: {node.name}"


def test_every_command_is_explained_and_the_reference_is_up_to_date():
    from typer.main import get_command

    from interpole.cli import app
    from interpole.cli.reference import commands, reference

    assert all(command.help for _, command in commands(get_command(app), "interpole"))
    assert (ROOT / "docs/cli.md").read_text() == reference(), "run `make docs`"


def test_every_benchmark_is_named_in_the_help_and_in_the_docs():
    from interpole.tasks import BENCHMARKS

    help_of_task = next(line for line in (ROOT / "docs/cli.md").read_text().splitlines() if "an Inspect task" in line)
    documented = (ROOT / "docs/tasks.md").read_text()
    assert [name for name in BENCHMARKS if name not in help_of_task or f"`{name}`" not in documented] == []


def test_help_answers_in_under_half_a_second():
    run = [sys.executable, "-X", "importtime", "-c", "import interpole.cli"]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    heavy = [
        m
        for m in ("numpy", "torch", "pydantic", "scipy", "altair", "transformers", "inspect_ai")
        if f" {m}\n" in loaded
    ]
    assert heavy == []


def test_the_paths_of_the_data_are_chains_of_functions_that_exist():
    text = (ROOT / "docs/design.md").read_text()
    paths = text[text.index("## Four paths of the data") : text.index("## Words")]
    chains = re.findall(r"`([\w.]+)`", paths)
    assert len(chains) > 20
    for chain in chains:
        parts = chain.split(".")
        layer = ROOT / "src/interpole" / parts[0]
        depth = 1 if layer.with_suffix(".py").exists() else 2
        file = (layer.with_suffix(".py") if depth == 1 else layer / f"{parts[1]}.py").resolve()
        file = file if file.exists() else layer / parts[1] / "__init__.py"
        body = ast.parse(file.read_text()).body  # not imported: some need an engine's libraries
        for name in parts[depth:]:
            node = next((node for node in body if getattr(node, "name", None) == name), None)
            assert node is not None, f"{chain}: no {name} in {file.name}"
            body = node.body


def test_what_contributing_says_to_touch_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w./]+)`", text)
    assert len(named) > 15
    for name in named:
        assert "NAME" in name or (ROOT / name).exists(), name
    for change in ("method", "benchmark", "engine", "endpoint field", "sweep in shares", "marker", "column", "family"):
        assert re.search(rf"\*\*A.? .*{change}.*\*\*", text), change


def test_every_promise_names_a_test_that_is_there():
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text())
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_files_of_tests_have_names_of_their_own():
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))  # pytest imports them by these


def test_links_in_the_docs_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
