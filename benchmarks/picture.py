"""Draw the README's moving picture from the demo's run: `python benchmarks/picture.py demo/run docs/images/dial.svg`.

λ steps through the points that were measured, and with it the read-outs, a line over the report's own charts, and the
responses to one question. It is one SVG, moved by its style sheet alone: it follows dark mode, and stands still where
motion is not wanted.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean
from xml.sax.saxutils import escape

from interpole.analysis.metrics import measure
from interpole.files import write_atomic
from interpole.records import Sample
from interpole.report import figures
from interpole.report.marks import Mark, marks
from interpole.report.render import svg
from interpole.report.style import COLOURS, FONT, SERIES
from interpole.report.verdicts import bands, stages_of
from interpole.runs import samples as run_samples

PAGE_CSS = Path(figures.__file__).with_name("page.css")
MONO = "ui-monospace, SF Mono, Cascadia Mono, Menlo, Consolas, DejaVu Sans Mono, monospace"
WIDTH, MARGIN = 680, 24
RAIL = (174, WIDTH - MARGIN - 12)  # where λ's track begins and ends
CHART = (172, 84)  # width and height of a panel
CHARTS_Y, CARD_Y, LINE = 92, 266, 20
ANSWER_X = 258  # where the response begins, right of its question
SHOWN = {"mean": "accuracy", "think": "share that thinks", "tokens": "tokens, mean"}
STILL = 0.5  # the λ of the picture where nothing moves
SECONDS, SECONDS_AT_END, SECONDS_OF_MOVE = 1.1, 2.4, 0.3


@dataclass(frozen=True)
class Frame:
    """What is shown while λ stands at one place."""

    mark: Mark
    sample: Sample
    start: float  # in percent of the whole
    end: float

    @property
    def lam(self) -> float:
        """λ."""
        return self.mark.lam or 0.0


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_atomic(options.out, drawn(run_samples.read(options.run)).encode())


def drawn(samples: Sequence[Sample]) -> str:
    """The picture of a run with one task on the dial."""
    measured = [mark for mark in marks(measure(samples)) if mark.lam is not None]
    told = story(samples)
    seconds = [SECONDS_AT_END if mark.lam in (0, 1) else SECONDS for mark in measured]
    ends = [100 * end / sum(seconds) for end in accumulate(seconds)]
    frames = [
        Frame(mark, told[mark.lam or 0.0], start, end)
        for mark, start, end in zip(measured, [0.0, *ends], ends, strict=False)
    ]
    height = CARD_Y + 24 + LINE * max(len(frame.sample.response.splitlines()) for frame in frames) + MARGIN
    band = next(iter(bands(stages_of(samples))), None)
    body = [
        *_track(frames, band),
        *_charts(measured, [band] if band else []),
        *(line for number, frame in enumerate(frames) for line in _shown(number, frame)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" font-family="{FONT}">\n<title>One question while λ goes from 0 to 1</title>\n'
        f"<style>{_style(frames, sum(seconds))}</style>\n"
        f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>\n'
        f'<rect class="card" x="{MARGIN}" y="{CARD_Y}" width="{WIDTH - 2 * MARGIN}" '
        f'height="{height - CARD_Y - MARGIN}" rx="8"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def story(samples: Sequence[Sample]) -> dict[float, Sample]:
    """The first responses to one question, by λ: wrong at the lower end, right at the upper.

    Of all such questions it is one that never falls back, begins to think where most do, and has about three steps.
    """
    first: dict[str, dict[float, Sample]] = {}
    for sample in samples:
        if sample.number == 1 and sample.lam is not None:
            first.setdefault(sample.problem_id, {})[sample.lam] = sample
    if not first:
        raise SystemExit("the run has no points on the dial")
    usual = mean(sum(sample.closed for sample in found.values()) for found in first.values())

    def unlike(found: Mapping[float, Sample]) -> tuple[bool, int, int, int, str]:
        along = [found[lam] for lam in sorted(found)]
        falls = sum(a.closed > b.closed or a.score > b.score for a, b in pairwise(along))
        off = round(abs(sum(sample.closed for sample in along) - usual))
        bad = along[0].score > 0 or along[-1].score < 1
        return bad, falls, off, abs(int(along[0].difficulty or 0) - 3), along[0].problem_id

    return min(first.values(), key=unlike)


def _style(frames: Sequence[Frame], seconds: float) -> str:
    """Colours of the report in light and dark, and when each frame is seen."""
    dark = re.search(r"prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}", PAGE_CSS.read_text("utf-8"), re.S)
    assert dark, "page.css has no colours for dark mode"
    light = " ".join(f"--{name}: {value};" for name, value in COLOURS.items())
    still = min(frames, key=lambda frame: abs(frame.lam - STILL))
    rules = [
        f":root {{ {light} --surface: #f7f7f8; }}",
        f"@media (prefers-color-scheme: dark) {{ :root {{ {' '.join(dark[1].split())} }} }}",
        *(
            f'[fill="{value}"] {{ fill: var(--{name}) }} [stroke="{value}"] {{ stroke: var(--{name}) }}'
            for name, value in COLOURS.items()
        ),
        ".ground { fill: var(--paper); stroke: var(--grid) } .card { fill: var(--surface) }",
        f".frame {{ visibility: hidden }} .f{frames.index(still)} {{ visibility: visible }}",
        f".move {{ transform: translateX(calc(var(--w) * {still.lam}px)); animation: move {seconds:g}s linear infinite }}",
        f".frame {{ animation: {seconds:g}s step-end infinite }}",
    ]
    glide = 100 * SECONDS_OF_MOVE / seconds
    places = [f"0% {{ {_at(frames[0])} }}"]
    for number, frame in enumerate(frames):
        end = frame.end if number + 1 < len(frames) else 100
        rules.append(
            f"@keyframes f{number} {{ 0% {{ visibility: {'hidden' if number else 'visible'} }} "
            f"{frame.start:.2f}% {{ visibility: visible }} {end:.2f}% {{ visibility: hidden }} }}"
            f" .f{number} {{ animation-name: f{number} }}"
        )
        places.append(f"{frame.start + (glide if number else 0):.2f}%, {end:.2f}% {{ {_at(frame)} }}")
    rules.append(f"@keyframes move {{ {' '.join(places)} }}")
    rules.append("@media (prefers-reduced-motion: reduce) { .frame, .move { animation: none } }")
    return "\n".join(rules)


def _at(frame: Frame) -> str:
    return f"transform: translateX(calc(var(--w) * {frame.lam:g}px))"


def _text(x: float, y: float, words: str, size: float, **attributes: str) -> str:
    """A line of text; attributes by their names, with `_` for `-`."""
    told = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in attributes.items())
    fill = "" if "fill" in attributes else f' fill="{COLOURS["ink"]}"'
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{fill}{told} xml:space="preserve">{escape(words)}</text>'


def _track(frames: Sequence[Frame], band: figures.Band | None) -> Iterator[str]:
    """λ's track with the measured points, stage 2 in colour, and what moves on it."""
    left, right = RAIL
    width, y = right - left, 38
    yield f'<rect x="{left}" y="{y - 3}" width="{width}" height="6" rx="3" fill="{COLOURS["grid"]}"/>'
    if band:
        x = left + width * band.low
        yield f'<rect x="{x:g}" y="{y - 3}" width="{width * (band.high - band.low):g}" height="6" fill="{COLOURS["amber"]}"/>'
        yield _text(
            x + width * (band.high - band.low) / 2,
            y + 25,
            "thinking sets in",
            12,
            fill=COLOURS["muted"],
            text_anchor="middle",
        )
    for frame in frames:
        yield f'<circle cx="{left + width * frame.lam:g}" cy="{y}" r="1.5" fill="{COLOURS["muted"]}"/>'
    yield _text(left, y + 25, "Instruct", 12, fill=COLOURS["muted"])
    yield _text(right, y + 25, "Thinking", 12, fill=COLOURS["muted"], text_anchor="end")
    ink, paper = COLOURS["ink"], COLOURS["paper"]
    yield (
        f'<g class="move" style="--w: {width}"><circle cx="{left}" cy="{y}" r="10" fill="{ink}" stroke="{paper}" '
        f'stroke-width="3"/></g>'
    )


def _charts(points: Sequence[Mark], shaded: Sequence[figures.Band]) -> Iterator[str]:
    """The report's charts side by side, each with a line at λ."""
    plain = [replace(mark, statistics={n: i for n, i in mark.statistics.items() if n in SHOWN}) for mark in points]
    for number, quantity in enumerate(figures.QUANTITIES):
        panel = figures.panel(plain, points[0].task, quantity, shaded, *CHART)
        chart = re.sub(r"<text[^>]*>Mean@\d+</text>", "", svg(panel.properties(title="")))
        found = re.search(r"<g [^>]*translate\(([\d.]+),([\d.]+)\)", chart)
        assert found, "vl-convert draws otherwise than it did"
        x, y = _left(number) - float(found[1]), CHARTS_Y + 40 - float(found[2])
        inner = re.sub(r"<rect [^>]*/>", "", re.sub(r"^<svg[^>]*>|</svg>\s*$", "", chart), count=1)
        yield f'<g transform="translate({x:g},{y:g})">{inner}</g>'
        yield (
            f'<g class="move" style="--w: {CHART[0]}"><line x1="{_left(number)}" x2="{_left(number)}" '
            f'y1="{CHARTS_Y + 36}" y2="{CHARTS_Y + 40 + CHART[1]}" stroke="{COLOURS["ink"]}"/></g>'
        )


def _left(number: int) -> int:
    """Where the panel of a number begins."""
    return MARGIN + 26 + number * (WIDTH - 2 * MARGIN - 26 - CHART[0]) // 2


def _shown(number: int, frame: Frame) -> Iterator[str]:
    """λ, the three read-outs and the response of one frame."""
    sample = frame.sample
    yield f'<g class="frame f{number}">'
    yield _text(MARGIN, 47, f"λ = {frame.lam:g}", 26, font_weight="650")
    for column, (name, words) in enumerate(SHOWN.items()):
        value = frame.mark.statistics[name].value
        told = f"{value:.0f}" if name == "tokens" else f"{100 * value:.0f} %"
        x = _left(column)
        yield _text(x, CHARTS_Y + 14, words, 13, fill=COLOURS["muted"])
        yield _text(
            x + CHART[0], CHARTS_Y + 14, told, 19, fill=COLOURS[SERIES[name]], font_weight="650", text_anchor="end"
        )
    yield _text(MARGIN + 16, CARD_Y + 30, sample.question, 15, font_family=MONO, font_weight="600")
    verdict, colour = ("right", "green") if sample.score == 1 else (f"wrong: it is {sample.target}", "orange")
    yield _text(MARGIN + 16, CARD_Y + 56, verdict, 15, fill=COLOURS[colour], font_weight="600")
    yield _text(MARGIN + 16, CARD_Y + 78, f"{sample.num_tokens} tokens", 13, fill=COLOURS["muted"])
    for line, words in enumerate(sample.response.splitlines()):
        fill = {"fill": COLOURS["orange"]} if words in ("<think>", "</think>") else {}
        yield _text(ANSWER_X, CARD_Y + 30 + LINE * line, words, 15, font_family=MONO, **fill)
    yield "</g>"


if __name__ == "__main__":
    main()
