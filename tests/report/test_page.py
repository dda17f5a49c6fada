"""The page in a real browser: by keyboard, on a phone, in the dark, with hostile texts, and with 20,000 samples."""

from __future__ import annotations

import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from interpole.analysis.metrics import measure
from interpole.analysis.recommend import recommend
from interpole.analysis.stages import find_stages
from interpole.analysis.tables import write_curves
from interpole.records import Outcome, Sample
from interpole.report import write_report
from interpole.report.page import html
from synthetic import samples, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run", "--metrics-recording-only",
]  # fmt: skip
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></pre></script><b>bold</b>"
Opened = Callable[..., "sync_api.Page"]


def write(path: Path, made: list[Sample], resamples: int = 100, **options: object) -> Path:
    metrics, stages = measure(made, resamples=resamples), find_stages(made, resamples=resamples)
    path.write_text(html(metrics, stages, made, **options), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: sync_api.Browser) -> Iterator[Opened]:
    """Open a file; at the end nothing may have been logged as an error, and nothing requested but the file itself."""
    contexts, problems, requests = [], [], []

    def opened(path: Path, hash_: str = "", **options: object) -> sync_api.Page:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + hash_)
        page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []
    assert all(url.startswith("file:") for url in requests)
    assert len(requests) == len(contexts)


@pytest.fixture(scope="module")
def made() -> list[Sample]:
    return samples(num_questions=12, k=3, tasks=("arithmetic", "other"), seed=1)


@pytest.fixture(scope="module")
def report(made: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("page") / "report.html", made)


def of(made: list[Sample], problem: str, lam: float) -> list[Sample]:
    return [s for s in made if s.problem_id == problem and s.lam == lam]


def test_the_slider_moves_everything_by_keyboard(report: Path, made: list[Sample], open_page: Opened) -> None:
    page = open_page(report)
    page.focus("#slider")
    page.keyboard.press("Home")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#lam") == "λ 0.6"
    assert page.get_attribute("#slider", "aria-valuetext") == "λ=0.6"
    metrics = next(m for m in measure(made, resamples=10) if m.task == "arithmetic" and m.lam == 0.6)
    assert f"{100 * metrics.mean.value:.1f} %" in page.inner_text("#now")
    shown = "document.querySelectorAll('.three:not([hidden]) .cursor')"
    x = page.evaluate(f"[...{shown}].map(l => +l.getAttribute('x1') / l.closest('figure').dataset.width)")
    assert x == pytest.approx([0.6, 0.6, 0.6])
    marked = page.evaluate(
        "[...document.querySelectorAll('.three:not([hidden]) path.here')].map(p => p.getAttribute('aria-label'))"
    )
    assert len(marked) == 5  # Mean, Pass, Vote, Think #R, Token #N
    assert all(label.startswith("λ=0.6:") for label in marked)
    page.wait_for_function("document.getElementById('r-meta').textContent.startsWith('λ=0.6')")
    assert page.inner_text("#response") == of(made, "arithmetic-0000", 0.6)[0].response.strip()
    assert page.inner_text("tr.here th") == "λ=0.6"
    page.keyboard.press("End")
    assert page.inner_text("#lam") == "λ 1.0"


def test_the_answer_turns_from_direct_to_thinking_under_the_slider(
    report: Path, made: list[Sample], open_page: Opened
) -> None:
    page = open_page(report)
    page.focus("#slider")
    page.keyboard.press("Home")
    first = of(made, "arithmetic-0000", 0.0)[0].response
    page.wait_for_function("text => document.getElementById('response').textContent === text", arg=first)
    assert page.query_selector("#response .thinking") is None
    page.keyboard.press("End")
    page.wait_for_selector("#response .thinking")
    assert page.inner_text("#response mark >> nth=0") == "<think>"
    assert page.inner_text("#response .answer").strip() == of(made, "arithmetic-0000", 1.0)[0].answer


def test_a_thought_that_the_prompt_opened_is_shown_as_one(tmp_path: Path, open_page: Opened) -> None:
    made = samples(num_questions=6, k=3, prompt_opens_thinking=True)
    cut = [
        replace(s, response=s.response[:20], finish="length", outcome=Outcome.TRUNCATED) if s.lam == 0.9 else s
        for s in made
    ]
    assert not any("<think>" in s.response for s in cut)
    run = write_run(tmp_path / "run", cut, prompt_opens_thinking=True)
    page = open_page(write_report(run, tmp_path / "report.html"), "#point=λ%3D0.9")
    page.wait_for_function("document.getElementById('r-meta').textContent.startsWith('λ=0.9')")
    assert page.inner_text("#response .thinking") == next(s.response for s in cut if s.lam == 0.9).strip()
    assert page.query_selector("#response .answer") is None
    page.keyboard.press("]")
    page.wait_for_selector("#response mark")
    closed = next(s for s in cut if s.lam == 1.0)
    assert page.inner_text("#response mark") == "</think>"
    assert page.inner_text("#response .answer").strip() == closed.answer
    page.click("#q-prompt summary")
    assert page.inner_text("#q-prompt pre") == f"User: {closed.question}\nAssistant: "


def test_words_are_found_in_responses_when_asked_for(report: Path, made: list[Sample], open_page: Opened) -> None:
    page = open_page(report)
    word = "Wait, check"
    having = {s.problem_id for s in made if s.task == "arithmetic" and word in s.response}
    page.fill("#search", "Wait, CHECK")
    assert page.inner_text("#count") == "0 questions"
    page.check("#deep")
    page.wait_for_function(f"document.getElementById('count').textContent === '{len(having)} questions'")
    page.fill("#search", "Wait, check nosuchword")
    page.wait_for_function("document.getElementById('count').textContent === '0 questions'")
    page.uncheck("#deep")
    page.fill("#search", "0007")
    assert page.inner_text("#count") == "1 question"


def test_the_list_is_one_tab_stop(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    assert page.evaluate("[...document.querySelectorAll('#list button')].filter(b => b.tabIndex === 0).length") == 1
    page.focus("#filter")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.querySelector('.d span').textContent").endswith("arithmetic-0001")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#list')") is None
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.querySelector('.d span').textContent").endswith("arithmetic-0001")


@pytest.mark.parametrize("lam", ["0", "0.5", "1"])
def test_the_selected_column_is_in_view_on_a_phone(report: Path, open_page: Opened, lam: str) -> None:
    page = open_page(report, f"#point=λ%3D{lam}", viewport={"width": 390, "height": 800}, is_mobile=True)
    box, column = (page.evaluate(f"(({{left, right}}) => [left, right])(document.querySelector('{at}').getBoundingClientRect())")
                   for at in (".strip-scroll", ".column.here"))  # fmt: skip
    assert box[0] <= column[0] < column[1] <= box[1]


def test_samples_are_stepped_through_and_wrap(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    for number in (2, 3, 1):
        page.click("#next")
        page.wait_for_function(
            "n => document.getElementById('r-meta').textContent.includes(`sample ${n} of 3`)", arg=number
        )
    page.keyboard.press("k")
    page.wait_for_function("document.getElementById('r-meta').textContent.includes('sample 3 of 3')")


def test_search_finds_by_words_and_by_id(report: Path, made: list[Sample], open_page: Opened) -> None:
    page = open_page(report)
    target = of(made, "arithmetic-0007", 0.0)[0]
    page.keyboard.press("/")
    page.keyboard.type("0007")
    assert page.inner_text("#count") == "1 question"
    page.fill("#search", target.question.split(" = ")[0])
    assert page.inner_text("#list .q") == target.question
    page.fill("#search", "no such words")
    assert page.inner_text("#count") == "0 questions"


def test_filters_agree_with_the_samples(report: Path, made: list[Sample], open_page: Opened) -> None:
    page = open_page(report)
    by_problem: dict[str, list[bool]] = {}
    for problem in {s.problem_id for s in made if s.task == "arithmetic"}:
        lams = sorted({s.lam for s in made})
        shares = [sum(s.score for s in of(made, problem, lam)) / 3 for lam in lams]
        by_problem[problem] = [share > 0.5 for share in shares]
    expected = {
        "flips": sum(len(set(right)) > 1 for right in by_problem.values()),
        "won": sum(not right[0] and right[-1] for right in by_problem.values()),
        "lost": sum(right[0] and not right[-1] for right in by_problem.values()),
    }
    assert 0 < expected["won"] < 12
    for kind, number in expected.items():
        page.select_option("#filter", kind)
        assert page.inner_text("#count").split()[0] == str(number), kind
    page.select_option("#filter", "all")
    page.select_option("#difficulty", "3 steps")
    assert page.inner_text("#count") == "2 questions"


def test_a_filter_on_this_lambda_follows_the_slider(report: Path, made: list[Sample], open_page: Opened) -> None:
    page = open_page(report)
    page.select_option("#filter", "mixed")
    page.focus("#slider")
    page.keyboard.press("Home")
    for lam in (0.0, 0.1, 0.2):
        sums = [sum(s.score for s in of(made, f"arithmetic-{i:04d}", lam)) for i in range(12)]
        assert page.inner_text("#count").split()[0] == str(sum(0 < total < 3 for total in sums)), lam
        page.keyboard.press("ArrowRight")


def test_the_list_is_walked_by_arrows_and_opened_by_enter(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    page.focus("#list button >> nth=0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('q-meta').textContent.startsWith('arithmetic-0002')")


def test_everything_that_acts_can_be_reached_by_tab(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert {"slider", "play", "search", "difficulty", "filter", "previous", "next", "response"} <= reached


def test_tabs_change_the_task_everywhere(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    page.click("[data-choose=other]")
    assert page.inner_text("#q-meta").startswith("other-0000")
    visible = page.evaluate(
        "[...document.querySelectorAll('[data-task]')].filter(e => !e.hidden).map(e => e.dataset.task)"
    )
    assert set(visible) == {"other"}


def test_dragging_in_a_chart_moves_lambda(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    chart = page.locator(".three:not([hidden]) figure >> nth=1")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 120)
    page.mouse.down()
    low = page.inner_text("#lam")
    page.mouse.move(box["x"] + box["width"] * 0.95, box["y"] + 120, steps=5)
    page.mouse.up()
    assert (low, page.inner_text("#lam")) == ("λ 0.1", "λ 1.0")


def test_an_address_brings_back_the_place(report: Path, open_page: Opened) -> None:
    page = open_page(report, "#task=other&point=λ%3D0.7&question=other-0005&sample=2")
    page.wait_for_function("document.getElementById('r-meta').textContent.startsWith('λ=0.7, sample 2 of 3')")
    assert page.inner_text("#q-meta").startswith("other-0005")


def test_hostile_texts_do_nothing(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    few = [s for s in made if s.task == "arithmetic" and s.lam in (0.0, 0.5, 1.0)]
    evil = [
        replace(
            s, task=EVIL, question=EVIL + s.question, target=EVIL, response=EVIL + s.response, answer=EVIL,
            problem_id=EVIL + s.problem_id, difficulty=EVIL + s.difficulty, grades={EVIL: s.score},
            error=EVIL if s.number == 2 else "",
        )
        for s in few
    ]  # fmt: skip
    path = write(tmp_path / "evil.html", evil, title=EVIL, manifest=[(EVIL, [(EVIL, EVIL)])])
    page = open_page(path)
    page.wait_for_function("text => document.getElementById('response').textContent.includes(text)", arg=EVIL[9:])
    page.click("#next")
    page.fill("#search", EVIL[:12])
    assert page.inner_text("#count") == "12 questions"
    assert page.title().startswith(EVIL)
    assert page.query_selector("img, iframe, svg image, article b ~ b, li > b > b") is None
    assert not page.evaluate("[...document.querySelectorAll('b')].some(e => e.textContent === 'bold')")
    assert page.evaluate("[...document.scripts].filter(s => !s.type).length") == 1


def test_the_page_may_not_request_or_run_anything_else(report: Path, browser: sync_api.Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        page = browser.new_page()
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready]")
        outcome = page.evaluate(
            """async (address) => {
                const image = new Image(), script = document.createElement('script');
                image.src = address + '/x.png';
                script.textContent = 'window.ran = true';
                document.body.append(image, script);
                const fetched = await fetch(address).then(() => 'sent', () => 'blocked');
                return [fetched, window.ran === undefined];
            }""",
            f"http://127.0.0.1:{server.getsockname()[1]}",
        )
        page.close()
        assert outcome == ["blocked", True]
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(report: Path, open_page: Opened, width: int) -> None:
    page = open_page(report, viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.getElementById('slider').getBoundingClientRect().width") > 100


def luminance(page: sync_api.Page, selector: str, what: str) -> float:
    red, green, blue = page.evaluate(
        f"getComputedStyle(document.querySelector({selector!r})).{what}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    )
    channels = [
        c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    return 0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(report: Path, open_page: Opened, scheme: str) -> None:
    page = open_page(report, color_scheme=scheme)
    ground = luminance(page, "body", "backgroundColor")
    assert (ground < 0.05) == (scheme == "dark")
    seen = {"h1": "color", ".caption": "color", ".verdict p": "color", ".chart svg text": "fill"}
    for selector, what in seen.items():
        light, dark = sorted((luminance(page, selector, what), ground), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, (selector, scheme)


def test_paper_shows_all_tasks_in_the_light(report: Path, open_page: Opened) -> None:
    page = open_page(report, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert luminance(page, "body", "backgroundColor") > 0.9
    assert page.evaluate("[...document.querySelectorAll('.three')].every(e => e.offsetHeight > 0)")
    assert page.evaluate("document.getElementById('dial').offsetHeight") == 0


def test_no_section_is_kept_whole_on_paper_so_that_pages_fill(report: Path, open_page: Opened) -> None:
    page = open_page(report)
    page.emulate_media(media="print")
    kept = "[...document.querySelectorAll('%s')].map(e => getComputedStyle(e).breakInside)"
    assert set(page.evaluate(kept % "section, .row, table, .verdicts, .manifest")) == {"auto"}
    assert set(page.evaluate(kept % "figure, tr, .verdict")) == {"avoid"}
    assert set(page.evaluate("[...document.querySelectorAll('h2')].map(e => getComputedStyle(e).breakAfter)")) == {
        "avoid"
    }


def test_a_page_without_samples_still_has_its_curves(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    path = tmp_path / "bare.html"
    path.write_text(html(measure(made, resamples=10), find_stages(made, resamples=10)), encoding="utf-8")
    page = open_page(path)
    page.focus("#slider")
    page.keyboard.press("End")
    assert page.inner_text("#lam") == "λ 1.0"
    assert page.query_selector("#list") is None


def test_points_off_the_dial_can_be_opened(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    own = [s for s in made if s.task == "arithmetic"]
    ties = [
        replace(s, lam=None, point="TIES", response="from TIES", budget_forced=True, chosen_lam=0.25)
        for s in own
        if s.lam == 0.6
    ]
    page = open_page(write(tmp_path / "off.html", own + ties))
    page.click("#strip .column:last-child button >> nth=1")
    page.wait_for_function("document.getElementById('r-meta').textContent.startsWith('TIES, sample 2 of 3')")
    assert page.inner_text("#response") == "from TIES"
    assert "(thought closed by force) · answered at λ=0.25 · " in page.inner_text("#r-meta")
    assert "(100.0 % with a thought closed by force)" in page.inner_text("[data-at]:visible")
    assert page.inner_text("#lam") == "TIES"
    assert page.evaluate(
        "[...document.querySelectorAll('.two:not([hidden]) path.here')].map(p => p.getAttribute('aria-label').split(':')[0])"
    ) == ["TIES"]


def test_commands_are_copied_as_the_shell_needs_them(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    run = write_run(tmp_path / "it's $(a) run", [s for s in made if s.task == "arithmetic"])
    page = open_page(write_report(run, tmp_path / "report.html"))
    copied = []
    for button in page.query_selector_all("[data-copy]"):
        button.click()
        assert button.inner_text() == "Copied"
        page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'pasted'}))")
        page.focus("#pasted")
        page.keyboard.press("Control+V")
        copied.append(shlex.split(page.input_value("#pasted")))
        page.evaluate("document.getElementById('pasted').remove()")
    merge, sweep, ask = copied
    assert merge[:4] == ["interpole", "merge", "models/Tiny-Instruct", "models/Tiny-Thinking"]
    assert merge[4:6] == ["--lambda", f"{recommend([s for s in made if s.task == 'arithmetic'], resamples=1000).lam:g}"]
    assert sweep[-2:] == ["--out", "it's $(a) run"]
    assert ask == ["interpole", "recommend", "it's $(a) run", "--balanced"]


def test_the_table_is_downloaded_as_curves_csv(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    own = [replace(s, task="=HYPERLINK(1)") for s in made if s.task == "arithmetic"]
    page = open_page(write(tmp_path / "report.html", own))
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "curves.csv"
    write_curves(measure(own, resamples=100), tmp_path / "curves.csv")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text == (tmp_path / "curves.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1].startswith("'=HYPERLINK(1),0.0,")


def test_a_run_without_a_dial_shows_its_points(made: list[Sample], tmp_path: Path, open_page: Opened) -> None:
    names = {0.6: "TIES", 1.0: "budget-64"}
    off = [replace(s, lam=None, point=names[s.lam]) for s in made if s.lam in names]
    path = tmp_path / "off.html"
    path.write_text(html(measure(off, resamples=10), [], off), encoding="utf-8")
    page = open_page(path)
    assert page.inner_text("#lam") == "TIES"
    assert page.query_selector("#slider").is_hidden()
    page.keyboard.press("]")
    page.click("tr[data-point=budget-64]")
    page.wait_for_function("document.getElementById('r-meta').textContent.startsWith('budget-64')")
    page.click("[data-choose=other]")
    assert page.inner_text("#lam") == "budget-64"


def test_twenty_thousand_samples_load_and_are_found(tmp_path: Path, open_page: Opened) -> None:
    many = samples(num_questions=228, k=8, padding=400)
    assert len(many) > 20_000
    page = open_page(write(tmp_path / "large.html", many, resamples=20))
    assert page.inner_text("#count") == "228 questions"
    page.click("#more")
    page.click("#list li:last-child button")
    page.wait_for_function("document.getElementById('q-meta').textContent.startsWith('arithmetic-0227')")
    page.wait_for_function("document.getElementById('response').textContent.length > 100")
