"""The picture of a report that the README shows: the whole page at 1280 px, its lower half beside its upper one.

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


def main() -> None:
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([run], page, map_images=1000)
        picture = photographed(page)
    half = -(-picture.height // 2)
    halves = Image.new("RGB", (2 * picture.width + _GAP_PX, half), "white")
    halves.paste(picture.crop((0, 0, picture.width, half)), (0, 0))
    halves.paste(picture.crop((0, half, picture.width, picture.height)), (picture.width + _GAP_PX, 0))
    shown = halves.resize((halves.width * 5 // 8, halves.height * 5 // 8), Image.Resampling.LANCZOS)
    shown.quantize(256).save(Path(__file__).with_name("report.png"), optimize=True)


def photographed(page: Path) -> Image.Image:
    """The page as Chromium shows it, without the recipe's text, and an image of the map pointed at."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.as_uri())
        tab.locator("details summary").click()
        tab.locator("#map-0 svg").focus()
        for _ in range(60):
            tab.keyboard.press("ArrowRight")
        tab.evaluate("document.activeElement.blur()")
        taken = tab.screenshot(full_page=True)
        browser.close()
    return Image.open(io.BytesIO(taken)).convert("RGB")


if __name__ == "__main__":
    main()
