"""Take the documentation's pictures of a run's page, light and dark.

make demo && .venv/bin/shrinknet analyse surface demo-run --every 1 && .venv/bin/python docs/screenshots.py demo-run
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    """Open the page in a headless Chromium and keep what it shows."""
    page = (Path(sys.argv[1]) / "report" / "index.html").resolve()
    out = Path(__file__).parent / "pictures"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            tab = chromium.new_page(viewport={"width": 1160, "height": 1480}, color_scheme=theme)
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready=yes]")
            tab.screenshot(path=out / f"page-{theme}.png")
        chromium.close()


if __name__ == "__main__":
    main()
