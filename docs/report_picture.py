"""Write docs/report.png, the picture of a report in the README: python docs/report_picture.py [RUN].

The picture has three parts of the page, one below the other: curves of the training, the cross-correlation matrix, and
the map of the features. It is legible at half its width. Chromium takes the screenshots.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, sync_playwright

from bt_plugin.report.write import write_report

# The page's width shows three charts in a row.
_WIDTH_PX = 1140
_GAP_PX = 16
# The page's own background.
_BACKGROUND = "#f6f7f9"


def main() -> None:
    """Write the report of a run, and a picture of it."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_report([run], page, map_images=1000)
        parts = photographed(page)
    height = sum(part.height for part in parts) + _GAP_PX * (len(parts) - 1)
    picture = Image.new("RGB", (parts[0].width, height), _BACKGROUND)
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height + _GAP_PX
    picture.quantize(256).save(Path(__file__).with_name("report.png"), optimize=True)


def photographed(page: Path) -> list[Image.Image]:
    """Return the parts of the page as Chromium shows them. The map shows the image of one point."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": _WIDTH_PX, "height": 900}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        # The first row of the charts is enough; the page has the others.
        for section in ("#training", "#matrix-0"):
            tab.add_style_tag(content=f"{section} .charts figure:nth-child(n + 4) {{ display: none }}")
        # A smaller map, so that the picture is not much higher than wide.
        tab.add_style_tag(content=".map { max-width: 640px; margin: 0 auto }")
        tab.locator("#map-0 svg").focus()
        while "retina" not in str(tab.locator("#map-0 .seen").text_content()):
            tab.keyboard.press("ArrowRight")
        tab.evaluate("document.activeElement.blur()")
        parts = [taken(tab.locator(section)) for section in ("#training", "#matrix-0", "#map-0")]
        browser.close()
    return parts


def taken(section: Locator) -> Image.Image:
    """Return a section of the page as an image."""
    return Image.open(io.BytesIO(section.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
