"""The pages of the studies, from what `interpole lab study` measured in a folder: nothing is trained.

python benchmarks/studies.py DIR [NAME …] [--into docs]

For every study, of what is there: results.csv, page.md and figure.svg in DIR/NAME are written anew, as the command does. `--into`
puts the table into docs/studies/NAME.md, the rows beside it as NAME.csv, and the figure into docs/images/study-NAME.svg.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from interpole.lab.studies.conduct import STUDIES, conduct, page, study_of
from pages import put


def main() -> None:
    """Write the tables, figures and pages of some studies, or of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(STUDIES)}")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    for name in given.names or STUDIES:
        found, own = conduct(study_of(name), given.folder, at_most=0), given.folder / name
        print(f"{name}: {found.num_pairs} of {found.num_wanted} pairs")
        if given.into:
            put(page(found), "results", given.into / "studies" / f"{name}.md")
            shutil.copyfile(own / "results.csv", given.into / "studies" / f"{name}.csv")
            shutil.copyfile(own / "figure.svg", given.into / "images" / f"study-{name}.svg")


if __name__ == "__main__":
    main()
