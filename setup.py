"""What pyproject.toml cannot say: where the README's links lead from PyPI, which has none of the files beside it."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
page, tag = project["urls"]["Homepage"], f"v{project['version']}"
raw = page.replace("https://github.com", "https://raw.githubusercontent.com")
text = Path("README.md").read_text(encoding="utf-8")
text = re.sub(r"(!\[[^\]]*\])\((?!https?:|#)", rf"\1({raw}/{tag}/", text)
text = re.sub(r"(?<!!)(\[[^\]]*\])\((?!https?:|#)", rf"\1({page}/blob/{tag}/", text)
setup(long_description=text, long_description_content_type="text/markdown")
