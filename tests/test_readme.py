"""The README and the pages of docs tell the truth: their commands, options and links exist, the README's Python runs."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_of_python_run_and_dial_from_short_to_thinking(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    direct, thought = capsys.readouterr().out.split("\n", 2)[1:]
    assert re.fullmatch(r"\d+", direct)
    assert thought.startswith("<think>")
    assert "</think>" in thought
    assert (tmp_path / "merged-0.6/model.safetensors").exists()


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_in(text):
    """Commands of `interpole` in code blocks and between backticks: up to a comment, a pipe, or what goes on to vLLM."""
    blocks = re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```|((?:^ {4}\S.*\n)+)", text, re.S | re.M)
    lines = "\n".join(fenced or indented for fenced, indented in blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(interpole [^`]*)`", text)
    return [
        re.split(r"\s#|[|;&]|\s>|\s--\s", line, maxsplit=1)[0].split()
        for line in [
            *(line.strip().removeprefix("$ ") for line in lines),
            *(re.sub(r"\s+", " ", one) for one in inline),
        ]
        if line.startswith("interpole ")
    ]


def test_every_command_and_option_that_a_page_names_exists():
    from typer.main import get_command

    from interpole.cli import app
    from interpole.cli.reference import commands

    options = {
        tuple(name.split()): {
            option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for name, command in commands(get_command(app), "interpole")
    }
    groups = {name[:2] for name in options if len(name) == 3}
    options |= {name: {"--help"} for name in groups}
    options |= {("interpole", one): {one} for parameter in get_command(app).params for one in parameter.opts}
    options[("interpole", "--help")] = {"--help"}
    wrong, found = [], 0
    for page in PAGES:
        for words in commands_in(page.read_text()):
            name = tuple(words[: 3 if tuple(words[:2]) in groups else 2])
            named = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            found += 1
            if name not in options or not named <= options[name] | {"--help"}:
                wrong.append((page.name, " ".join(words), sorted(named - options.get(name, set()))))
    assert not wrong
    assert found > 100


def python_in(text):
    return re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)


def test_every_name_that_a_page_imports_from_us_is_there():
    found = []
    for page in PAGES:
        for code in python_in(page.read_text()):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "interpole":
                    place = ROOT / "src" / Path(*node.module.split("."))
                    source = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
                    public = re.search(r"^__all__[^=]*= (\[.*?\])", source.read_text(), re.S | re.M)[1]
                    for name in node.names:
                        assert name.name in ast.literal_eval(public) or (place / f"{name.name}.py").exists(), (
                            page.name,
                            name.name,
                        )
                        found.append(name.name)
    assert len(found) > 8


def test_every_target_it_names_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_page_of_the_site_is_in_its_contents():
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (ROOT / "docs/index.md").read_text(), re.S | re.M)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    sources = [*PAGES[1:], *(ROOT / "docs").rglob("*.ipynb")]
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in sources}
    assert sorted(listed) == sorted(pages - {"index"})
    assert not pages & {"search", "genindex"}, "Sphinx writes pages of these names"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_file_that_a_page_links_to_is_there(page):
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", prose):
        assert (page.parent / target).exists(), target


def anchors_of(page):
    """What GitHub calls the headings of a page, the first of each name."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    bare = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in bare}


def test_every_heading_that_a_page_links_to_is_there():
    found = []
    for page in PAGES:
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.S | re.M)
        for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#([^)\s]+)", prose):
            assert anchor in anchors_of(page.parent / target if target else page), (page.name, target, anchor)
            found.append(anchor)
    assert len(found) > 40


def test_the_site_has_all_public_names():
    import interpole

    shown = re.findall(r"^\.\. auto\w+:: (\w+)", (ROOT / "docs/api.md").read_text(), re.M)
    assert sorted(shown) == sorted(interpole.__all__)
