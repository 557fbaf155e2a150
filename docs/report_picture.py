"""The picture of a report that the README shows: the whole page at 1280 px, its lower part beside its upper one.

python docs/report_picture.py [RUN]
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from bt_plugin.report.write import write_report

_GAP_PX = 24
# Of the page, which the shorter part ends in.
_GROUND = "#f6f7f9"


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([run], page, map_images=1000)
        picture, top = photographed(page)
    width, height = picture.size
    both = Image.new("RGB", (2 * width + _GAP_PX, max(top, height - top)), _GROUND)
    both.paste(picture.crop((0, 0, width, top)), (0, 0))
    both.paste(picture.crop((0, top, width, height)), (width + _GAP_PX, 0))
    shown = both.resize((both.width * 5 // 8, both.height * 5 // 8), Image.Resampling.LANCZOS)
    shown.quantize(256).save(Path(__file__).with_name("report.png"), optimize=True)


def photographed(page: Path) -> tuple[Image.Image, int]:
    """The page as Chromium shows it, without the recipe's text, with an image of the map; where its matrix begins."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.locator("details summary").click()
        tab.locator("#map-0 svg").focus()
        while "retina" not in str(tab.locator("#map-0 .seen").text_content()):
            tab.keyboard.press("ArrowRight")
        tab.evaluate("document.activeElement.blur()")
        top = tab.evaluate("document.querySelector('#matrix-0').getBoundingClientRect().top + scrollY")
        taken = tab.screenshot(full_page=True)
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB"), int(top)


if __name__ == "__main__":
    main()
