"""How `make site` builds these pages: Sphinx reads them as they are, with the README in front (index.md)."""

import re
import tomllib
from os.path import normpath, relpath
from pathlib import Path, PurePosixPath
from shutil import copyfile
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = f"{PROJECT['urls']['Homepage']}/blob/main"

project = "Interpole"
author = PROJECT["authors"][0]["name"]
copyright = author
release = version = PROJECT["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # notebooks are shown with the outputs they have; `make notebook` runs them
myst_heading_anchors = 3  # links to headings are those of GitHub
default_role = "code"  # a word between single backticks in a docstring
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nitpick_ignore_regex = [
    ("py:.*", ".*")
]  # types of other packages, and ours that are not public; links of pages are all checked
suppress_warnings = ["misc.highlighting_failure"]  # blocks that show output beside a command are shown as they are

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"Interpole {release}"
html_theme_options = {
    "source_repository": PROJECT["urls"]["Homepage"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False


def rewritten(text: str, folder: str, page_folder: str) -> str:
    """Links of a text in `folder`, as a page in `page_folder` makes them: what is not in docs lies in the repository."""

    def link(found: re.Match[str]) -> str:
        path = normpath(PurePosixPath(folder, found[1]))
        if not (ROOT / path).exists():
            return found[0]  # Sphinx says so
        return f"]({relpath(path, page_folder) if path.startswith('docs/') else f'{REPOSITORY}/{path}'}"

    return re.sub(r"\]\((?![a-z]+:|#)([^)#\s]+)", link, text)


def setup(app: Any) -> None:
    """Have links rewritten as pages are read, and the demo's report put beside the page that shows it."""

    def page(_: Any, name: str, source: list[str]) -> None:
        folder = str(PurePosixPath("docs", name).parent)
        source[0] = rewritten(source[0], folder, folder)

    def included(_: Any, path: Path, __: str, source: list[str]) -> None:
        source[0] = rewritten(source[0], normpath(PurePosixPath("docs", path).parent), "docs")

    def with_report(_: Any, failed: Exception | None) -> None:
        if failed is None:
            copyfile(ROOT / "demo/run/report.html", Path(app.outdir, "demo-report.html"))

    app.connect("build-finished", with_report)
    app.connect("source-read", page)
    app.connect("include-read", included)
