"""The page: what its files may hold, and what people do with it in a browser, by mouse, by keys and on a phone.

Screenshots lie in the folder that DRIFTLM_ARTIFACTS names, else in build/artifacts.
"""

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from driftlm import DriftError, Learning, Windows, load
from driftlm.homes.tenants import Tenants
from driftlm.memories.settings import MemorySettings
from driftlm.serving import page_routes
from driftlm.serving.access import Tokens
from driftlm.serving.app import application
from driftlm.serving.engine import Engine
from driftlm.serving.settings import Limits
from tests.support.servers import server

pytest.importorskip("fastapi", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "driftlm" / "serving" / "page"
FILES = ("/", "/page.js", "/page.css", "/vega.js")
SECRETS = {name: f"{name}-0123456789abcdef" for name in ("ada", "bo", "keys", "phone")}
TOKENS = Tokens([f"{name} {token}" for name, token in SECRETS.items()], "here")

# ---- without a browser ----------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text inside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.inline += data.strip()

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_the_files_need_no_token_and_say_nothing_of_a_tenant(tmp_path: Path) -> None:
    with server(tmp_path, tokens=TOKENS) as one:
        one.read(("secret-id", "the storm"), authorization=f"Bearer {SECRETS['ada']}")
        for path in FILES:
            reply = one.client.get(path, headers={"host": "example.org"})
            assert reply.status_code == 200 and "secret-id" not in reply.text and SECRETS["ada"] not in reply.text
            policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert reply.headers["x-content-type-options"] == "nosniff"
            again = one.client.get(path, headers={"if-none-match": reply.headers["etag"]})
            assert again.status_code == 304 and not again.content
            assert one.client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
        for path in ("/v1/reading", "/v1/memory", "/v1/snapshots", "/v1/models", "/openapi.json", "/page/page.js"):
            assert one.client.get(path).status_code == 401


def test_without_tokens_the_page_is_for_this_machine_alone(tmp_path: Path) -> None:
    with server(tmp_path) as one:
        kinds = ["text/html", "text/javascript", "text/css", "text/javascript"]
        assert [one.client.get(path).headers["content-type"].split(";")[0] for path in FILES] == kinds
        assert one.client.get("/", headers={"host": "example.org"}).status_code == 403


def test_nothing_is_fetched_from_elsewhere_and_nothing_becomes_markup() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?|wss?):|[\"'(=]//|@import|url\(", text), path.name
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    refused = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|Function\(|createContextual"
    assert not re.search(refused, script)
    page = Elements((PAGE / "index.html").read_text(encoding="utf-8"))
    assert not page.inline
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on") or name == "style"]
    assert {one["src"] for one in page.of("script")} == {"/page.js", "/vega.js"}


def test_every_control_has_a_name() -> None:
    page = Elements((PAGE / "index.html").read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {one["for"] for one in page.of("label") if "for" in one} | {"purge"}  # which stands in its label
    assert labelled == {one["id"] for one in page.of("input", "textarea", "select")}
    referred = {
        id
        for _, attributes in page.found
        for name in ("aria-labelledby", "aria-describedby")
        for id in (attributes.get(name) or "").split()
    }
    assert referred <= set(ids)
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    assert set(re.findall(r'\bat\("([\w-]+)"\)', script)) <= set(ids)


def test_without_the_drawing_extra_the_page_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise DriftError('it is missing; run: pip install "driftlm[report]"')

    monkeypatch.setattr(page_routes, "drawing_module", missing)
    page_routes.drawing.cache_clear()
    try:
        assert page_routes.drawing() == r'window.notDrawn = "it is missing; run: pip install \"driftlm[report]\"";'
    finally:
        page_routes.drawing.cache_clear()


# ---- in a browser ---------------------------------------------------------------------------------------------------

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
LEARNING = Learning("lora", rank=2, learning_rate=3e-3)
SETTINGS = MemorySettings(Windows("cached", 64, 16), LEARNING, ("bank",))
LISBON = ("ada", "2023-04-01", "Ada Lowell lives in Lisbon. She is a painter. She plays the harp. She owns a cat.")
OSLO = ("bo", "", "Bo Martin lives in Oslo. He is a baker. He plays the drums. He owns a dog.")
VIENNA = ("ada moves", "2024-05-01", "Ada Lowell has moved to Vienna. She lives in Vienna now. She is still a painter.")
QUESTION = "Where does Ada Lowell live?"
Opened = Callable[..., Any]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of servers of the bundled model: `open` without tokens, `closed` with them."""
    with ExitStack() as stack:
        tenants = Tenants(tmp_path_factory.mktemp("homes"), load(), SETTINGS)
        engine = stack.enter_context(Engine(tenants, 16))
        found = {}
        for name, tokens in (("open", None), ("closed", TOKENS)):
            app = application(engine, Limits(max_tokens=16), tokens)
            config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none")
            found[name] = stack.enter_context(listening(uvicorn.Server(config)))
        yield found


@contextmanager
def listening(one: Any) -> Iterator[str]:
    """A server in a thread of its own, at its address."""
    thread = threading.Thread(target=one.run)
    thread.start()
    while not one.started:
        assert thread.is_alive()
        thread.join(0.05)
    try:
        yield f"http://localhost:{one.servers[0].sockets[0].getsockname()[1]}"
    finally:
        one.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed (Debian's package: chromium)")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, addresses: dict[str, str]) -> Iterator[Opened]:
    """Pages that say nothing on the console and ask nobody else."""
    faults, contexts = list[str](), list[Any]()

    def open(which: str = "open", tenant: str = "", expected: str = "", drawing: bool = True, **more: Any) -> Any:
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | more))
        if tenant:
            contexts[-1].add_init_script(f"sessionStorage.setItem('driftlm token', '{SECRETS[tenant]}')")
        if not drawing:
            contexts[-1].route("**/vega.js", lambda route: route.fulfill(body="window.notDrawn = 'No drawing.';"))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda line: None if expected and expected in line.text else faults.append(line.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        inside = (f"{addresses[which]}/", "data:")
        page.on("request", lambda request: None if request.url.startswith(inside) else faults.append(request.url))
        page.goto(addresses[which])
        return page

    yield open
    for context in contexts:
        context.close()
    assert not faults


def shoot(page: Any, name: str, whole: bool = True) -> None:
    """Keep how the page looks."""
    folder = Path(os.environ.get("DRIFTLM_ARTIFACTS") or ROOT / "build" / "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=folder / f"page-{name}.png", full_page=whole)


def read(page: Any, id: str, time: str, text: str) -> None:
    page.get_by_label("Id").fill(id)
    page.get_by_label("Time").fill(time)
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Read", exact=True).click()
    page.locator("#said", has_text="was read: ").wait_for()


def listed(page: Any, of: str = "documents") -> list[str]:
    return page.locator(f"#{of} .id").all_text_contents()


def answered(page: Any) -> tuple[str, list[str]]:
    """The latest answer, and the documents that it names."""
    before = page.locator("#answers > li").count()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator("#answers > li").nth(before).wait_for()
    latest = page.locator("#answers > li").first
    return latest.locator(".answer").text_content(), latest.locator(".sources span:first-child").all_text_contents()


def drawn(page: Any) -> int:
    """Dots in the chart."""
    page.locator("#chart svg").wait_for()
    return page.locator("#chart path[aria-roledescription='point']").count()


def test_a_memory_is_read_asked_and_taken_back(opened: Opened) -> None:
    page = opened(expected="status of 400")
    page.get_by_text("Nothing has been read yet").wait_for()
    assert page.locator("#tenant").text_content() == "default" and page.locator("#model").text_content() == "bundled"
    for document in (LISBON, OSLO):
        read(page, *document)
    one = drawn(page)
    page.get_by_label("Name").fill("before-the-move")
    page.get_by_role("button", name="Take").click()
    page.get_by_text("before-the-move is taken").wait_for()
    page.get_by_label("Name").fill("before-the-move")
    page.get_by_role("button", name="Take").click()
    page.get_by_text("There is a snapshot 'before-the-move' already").wait_for()
    assert page.get_by_role("alert").text_content().endswith("give another name.")
    read(page, *VIENNA)
    assert listed(page) == ["ada moves", "bo", "ada"]
    assert "from 2024-05-01" in page.locator("#documents .about").first.text_content()
    page.wait_for_timeout(300)  # the chart's next frame
    assert drawn(page) > one > 0
    assert re.fullmatch(r"\d\.\d{3}", page.locator("#static").text_content())
    assert page.locator("#static").text_content() != page.locator("#adapted").text_content()
    assert page.locator("#chart").get_attribute("aria-label").startswith("bits per byte after")
    assert page.locator("#now").text_content().startswith("Read last: ada moves")

    page.get_by_label("Question").fill(QUESTION)
    assert answered(page) == ("Vienna", ["ada moves"])
    shoot(page, "desktop")
    page.get_by_role("button", name="Forget ada moves").click()
    dialog = page.get_by_role("dialog")
    assert "as if it had never been read" in dialog.text_content()
    dialog.get_by_role("button", name="Cancel").click()
    assert "ada moves" in listed(page)
    page.get_by_role("button", name="Forget ada moves").click()
    shoot(page, "sure", whole=False)
    dialog.get_by_role("button", name="Forget").click()
    page.get_by_text("ada moves is forgotten").wait_for()
    assert listed(page) == ["bo", "ada"]
    assert answered(page) == ("Lisbon", ["ada"])

    read(page, *VIENNA)
    page.get_by_role("button", name="Restore before-the-move").click()
    dialog.get_by_role("button", name="Restore").click()
    page.get_by_text("The memory is at before-the-move again").wait_for()
    assert listed(page) == ["bo", "ada"] and answered(page)[0] == "Lisbon"
    page.get_by_role("button", name="Delete before-the-move").click()
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("before-the-move is deleted").wait_for()
    assert listed(page, "snapshots") == []


def test_keys_are_enough(opened: Opened) -> None:
    page = opened("closed", "keys")
    page.locator("#inside:not([hidden])").wait_for()

    def tab_to(name: str) -> None:
        """Tab until something has the focus, whose outline is seen."""
        for _ in range(40):
            page.keyboard.press("Tab")
            found = page.locator(":focus")
            if name in (found.get_attribute("id"), found.get_attribute("aria-label"), found.text_content()):
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        raise AssertionError(f"{name} cannot be reached")

    for field, text in (("id", "by keys"), ("text", LISBON[2])):
        tab_to(field)
        page.keyboard.type(text)
    tab_to("Read")
    page.keyboard.press("Enter")
    page.get_by_text("by keys was read").wait_for()
    tab_to("question")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    page.locator("#answers .answer").wait_for()
    assert page.locator("#answers .answer").text_content() == "Lisbon"
    page.locator("#text").focus()
    tab_to("Forget by keys")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    assert page.locator(":focus").text_content() == "Cancel"  # who only hits Enter twice forgets nothing
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    page.locator("[aria-label='Forget by keys']:focus:not([aria-disabled])").wait_for()  # one thing at a time
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    tab_to("Forget")
    page.keyboard.press("Enter")
    page.get_by_text("by keys is forgotten").wait_for()
    assert page.locator(":focus").get_attribute("id") == "documents-title"


HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


def test_a_phone_shows_all_of_it_and_markup_stays_text(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    page = opened("closed", "phone", viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True)
    page.locator("#inside:not([hidden])").wait_for()
    with monkeypatch.context() as patch:  # the server refuses such a time; a home may have it from elsewhere
        patch.setattr("driftlm.serving.schemas.timestamp_of", lambda time: 0.0)
        read(page, HOSTILE, "<b>2024</b>", f"{LISBON[2]} <script>document.title='owned'</script>")
    read(page, "a-long-id-without-a-break-in-it-" * 3, "", OSLO[2])
    page.get_by_label("Question").fill(QUESTION)
    assert answered(page)[1] == [HOSTILE]
    assert HOSTILE in listed(page) and page.title() == "driftlm"
    assert page.locator("img, #documents b").count() == 0
    page.get_by_text("The same in numbers").click()
    assert page.locator("#points tr").count() > 0
    drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    columns = "getComputedStyle(document.getElementById('inside')).gridTemplateColumns.split(' ').length"
    assert page.evaluate(columns) == 1
    shoot(page, "phone-dark")
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(500)  # the chart is drawn anew
    shoot(page, "phone-light")
    page.get_by_role("button", name=f"Forget {HOSTILE}", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    page.locator("#said", has_text="is forgotten").wait_for()
    assert len(listed(page)) == 1 and page.title() == "driftlm"


def test_a_token_is_asked_for_once_and_leaves_with_its_tenant(opened: Opened) -> None:
    page = opened("closed", expected="Failed to load resource", drawing=False)
    page.get_by_label("Token", exact=True).fill("not-a-token-at-all")
    page.get_by_role("button", name="Enter").click()
    page.get_by_text("The token is not valid").wait_for()
    shoot(page, "token")
    page.get_by_label("Token", exact=True).fill(SECRETS["ada"])
    page.get_by_role("button", name="Enter").click()
    page.locator("#tenant", has_text="ada").wait_for()
    read(page, *LISBON)
    page.reload()
    page.locator("#documents .id").wait_for()  # without being asked again
    assert SECRETS["ada"] not in page.content() and page.url.endswith("/")
    page.locator("#points tr").first.wait_for()  # where nothing can be drawn, the numbers are shown
    assert page.locator("#caption").text_content() == "No drawing." and not page.locator("#chart").is_visible()
    page.context.set_offline(True)
    page.get_by_role("alert").filter(has_text="The server does not answer").wait_for()
    page.context.set_offline(False)
    page.get_by_text("The server answers again").wait_for()
    page.get_by_role("button", name="Leave").click()
    assert page.get_by_label("Token", exact=True).input_value() == "" and listed(page) == []
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_label("Token", exact=True).fill(SECRETS["bo"])
    page.get_by_role("button", name="Enter").click()
    page.locator("#tenant", has_text="bo").wait_for()
    page.get_by_text("Nothing has been read yet").wait_for()
    assert listed(page) == []
