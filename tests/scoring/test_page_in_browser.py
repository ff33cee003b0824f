"""The page in headless Chromium: what is seen on both sides of the handle, moved by mouse, finger and keyboard; sorting, filter, links."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from scoring.page import page_entry, write_page
from scoring.report import ImageScores

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.slow

COLOURS = {"bicubic": (200, 40, 40), "ours": (40, 160, 60), "HR": (40, 60, 200)}
METRICS = [SimpleNamespace(name="psnr", lower_better=False, best_at=None)]
PSNR = {"c10.png": 25.5, "a b#1?.png": 30.0, "no score.png": None, "c2.png": 9.5}
LARGE, SMALL = "large.png", "small.png"


@pytest.fixture(scope="module")
def chrome() -> "Iterator[Chrome]":
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if browser is None or driver is None:
        pytest.skip("chromium or chromedriver is not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--disable-dev-shm-usage", "--disable-background-networking", "--force-device-scale-factor=1"):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as started:
        started.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of six images: four of 300x200 with HR, and without it one that is wider than the window and one of a few pixels."""
    folder = tmp_path_factory.mktemp("page & results #1")
    small = {label: np.full((200, 300, 3), colour, np.uint8) for label, colour in COLOURS.items()}
    entries = []
    for name, psnr in PSNR.items():
        scores = ImageScores(image=name, scores={"ours": {"psnr": psnr}, "bicubic": {"psnr": 20.0}})
        entries.append(page_entry(name, small, scores, name))
    for name, size in ((LARGE, (300, 1400)), (SMALL, (60, 100))):
        entries.append(
            page_entry(name, {label: np.full((*size, 3), COLOURS[label], np.uint8) for label in ("bicubic", "ours")}, None, name)
        )
    Image.fromarray(small["ours"]).save(folder / "a b#1?.png")
    write_page(folder, "Results", entries, METRICS, {"scale": 4})
    return folder


@pytest.fixture
def page(chrome: "Chrome", folder: Path) -> "Iterator[Chrome]":
    """The page, freshly loaded from disk; whatever a test does, the console must stay empty."""
    set_size(chrome, 1000, 800)
    chrome.get_log("browser")
    chrome.get((folder / "index.html").as_uri())
    yield chrome
    assert chrome.get_log("browser") == []


def set_size(chrome: "Chrome", width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def find(inside: "Chrome | WebElement", selector: str) -> "WebElement":
    return inside.find_element("css selector", selector)


def card_of(page: "Chrome", name: str) -> "WebElement":
    (card,) = [card for card in page.find_elements("css selector", ".card") if find(card, "h2").text == name]
    page.execute_script("arguments[0].scrollIntoView({block: 'start'})", card)
    return card


def press(inside: "Chrome | WebElement", text: str) -> None:
    (button,) = [button for button in inside.find_elements("css selector", ".choice button") if button.text == text]
    button.click()


def box_of(page: "Chrome", card: "WebElement") -> SimpleNamespace:
    """Where the slider of a card lies on the screen, and the handle's middle in it."""
    script = "const box = arguments[0].getBoundingClientRect(); return [box.left, box.top, box.right, box.bottom]"
    left, top, right, bottom = page.execute_script(script, find(card, ".view"))
    line = page.execute_script(script, find(card, ".line"))
    return SimpleNamespace(left=left, top=top, width=right - left, height=bottom - top, handle=(line[0] + line[2]) / 2)


def seen(page: "Chrome", card: "WebElement") -> list[tuple[str, int, int]]:
    """The pictures seen on a card from left to right, as (label, first, last column of the screen), a quarter above the lower edge.

    Columns of other colours, such as the line, are left out.
    """
    box = box_of(page, card)
    screen = np.asarray(Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")).astype(int)
    first = round(box.left)
    row = screen[round(box.top + 0.75 * box.height), first : round(box.left + box.width)]
    ranges = []
    for label, colour in COLOURS.items():
        columns = np.flatnonzero(np.abs(row - colour).max(axis=1) <= 4) + first
        if columns.size:
            assert columns[-1] - columns[0] + 1 == columns.size, f"{label} is seen in more than one place"
            ranges.append((label, int(columns[0]), int(columns[-1])))
    return sorted(ranges, key=lambda found: found[1])


def assert_cut_at(page: "Chrome", card: "WebElement", x: float, left: str, right: str) -> None:
    """The handle is at x, and exactly there the left picture ends and the right one begins; nothing else is seen."""
    box, pictures = box_of(page, card), seen(page, card)
    assert box.handle == pytest.approx(x, abs=1.5)
    assert [label for label, _, _ in pictures] == [left, right]
    assert pictures[0][1:] == pytest.approx((box.left, x - 3), abs=2.5)
    assert pictures[1][1:] == pytest.approx((x + 2, box.left + box.width - 1), abs=2.5)


def drag(page: "Chrome", start: tuple[float, float], stop: tuple[float, float], kind: str = "mouse") -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    actions = ActionBuilder(page, mouse=PointerInput(kind, kind), duration=30)
    pointer = actions.pointer_action
    pointer.move_to_location(round(start[0]), round(start[1])).pointer_down()
    for step in (1, 2, 3):
        pointer.move_to_location(*(round(begin + (end - begin) * step / 3) for begin, end in zip(start, stop, strict=True)))
    pointer.pointer_up()
    actions.perform()


def middle(box: SimpleNamespace) -> float:
    return box.top + box.height / 2


def test_half_of_both_is_seen_at_first_pixel_by_pixel(page):
    card = card_of(page, "c10.png")
    box = box_of(page, card)
    assert (box.width, box.height) == (300, 200)
    assert_cut_at(page, card, box.left + 150, "bicubic", "ours")
    assert [find(card, f".tag.{side}").text for side in ("left", "right")] == ["bicubic", "ours"]


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_the_handle_is_dragged(page, kind):
    card = card_of(page, "c10.png")
    box = box_of(page, card)
    drag(page, (box.handle, middle(box)), (box.left + 60, middle(box) + 20), kind)
    assert_cut_at(page, card, box.left + 60, "bicubic", "ours")
    drag(page, (box.left + 60, middle(box)), (box.left + 240, middle(box)), kind)
    assert_cut_at(page, card, box.left + 240, "bicubic", "ours")
    other = card_of(page, "c2.png")
    assert_cut_at(page, other, box_of(page, other).left + 150, "bicubic", "ours")


def test_beside_the_handle_the_cut_comes_to_the_pointer(page):
    card = card_of(page, "c10.png")
    box = box_of(page, card)
    drag(page, (box.left + 30, box.top + 20), (box.left + 90, box.top + 30))
    assert_cut_at(page, card, box.left + 90, "bicubic", "ours")


def test_the_keyboard_moves_the_handle(page):
    from selenium.webdriver.common.keys import Keys

    card = card_of(page, "c10.png")
    box, grip = box_of(page, card), find(card, ".grip")
    grip.send_keys(Keys.ARROW_LEFT * 10)
    assert_cut_at(page, card, box.left + 0.4 * 300, "bicubic", "ours")
    grip.send_keys(Keys.ARROW_RIGHT * 30)
    assert_cut_at(page, card, box.left + 0.7 * 300, "bicubic", "ours")
    grip.send_keys(Keys.HOME)
    assert [label for label, _, _ in seen(page, card)] == ["ours"]
    assert grip.aria_role == "slider" and grip.accessible_name == "bicubic on the left, ours on the right"


def test_hr_is_chosen_for_one_image_and_for_all(page):
    card, other = card_of(page, "c10.png"), card_of(page, "c2.png")
    press(card, "ours|HR")
    card_of(page, "c10.png")
    assert_cut_at(page, card, box_of(page, card).left + 150, "ours", "HR")
    assert find(card, ".grip").accessible_name == "ours on the left, HR on the right"
    card_of(page, "c2.png")
    assert [label for label, _, _ in seen(page, other)] == ["bicubic", "ours"]
    press(find(page, ".all"), "bicubic|HR")
    for name in ("c10.png", "no score.png"):
        assert [label for label, _, _ in seen(page, card_of(page, name))] == ["bicubic", "HR"]
    assert [label for label, _, _ in seen(page, card_of(page, LARGE))] == ["bicubic", "ours"], "it has no HR"


def test_a_large_picture_is_moved_under_the_handle(page):
    card = card_of(page, LARGE)
    box, scroll = box_of(page, card), find(card, ".scroll")
    assert 900 < box.width < 1000
    centre = box.left + box.width / 2
    page.execute_script("arguments[0].scrollTo(300, 0)", scroll)
    assert_cut_at(page, card, centre, "bicubic", "ours")
    drag(page, (box.left + 700, box.top + 40), (box.left + 600, box.top + 40))
    assert page.execute_script("return arguments[0].scrollLeft", scroll) == pytest.approx(400, abs=2)
    assert_cut_at(page, card, centre, "bicubic", "ours")
    drag(page, (box.left + 200, box.top + 40), (box.left + 200, box.top + 40))
    assert_cut_at(page, card, box.left + 200, "bicubic", "ours")
    press(card, "Fit")
    box = box_of(page, card)
    assert box.height == pytest.approx(box.width * 300 / 1400, abs=2)
    assert seen(page, card)[1][2] == pytest.approx(box.left + box.width - 1, abs=2)


def test_a_small_picture_has_room_for_the_handle(page):
    card = card_of(page, SMALL)
    box = box_of(page, card)
    assert box.width >= 150
    start = box.left + (box.width - 100) / 2
    drag(page, (box.handle, middle(box)), (start + 20, middle(box)))
    screen = np.asarray(Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")).astype(int)
    row = screen[round(middle(box)) + 22, round(start) : round(start) + 100]
    left, right = (np.flatnonzero(np.abs(row - COLOURS[label]).max(axis=1) <= 4) for label in ("bicubic", "ours"))
    assert left[0] <= 1 and right[-1] >= 98 and 15 < left[-1] < 20 < right[0] < 25


@pytest.mark.parametrize("kind", ["mouse", "touch"])
def test_the_handle_of_a_large_picture_moves_the_cut_only(page, kind):
    card = card_of(page, LARGE)
    box, scroll = box_of(page, card), find(card, ".scroll")
    page.execute_script("arguments[0].scrollTo(200, 0)", scroll)
    drag(page, (box.handle, middle(box)), (box.left + 150, middle(box)), kind)
    assert_cut_at(page, card, box.left + 150, "bicubic", "ours")
    assert page.execute_script("return arguments[0].scrollLeft", scroll) == 200


def test_fingers_scroll_a_large_picture(page):
    card = card_of(page, LARGE)
    box, scroll = box_of(page, card), find(card, ".scroll")
    drag(page, (box.left + 700, box.top + 40), (box.left + 500, box.top + 40), "touch")
    assert page.execute_script("return arguments[0].scrollLeft", scroll) > 100
    assert_cut_at(page, card, box.left + box.width / 2, "bicubic", "ours")
    drag(page, (box.left + 700, box.top + 40), (box.left + 700, box.top + 40), "touch")
    assert_cut_at(page, card, box.left + 700, "bicubic", "ours")


def test_zoom_shows_larger_pixels_and_keeps_the_cut(page):
    card = card_of(page, "c10.png")
    press(card, "4×")
    box, stage = box_of(page, card), find(card, ".stage")
    assert stage.size == {"width": 1200, "height": 800} and box.width < 1000
    assert find(card, ".stage img").value_of_css_property("image-rendering") == "pixelated"
    (left, _, end), (right, begin, _) = seen(page, card)
    assert (left, right) == ("bicubic", "ours") and end < box.handle < begin and begin - end < 8
    press(card, "1×")
    assert box_of(page, card).width == 300


def rows(page: "Chrome") -> list[str]:
    return [row.text for row in page.find_elements("css selector", ".listing tbody th") if row.is_displayed()]


def cards(page: "Chrome") -> list[str]:
    return page.execute_script("return [...document.querySelectorAll('.card:not([hidden]) h2')].map((heading) => heading.textContent)")


def test_the_table_and_the_cards_are_sorted_and_gaps_stay_last(page):
    button = find(page, "button[title='sort by psnr of ours']")
    heading = button.find_element("xpath", "..")
    assert rows(page) == cards(page) == [*PSNR, LARGE, SMALL] and heading.get_attribute("aria-sort") is None
    button.click()
    assert rows(page) == cards(page) == ["c2.png", "c10.png", "a b#1?.png", "no score.png", LARGE, SMALL]
    assert heading.get_attribute("aria-sort") == "ascending"
    button.click()
    assert rows(page) == cards(page) == ["a b#1?.png", "c10.png", "c2.png", "no score.png", LARGE, SMALL]
    assert heading.get_attribute("aria-sort") == "descending"
    find(page, "button[title='sort by image']").click()
    assert rows(page) == cards(page) == ["a b#1?.png", "c2.png", "c10.png", LARGE, "no score.png", SMALL]
    assert heading.get_attribute("aria-sort") is None


def test_the_filter_leaves_what_is_named(page):
    find(page, ".finder input").send_keys("C PNG 1")
    assert rows(page) == cards(page) == ["c10.png"]
    assert find(page, ".finder output").text == "1 of 6 images"


def test_links_lead_to_the_card_and_to_the_file(page, folder):
    (link,) = [link for link in page.find_elements("css selector", ".listing a") if link.text == "a b#1?.png"]
    link.click()
    card = find(page, ".card:target")
    assert find(card, "h2").text == "a b#1?.png" and 0 <= box_of(page, card).top < 400
    find(card, "footer a").click()
    assert page.current_url == (folder / "a b#1?.png").as_uri()
    assert page.execute_script("return document.images[0].naturalWidth") == 300


@pytest.mark.parametrize("width", [360, 1000, 1900])
def test_nothing_is_wider_than_the_window(page, width):
    set_size(page, width, 700)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_the_system_is(page):
    def paper(scheme: str) -> int:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        return Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("L").getpixel((3, 3))

    assert paper("light") > 230 and paper("dark") < 30
