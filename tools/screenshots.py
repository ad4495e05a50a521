"""Takes pictures of a console for the README: light and dark, of each page that is asked for.

uv run python tools/screenshots.py http://127.0.0.1:8090 docs/images / /rollouts
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 800}
# What moves has moved by then.
SETTLE_MS = 5000


def main() -> None:
    """Write FOLDER/console-PAGE-THEME.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a console that asks for no key, such as the demo's")
    parser.add_argument("folder", type=Path)
    parser.add_argument("paths", nargs="*", default=["/"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for theme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=theme)
            page = context.new_page()
            for path in options.paths:
                page.goto(options.url + path)
                page.wait_for_timeout(SETTLE_MS)
                name = path.strip("/").replace("/", "-") or "now"
                page.screenshot(path=options.folder / f"console-{name}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
