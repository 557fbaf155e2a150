"""The page in a browser: without a network, by pointer and keyboard, on a desk and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium; Debian's package is chromium", allow_module_level=True)

# Of every element with text of its own: the contrast of WCAG 2.1 between it and what is behind it.
CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = numbers(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((element) => own(element) && !["SCRIPT", "STYLE"].includes(element.tagName))
    .map((element) => {
      const [one, other] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
      return [element.tagName, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
    });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a page of so many pixels' width; at the end, it must have asked for nothing and complained of nothing."""
    complaints: list[str] = []
    contexts = []

    def visited(page: Path, width: int, height: int = 900, touch: bool = False) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
        tab.goto(page.as_uri())
        return tab

    yield visited
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize(("width", "columns"), [(1280, 3), (390, 1)])
def test_it_fits(visit: Any, page_of_two: Path, width: int, columns: int) -> None:
    tab = visit(page_of_two, width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    lefts = tab.evaluate("[...document.querySelectorAll('#training figure')].map((e) => e.getBoundingClientRect().x)")
    assert len(set(lefts)) == columns
    sizes = tab.evaluate("[...document.images].map((image) => [image.naturalWidth, image.clientWidth])")
    assert all(natural > 0 and shown > 100 for natural, shown in sizes)


def test_the_slider_goes_back_in_time(visit: Any, page_of_one: Path) -> None:
    tab = visit(page_of_one, 1280)
    images = tab.locator("#matrix-0 img")
    before = [images.nth(place).get_attribute("src") for place in range(4)]
    slider = tab.get_by_label("Step")
    slider.focus()
    tab.keyboard.press("Home")
    assert tab.locator("#matrix-0 output").text_content() == "4"
    assert slider.get_attribute("aria-valuetext") == "step 4"
    after = [images.nth(place).get_attribute("src") for place in range(4)]
    assert all(one != other for one, other in zip(before, after))
    assert str(images.first.get_attribute("alt")).endswith("at step 4.")
    tab.keyboard.press("End")
    assert [images.nth(place).get_attribute("src") for place in range(4)] == before


def test_pointing_at_an_image_shows_it(visit: Any, page_of_one: Path) -> None:
    tab = visit(page_of_one, 1280)
    tab.locator("#map-0 svg").scroll_into_view_if_needed()
    seen = tab.locator("#map-0 .seen")
    assert not seen.is_visible()
    point = tab.locator("#map-0 circle").nth(5)
    box = point.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert seen.is_visible()
    name = seen.locator("p").text_content()
    assert name == tab.evaluate("JSON.parse(document.querySelector('.map script').textContent)[5]")
    place = tab.evaluate("getComputedStyle(document.querySelector('.thumbnail')).backgroundPosition")
    assert place == "-560px 0px", "the sixth of the first row"
    tab.mouse.move(5, 5)
    assert not seen.is_visible()


def test_arrows_go_through_the_images(visit: Any, page_of_one: Path) -> None:
    tab = visit(page_of_one, 1280)
    tab.locator("#map-0 svg").focus()
    names = []
    for _ in range(12):
        tab.keyboard.press("ArrowRight")
        names.append(tab.locator("#map-0 .seen p").text_content())
    assert len(set(names)) == 12
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#map-0 .seen p").text_content() == names[-2]
    tab.keyboard.press("Escape")
    assert not tab.locator("#map-0 .seen").is_visible()


def test_a_finger_shows_an_image_inside_of_the_screen(visit: Any, page_of_one: Path) -> None:
    tab = visit(page_of_one, 390, touch=True)
    for number in range(12):
        point = tab.locator("#map-0 circle").nth(number)
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        seen = tab.locator("#map-0 .seen").bounding_box()
        assert seen is not None
        assert seen["x"] >= 0
        assert seen["x"] + seen["width"] <= 390


def test_a_class_can_be_seen_alone(visit: Any, page_of_one: Path) -> None:
    tab = visit(page_of_one, 1280)
    button = tab.get_by_role("button", name="coffee")
    dim = tab.locator("#map-0 circle.dim")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert dim.count() == 8
    tab.get_by_role("button", name="rocket").click()
    assert button.get_attribute("aria-pressed") == "false"
    assert dim.count() == 8
    tab.get_by_role("button", name="rocket").click()
    assert dim.count() == 0


def test_text_is_readable_and_figures_are_told(visit: Any, page_of_two: Path) -> None:
    tab = visit(page_of_two, 1280)
    contrasts = tab.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [pair for pair in contrasts if pair[1] < 4.5] == []
    assert tab.evaluate("[...document.images].every((image) => image.alt.length > 20)")
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
