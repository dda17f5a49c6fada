"""The page at `/` in a real browser: asked at three λ, streaming, stopped, on a phone, in the dark, with hostile texts."""

import json
import re
import shutil
from pathlib import Path

import pytest
from serving import PATIENCE_SECONDS, as_vllm_serves, get, post, running
from written import WrittenEngine, server_of

from interpole.report.style import COLOURS
from interpole.serve import vllm_middleware
from interpole.serve.levels import Level, Levels
from interpole.serve.page import headers, page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
QUESTION = "34 a-1 b-5 c*2 = ?"


@pytest.fixture(scope="module")
def browser():
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """The page; at the end nothing may have been logged, and nothing requested but this server."""
    contexts, problems, requests = [], [], []

    def open_it(address=address, **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        it = context.new_page()
        it.set_default_timeout(1000 * PATIENCE_SECONDS)
        it.on("console", lambda message: problems.append(message.text) if "status of 4" not in message.text else None)
        it.on("pageerror", lambda error: problems.append(str(error)))
        it.on("request", lambda request: requests.append(request.url))
        it.goto(address)
        return it

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []
    assert all(url.startswith("http://127.0.0.1:") for url in requests)
    assert len({url.split("/")[2] for url in requests}) <= 1  # the server that it came from


@pytest.fixture
def address_over_vllm(address, pair_server, monkeypatch):
    """The middleware that stands before vLLM, with the tiny pair in vLLM's place."""
    known = frozenset({"model", "messages", "temperature", "max_tokens", "stream", "stream_options"})
    monkeypatch.setattr(vllm_middleware, "_fields", lambda _: known)
    with as_vllm_serves(address, pair_server.served.levels) as over_vllm:
        yield over_vllm


def ask(it, prompt=QUESTION, temperature="0"):
    it.fill("#prompt", prompt)
    it.fill("#temperature", temperature)
    it.press("#prompt", "Control+Enter")
    it.wait_for_selector("#stop[hidden]", state="attached")  # a function would be an eval, which the page forbids
    it.wait_for_selector(".answer:not(:empty)")


def test_three_lams_answer_side_by_side_and_their_tokens_are_counted(opened, address):
    it = opened()
    assert it.locator(".lam").all_inner_texts() == ["λ = 0.40", "λ = 0.60", "λ = 1.00"]
    ask(it)
    for number, lam in enumerate((0.4, 0.6, 1.0)):
        body = {"messages": [{"role": "user", "content": QUESTION}], "lam": lam, "temperature": 0}
        said = post(f"{address}/v1/chat/completions", json=body).json()
        column = it.locator(".column").nth(number)
        message, usage = said["choices"][0]["message"], said["usage"]
        assert column.locator(".answer").inner_text() == message["content"]
        assert column.locator("pre").text_content() == (message.get("reasoning") or "").lstrip()
        assert column.locator(".tokens").inner_text() == str(usage["completion_tokens"])
        thought = usage["completion_tokens_details"]["reasoning_tokens"]
        assert column.locator(".thought").inner_text() == str(thought)
        assert column.locator("details").is_visible() == bool(thought)
        assert not column.locator("pre").is_visible()  # folded until it is asked for
    it.locator("summary").last.click()
    assert it.locator("pre").last.is_visible()


def test_over_vllm_it_is_the_same_page_with_the_same_answers(opened, address, address_over_vllm):
    assert get(f"{address_over_vllm}/").text == get(f"{address}/").text
    it = opened(address_over_vllm)
    ask(it)
    for number, lam in enumerate((0.4, 0.6, 1.0)):
        body = {"messages": [{"role": "user", "content": QUESTION}], "lam": lam, "temperature": 0}
        said = post(f"{address}/v1/chat/completions", json=body).json()
        column = it.locator(".column").nth(number)
        assert column.locator(".answer").inner_text() == said["choices"][0]["message"]["content"]
        assert column.locator(".tokens").inner_text() == str(said["usage"]["completion_tokens"])
    it.fill("#prompt", "12 " * 3000)
    it.click("#ask")
    it.wait_for_selector(".status.bad")
    assert "does not fit" in it.locator(".status").first.inner_text()


def test_a_slider_moves_by_keyboard_and_says_which_level_it_is_at(opened):
    it = opened()
    slider = it.locator(".slider").first
    slider.focus()
    slider.press("Home")
    assert it.locator("h2").first.inner_text().split("\n") == ["λ = 0.00", "none"]
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "λ 0.01"
    ask(it)
    assert it.locator(".thought").first.inner_text() == "0"


def test_errors_are_shown_where_the_answer_would_be(opened):
    it = opened()
    it.fill("#prompt", "12 " * 3000)
    it.click("#ask")
    it.wait_for_selector(".status.bad")
    assert "does not fit" in it.locator(".status").first.inner_text()


def test_what_a_model_or_a_user_writes_is_text(opened):
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script></pre><b>bold</b>"
    with running(server_of(WrittenEngine())) as address:
        it = opened(address)
        ask(it, f"write {hostile}")
        assert [*it.locator(".answer").all_inner_texts()] == [hostile] * 3
        assert [*it.locator("pre").all_text_contents()] == [hostile] * 3
        assert it.title() == "pair · three λ"
    levels = Levels(0.5, {"low": Level(0.2)}, "</script><script>document.title='owned'</script>")
    assert "</script><script>document" not in page(levels)
    assert json.loads(page(levels).split('id="data">')[1].split("</script>")[0])["name"] == levels.name


def test_its_colours_are_those_of_the_report():
    css = (Path(page.__code__.co_filename).parent / "page.css").read_text()
    light = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css.split("@media")[0]))
    assert len(light) > 5
    assert {name: light[name] for name in light.keys() & COLOURS.keys()}.items() <= COLOURS.items()


def test_it_runs_its_own_script_only(address):
    reply = get(address)
    policy = reply.headers["content-security-policy"]
    assert policy == headers()["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "http://" not in reply.text
    assert "https://" not in reply.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_columns_stand_below_each_other_and_nothing_is_cut(opened, scheme):
    it = opened(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    ask(it)
    boxes = [it.locator(".column").nth(number).bounding_box() for number in range(3)]
    assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"]
    assert it.evaluate("document.documentElement.scrollWidth") <= 390
    background = it.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 20, 23)" if scheme == "dark" else "rgb(255, 255, 255)")
