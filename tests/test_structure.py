"""The structure: the order of layers, public names, documented commands, sizes."""

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import tiny

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/interpole"

LAYERS = (  # a module imports from its own layer and from those before it; docs/design.md shows the same list
    "errors",
    "packages",
    "records",
    "garbage",
    "systems",
    "forks",
    "files",
    "formats",
    "schema",
    "guarded",
    "waiting",
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
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def layer_of(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def inside(path):
    """How a module is called here: `sweep/run.py`."""
    return str(path.relative_to(SOURCE))


@cache
def tree_of(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """(module, line, whether at import time) of every import in a file."""
    return tuple(_imports(tree_of(path)))


def _imports(tree):
    nodes = [(tree, False)]
    for node, late in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno, not late) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, not late) for alias in node.names)
        elif isinstance(node, ast.mod | ast.stmt | ast.ExceptHandler | ast.match_case):  # an expression imports nothing
            late |= isinstance(node, FUNCTIONS) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            nodes += [(inner, late) for inner in ast.iter_child_nodes(node)]


def test_the_layers_are_what_is_there_and_what_the_docs_show():
    there = {p.stem for p in SOURCE.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))}
    assert there - {"__init__", "__pycache__"} == set(LAYERS)
    shown = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE)
    assert tuple(shown) == LAYERS


def test_a_module_imports_only_from_its_own_layer_and_those_before_it():
    later = []
    for path in MODULES:
        for module, line, _ in imports(path):
            first, layer, *_ = [*module.split("."), ""]
            if first == "interpole" and layer in LAYERS and LAYERS.index(layer) > LAYERS.index(layer_of(path)):
                later.append(f"{inside(path)}:{line} imports {module}, a later layer")
    assert later == []


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


def test_the_core_imports_no_torch():
    core = [path for path in MODULES if layer_of(path) not in MAY_BE_HEAVY]
    heavy = [(inside(path), one) for path in core for one, *_ in imports(path) if one.split(".")[0] in HEAVY]
    assert heavy == []


def test_what_is_imported_for_types_alone_is_used_for_nothing_else():
    found = []
    for path in MODULES:
        tree = tree_of(path)
        blocks = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        types = {a.asname or a.name for block in blocks for n in block.body for a in getattr(n, "names", ())}
        rest = [node for node in tree.body if node not in blocks] if types else []
        found += [f"{inside(path)}:{line}: {name}" for node in rest for name, line in _free(node) if name in types]
    assert found == []


def _free(node):
    """The names that code reads when it runs and does not bind itself, with their lines; annotations are not run."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        yield node.id, node.lineno
    parts = [
        child
        for name, value in ast.iter_fields(node)
        if name not in ("annotation", "returns")
        for child in (value if isinstance(value, list) else [value])
        if isinstance(child, ast.AST)
    ]
    bound = set()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        inner = [*ast.walk(node)]
        bound = {n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.arg for n in inner if isinstance(n, ast.arg)}
        bound |= {a.asname or a.name for n in inner if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names}
    yield from (one for part in parts for one in _free(part) if one[0] not in bound)


def test_engines_in_processes_are_asked_through_the_pool():
    others = [path for path in MODULES if layer_of(path) != "engines"]
    taken = {path for path in others for one, *_ in imports(path) if one.startswith("interpole.engines.process.")}
    assert taken == set()


def test_every_engine_has_the_one_base_and_none_extends_another():
    classes = [one for path in MODULES for one in ast.walk(tree_of(path)) if isinstance(one, ast.ClassDef)]
    bases = {one.name: {ast.unparse(base).partition("[")[0] for base in one.bases} for one in classes}
    engines = {name for name, found in bases.items() if "Engine" in found}
    assert len(engines) > 5
    assert {name for name, found in bases.items() if found & engines} == set()


def test_no_two_public_classes_have_one_name():
    classes = [
        (one.name, inside(path)) for path in MODULES for one in tree_of(path).body if isinstance(one, ast.ClassDef)
    ]
    homes = {}
    for name, module in classes:
        homes.setdefault(name, []).append(module)
    assert {name: found for name, found in homes.items() if len(found) > 1 and not name.startswith("_")} == {}


def declared(tree):
    """The names in `__all__`."""
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if getattr(target, "id", None) == "__all__":
            return set(ast.literal_eval(node.value))
    return None


def defined(tree):
    """Functions and classes at the top of a module."""
    return {node.name: node for node in tree.body if isinstance(node, FUNCTIONS | ast.ClassDef)}


def words_of(text):
    return set(re.findall(r"\w+", text))


def test_what_looks_public_is_in_all_and_what_is_in_all_is_used_elsewhere():
    files = [*(p for d in ("src", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py"))]
    files += [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    num_files = Counter(word for path in files for word in words_of(path.read_text()))  # in how many a word stands
    wrong = []
    for path in MODULES:
        if path.name.startswith("_") and path.name != "__init__.py":
            continue
        tree = tree_of(path)
        names, own = declared(tree), defined(tree)
        if names is None:
            wrong.append(f"{inside(path)} declares no __all__")
            continue
        bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        bound |= {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
        bound |= {*own, *(name for name in names if (path.parent / f"{name}.py").exists())}
        wrong += [f"{inside(path)} has no {name}" for name in names - bound]
        public = {name for name in own if not name.startswith("_")}
        wrong += [f"{inside(path)}: begin {name} with _, or put it into __all__" for name in public - names]
        signatures = {word for name in names & own.keys() for word in words_of(ast.unparse(own[name]))}
        unused = [name for name in names - signatures if num_files[name] < 2]
        wrong += [f"{inside(path)}: {name} is used by nobody" for name in unused]
    assert wrong == []


def test_the_package_exports_what_it_says():
    package = import_module("interpole")
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name).__doc__, name


def test_functions_fit_a_screen():
    functions = [(path, node) for path in MODULES for node in ast.walk(tree_of(path)) if isinstance(node, FUNCTIONS)]
    assert [(inside(path), one.name) for path, one in functions if one.end_lineno - one.lineno > 80] == []


def test_more_than_six_values_are_not_handed_over_by_position():
    calls = [(path, node) for path in MODULES for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    values = {  # words that are said one after another, as of a command line, are no such values
        f"{inside(path)}:{call.lineno}": sum(not isinstance(a, ast.Constant | ast.Starred) for a in call.args)
        for path, call in calls
        if path.name != "kernels.py"  # a function in C knows no names
    }
    assert [where for where, num in values.items() if num > 6] == []


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


def test_a_plain_merge_imports_nothing_that_draws_fits_or_generates(tmp_path):
    instruct, thinking = (tiny.write(tmp_path / name, tiny.tensors(seed)) for name, seed in (("i", 1), ("t", 2)))
    command = ["merge", str(instruct), str(thinking), "--lambda", "0.5", "--out", str(tmp_path / "out")]
    run = [sys.executable, "-X", "importtime", "-c", "from interpole.cli import main; main()", *command]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert (tmp_path / "out/model.safetensors").exists()
    heavy = ("torch", "scipy", "altair", "transformers", "inspect_ai", "interpole.report")
    assert [name for name in heavy if f" {name}\n" in loaded] == []


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
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
