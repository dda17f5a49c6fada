"""Take the pictures of docs/report.md from a report: `python benchmarks/screenshots.py demo/run/report.html docs/images`.

Needs playwright and Debian's chromium; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

SHOTS = {  # name: (width, height, colour scheme, what to scroll to, pixels above it)
    "report": (1200, 1010, "light", "header", 0),
    "report-questions": (1200, 760, "dark", "#questions", 110),
}
STEPS = 5  # λ from the left end


def main() -> None:
    """Read the arguments and take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for name, (width, height, scheme, target, above) in SHOTS.items():
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1.5)
            page.goto(options.report.resolve().as_uri())
            page.wait_for_selector("html[data-ready]")
            page.focus("#slider")
            for _ in range(STEPS):
                page.keyboard.press("ArrowRight")
            page.evaluate("document.activeElement.blur()")
            page.keyboard.press("j")
            top = page.evaluate("to => document.querySelector(to).getBoundingClientRect().top + scrollY", target)
            page.evaluate("top => scrollTo({top, behavior: 'instant'})", top - above)
            page.wait_for_timeout(400)
            page.screenshot(path=options.folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
