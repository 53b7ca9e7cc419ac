"""The README's moving picture: a person takes over in the page that comes with the package.

    python -m experiments.playground_film [--to docs/images/playground.webp]

Films the real page in headless Chromium: real key presses and clicks, and the page's own clock moved on by hand, so
that every recording shows the same drive. The person looks at the dreamed road and steers by it, lets go, and has a
road drawn. Needs Chromium and playwright.
"""

import argparse
import io
import shutil
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

from worldmodels.cli import as_a_command
from worldmodels.playground import server, site
from worldmodels.pretrained import folder
from worldmodels.runs.files import write_atomically

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FRAME = 100  # ms between two frames of the film
WINDOW = {"width": 900, "height": 690}
DREAM = "seed=23&start=14&temperature=0.5"
ROAD_AHEAD = """() => {
  const {data} = playground.image;
  let sum = 0, count = 0;
  for (let y = 26; y < 38; y++) for (let x = 0; x < 64; x++) {
    const [r, g] = data.slice(4 * (64 * y + x));
    if (g < r + 25) { sum += x; count += 1; }
  }
  return count ? sum / count : 32;
}"""
"""Where the middle of the road is, a car's length or two ahead: 0 … 63."""


class Film:
    """What the page shows, frame by frame."""

    def __init__(self, page: Page):
        self.page = page
        self.frames: list[Image.Image] = []
        top, bottom = (page.locator(part).bounding_box() for part in ("#stage", "#keys"))
        assert top and bottom
        height = bottom["y"] + bottom["height"] - top["y"]
        self.clip = FloatRect(x=top["x"] - 8, y=top["y"] - 8, width=top["width"] + 16, height=height + 16)

    def shoot(self) -> None:
        """Move the page's clock on and take a picture of its stage."""
        self.page.clock.run_for(FRAME)
        with Image.open(io.BytesIO(self.page.screenshot(clip=self.clip))) as picture:
            self.frames.append(picture.convert("RGB"))

    def watch(self, seconds: float) -> None:
        for _ in range(round(1000 * seconds / FRAME)):
            self.shoot()

    def drive(self, seconds: float) -> None:
        """A person holds and lets go of keys, by what the picture shows."""
        keyboard, down = self.page.keyboard, set[str]()
        for t in range(round(1000 * seconds / FRAME)):
            road = self.page.evaluate(ROAD_AHEAD) - 32
            wanted = {"ArrowUp"} if t < 5 or (abs(road) < 3 and t % 2) else set()
            wanted |= {"ArrowLeft"} if road < -2 else {"ArrowRight"} if road > 2 else set()
            for key in down - wanted:
                keyboard.up(key)
            for key in wanted - down:
                keyboard.down(key)
            down = wanted
            self.shoot()
        for key in down:
            keyboard.up(key)

    def save(self, path: Path) -> None:
        with io.BytesIO() as buffer:
            first, *others = self.frames
            first.save(
                buffer, "WEBP", save_all=True, append_images=others, duration=FRAME, loop=0, quality=60, method=6
            )
            write_atomically(path, buffer.getvalue())
        print(f"{path}: {len(self.frames)} frames of {first.width} × {first.height}, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("docs/images/playground.webp"))
    to = parser.parse_args().to
    running = server.open_server(site.build(folder("carracing")), 8800)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = chromium.new_page(viewport=WINDOW, device_scale_factor=1)
        page.clock.install(time=0)
        page.goto(f"{running.url}#{DREAM}")
        page.wait_for_selector("html[data-ready]")
        page.add_style_tag(content="#facts { visibility: hidden }")  # speeds mean nothing when the clock is ours
        page.clock.pause_at(60_000)
        page.keyboard.press("r")
        film = Film(page)
        film.watch(1.5)
        film.drive(4)
        film.watch(1.5)
        page.click("#mode-draw")
        film.watch(0.6)
        page.click("text=S-bend")
        film.watch(1.4)
        page.click("#dream-on")
        film.watch(3)
        film.save(to)
        chromium.close()
    running.shutdown()


if __name__ == "__main__":
    with as_a_command():
        main()
