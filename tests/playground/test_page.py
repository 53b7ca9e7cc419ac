"""The page in a real browser: who drives, what a link repeats, drawing, sliders, a phone, one file, barriers."""

import re

import pytest

from tests.helpers.toy import TOY
from tests.playground.conftest import TOOLS, make_run, opened, serving
from worldmodels.playground import site

STEP = "count => { for (let i = 0; i < count; i++) playground.drive.step(); playground.show(); }"
Z = "[...playground.drive.dream.z]"
PICTURE = "[...playground.image.data]"


def steps(page, count: int) -> None:
    page.evaluate(STEP, count)


def test_runs_in_real_time(browser, address):
    """Fifty steps in a second of the clock, whatever the display does; the numbers on the page say so."""
    with opened(browser, f"{address}#seed=7&start=2", reduced_motion="no-preference") as page:
        page.wait_for_function("playground.drive.time > 30")
        first = page.evaluate("[playground.drive.time, performance.now()]")
        page.wait_for_function("start => playground.drive.time > start + 50", arg=first[0])
        last = page.evaluate("[playground.drive.time, performance.now()]")
        assert (last[0] - first[0]) / (last[1] - first[1]) * 1000 < 55
        page.wait_for_function("Number(document.querySelector('#steps').textContent) > 0")
        assert page.inner_text("#arithmetic") == "WebAssembly"


def test_agent_stays_on_the_road(page):
    """Three dreams of 300 steps."""
    off = page.evaluate(
        """async () => {
          const {onRoad} = await import("playground/page.js");
          let off = 0;
          for (playground.seed = 0; playground.seed < 3; playground.seed++) {
            playground.go(playground.seed);
            for (let i = 0; i < 300; i++) {
              playground.drive.step();
              if (i % 3) continue;
              playground.show();
              off += !onRoad(playground.image.data);
            }
          }
          return off;
        }"""
    )
    assert off <= 3  # of 300 looks


@pytest.mark.parametrize("key, gauge, sign", [
    ("ArrowLeft", 0, -1), ("ArrowRight", 0, 1), ("ArrowUp", 1, 1), ("ArrowDown", 2, 1)
])  # fmt: skip
def test_a_key_takes_over_and_gives_back(page, key, gauge, sign):
    """The action and the picture change at once, the bars say who drives, and the agent resumes after half a second."""
    steps(page, 20)
    page.evaluate("window.before = playground.drive.dream.save(); window.time = playground.drive.time")
    steps(page, 10)
    alone = page.evaluate(PICTURE)
    page.evaluate("playground.drive.dream.restore(before); playground.drive.time = time")
    assert page.inner_text("#pill") == "C drives"
    page.keyboard.down(key)
    steps(page, 10)
    action = page.evaluate("[...playground.drive.action]")
    assert action[gauge] * sign > 0.5 and page.inner_text("#pill") == "You drive"
    assert page.locator("#keys button.down").count() == 1
    assert page.evaluate(PICTURE) != alone
    page.keyboard.up(key)
    steps(page, 24)
    assert page.inner_text("#pill") == "You drive"
    steps(page, 2)
    assert page.inner_text("#pill") == "C drives" and page.inner_text("#status") == "The agent drives"


def test_keys_are_forgotten_when_the_window_loses_the_focus(page):
    page.keyboard.down("ArrowLeft")
    assert page.evaluate("playground.drive.wish.wheel") == -1
    page.evaluate("dispatchEvent(new Event('blur'))")
    assert page.evaluate("playground.drive.wish") is None
    page.keyboard.up("ArrowLeft")


def test_letters_and_buttons(page):
    """Pause, single step, again, another start, and the agent that does not come back when it is told so."""
    page.keyboard.press("p")
    assert page.evaluate("playground.paused") is False
    page.keyboard.press(".")
    assert page.evaluate("playground.paused") is True
    before = page.evaluate("playground.drive.time")
    page.click("#single")
    assert page.evaluate("playground.drive.time") == before + 1
    page.keyboard.press("n")
    assert (
        page.evaluate("playground.place") == 3
        and page.get_attribute("#starts button:nth-child(4)", "aria-pressed") == "true"
    )
    page.click("#again")
    assert page.evaluate("playground.drive.time") == 0
    page.uncheck("#returns")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowLeft")
    steps(page, 100)
    assert page.evaluate("playground.drive.driver") == "you"
    page.check("#returns")
    assert page.evaluate("playground.drive.driver") == "agent"


def test_temperature_zero_repeats_whatever_the_seed(page):
    dreams = page.evaluate(
        """[1, 2, 2].map((seed, i) => {
          playground.seed = seed;
          playground.begin(i < 2 ? 0 : 1);
          for (let i = 0; i < 100; i++) playground.drive.step();
          return [...playground.drive.dream.z];
        })"""
    )
    assert dreams[0] == dreams[1] and dreams[0] != dreams[2]


def test_temperature_acts_at_once(page):
    page.locator("#temperature").fill("0")
    assert page.evaluate("playground.drive.temperature") == 0 and page.inner_text("#temperature-value") == "0.00"


def test_a_link_repeats_a_drive_exactly(browser, address, page):
    """Start, seed, temperature, what was held and all that the person did, in another window."""
    steps(page, 10)
    page.keyboard.down("ArrowRight")
    steps(page, 7)
    page.keyboard.down("ArrowUp")
    steps(page, 12)
    page.keyboard.up("ArrowRight")
    page.keyboard.up("ArrowUp")
    steps(page, 5)
    page.locator("#temperature").fill("0.9")
    steps(page, 30)
    page.evaluate("playground.tell('h', 3, 120)")
    steps(page, 3)
    page.evaluate("playground.tell('l'); playground.tell('r', 20)")
    steps(page, 40)
    page.click("#share")
    link = page.input_value("#link")
    assert re.search(r"#seed=7&start=2&temperature=0\.5&drive=10w10\.0\.0\.-1_17w10\.10\.0\.-1_", link)
    with opened(browser, link) as other:
        assert other.is_visible("#badge") and other.inner_text("#badge") == "a shared drive"
        steps(other, page.evaluate("playground.drive.time"))
        assert other.evaluate(Z) == page.evaluate(Z) and not other.evaluate("playground.drive.replaying")


@pytest.mark.parametrize("fragment", ["#seed=x&start=99&temperature=-3", "#drive=1h99.5_2w1_zz_5r1_3t9999&z=1.2"])
def test_a_broken_link_is_a_new_dream(page, fragment):
    page.evaluate("fragment => { history.replaceState(null, '', fragment); playground.open(); }", fragment)
    steps(page, 10)
    assert all(abs(value) < 10 for value in page.evaluate(Z)) and len(page.evaluate(Z)) == 32


def test_sliders_of_z(page):
    """Sorted by how much they move; holding one changes the picture and stays until it is let go."""
    before = page.evaluate(PICTURE)
    std = page.evaluate("playground.latents.all.map(({index}) => playground.world.std[index])")
    assert std == sorted(std, reverse=True) and page.locator("#alive .latent").count() == sum(s > 0.2 for s in std)
    slider = page.locator("#alive input").first
    slider.focus()
    slider.press("End")
    index = page.evaluate("playground.latents.all[0].index")
    held = page.evaluate(f"playground.drive.dream.z[{index}]")
    assert held == pytest.approx(float(slider.get_attribute("max")), abs=0.011)
    assert page.evaluate(PICTURE) != before
    steps(page, 5)
    assert page.evaluate(f"playground.drive.dream.z[{index}]") == held
    page.click("#let-go")
    steps(page, 1)
    assert page.evaluate(f"playground.drive.dream.z[{index}]") != held


def test_the_first_frame_beside_what_v_keeps(page):
    difference = page.evaluate(
        """() => {
          const [real, seen] = ["real-start", "seen-start"].map(
            (id) => document.getElementById(id).getContext("2d").getImageData(0, 0, 64, 64).data);
          return real.reduce((sum, value, i) => sum + Math.abs(value - seen[i]), 0) / real.length;
        }"""
    )
    assert 0.5 < difference < 15  # grey levels: alike, not the same


def test_drawing_changes_the_dream(page):
    """A road drawn with the mouse is what the dream begins with, and a link holds it."""
    page.click("#mode-draw")
    before = page.evaluate("[...playground.drawnZ]")
    box = page.locator("#screen").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.25, steps=5)
    page.mouse.up()
    drawn = page.evaluate("[...playground.drawnZ]")
    assert max(abs(a - b) for a, b in zip(before, drawn, strict=True)) > 0.3
    page.click("#undo")
    assert page.evaluate("[...playground.drawnZ]") == before
    page.focus("#screen")
    page.keyboard.press(" ")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    assert page.evaluate("[...playground.drawnZ]") != before
    page.click("text=Hairpin")
    drawn = page.evaluate("[...playground.drawnZ]")
    page.click("#dream-on")
    page.evaluate("playground.pause(true); playground.again()")
    assert page.evaluate(Z) == drawn
    link = page.evaluate("playground.link()")
    page.evaluate("link => { history.replaceState(null, '', link); playground.open(); }", link)
    assert page.evaluate(Z) == drawn and page.evaluate("playground.place") == -1


def test_a_photo_is_something_to_dream_from(page, shipped, tmp_path):
    (tmp_path / "photo.webp").write_bytes(shipped["starts.webp"])
    page.click("#mode-draw")
    before = page.evaluate("[...playground.drawnZ]")
    page.set_input_files("#photo", tmp_path / "photo.webp")
    page.wait_for_function("before => playground.drawnZ.some((value, i) => value !== before[i])", arg=before)
    seen = page.evaluate("[...playground.drawnZ]")
    assert seen != before
    (tmp_path / "photo.webp").write_bytes(b"no picture")
    page.set_input_files("#photo", tmp_path / "photo.webp")
    page.wait_for_function("document.querySelector('#status').textContent.includes('no picture')")
    assert page.evaluate("[...playground.drawnZ]") == seen


def test_real_beside_dream(page):
    """M follows the recording for a while: better than a still picture at first, worse in the end."""
    curves = page.evaluate("playground.beside.faithfulness(0).then((all) => Object.values(all).map((one) => [...one]))")
    dreamed, still, seen = curves
    assert dreamed[0] == seen[0] and dreamed[10] < still[10] and seen[50] < dreamed[50]
    page.locator("#beside").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#faithful-says').textContent.includes('grey levels')")
    assert re.search(r"for about 0\.[3-9] s", page.inner_text("#faithful-says"))
    page.locator("#let-go-at").fill("200")
    assert page.inner_text("#let-go-value") == "4.0 s"


def test_a_rescue_is_offered_off_the_road(page):
    """After two seconds in the grass; it leads back to the last moment on the road, with the agent at the wheel."""
    steps(page, 20)
    page.keyboard.down("ArrowLeft")
    page.keyboard.down("ArrowUp")
    for _ in range(60):
        page.evaluate("for (let i = 0; i < 5; i++) { playground.drive.step(); playground.show(); }")
        if page.is_visible("#rescue-offer"):
            break
    page.keyboard.up("ArrowLeft")
    page.keyboard.up("ArrowUp")
    time, on_road = page.evaluate("[playground.drive.time, playground.onRoad]")
    assert time - on_road >= 100 and page.is_visible("#rescue-offer")
    page.evaluate("time => { window.kept = playground.drive.kept.findLast((one) => one.time <= time); }", on_road - 25)
    page.keyboard.press("b")
    assert page.evaluate(Z) == page.evaluate("[...kept.saved.z]")
    assert not page.is_visible("#rescue-offer") and page.evaluate("playground.drive.driver") == "agent"


def test_a_phone(browser, address):
    """360 pixels wide: nothing sticks out; fingers on buttons and on the picture drive."""
    with opened(
        browser, f"{address}#seed=7&start=2", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    ) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("#screen").bounding_box()["y"] < 300
        touch = page.context.new_cdp_session(page)
        for selector, part, wish in (
            ('[data-side="left"]', 0.5, {"wheel": -1, "gas": 0, "brake": 0, "choice": -1}),
            ("#screen", 0.97, {"wheel": 1, "gas": 0, "brake": 0, "choice": -1}),
        ):
            page.locator(selector).scroll_into_view_if_needed()
            box = page.locator(selector).bounding_box()
            point = {"x": box["x"] + part * box["width"], "y": box["y"] + 0.5 * box["height"]}
            touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
            assert page.evaluate("playground.drive.wish") == wish
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
            assert page.evaluate("playground.drive.wish") is None


def test_a_gamepad(page):
    page.evaluate(
        """() => {
          const buttons = Array.from({length: 16}, (_, i) => ({value: i === 7 ? 1 : 0}));
          navigator.getGamepads = () => [{axes: [-0.62], buttons}];
          playground.input.poll();
        }"""
    )
    assert page.evaluate("playground.drive.wish") == {"wheel": -0.6, "gas": 1, "brake": 0, "choice": -1}
    page.evaluate("navigator.getGamepads = () => []; playground.input.poll()")
    assert page.evaluate("playground.drive.wish") is None


def test_one_file_from_a_disk(browser, shipped, tmp_path):
    """Nothing is asked of any server, and the dream is the same."""
    site.write_page(shipped, tmp_path / "one.html")
    with opened(browser, f"{(tmp_path / 'one.html').as_uri()}#seed=7&start=2&temperature=0.5") as page:
        asked = page.evaluate("performance.getEntriesByType('resource').map(({name}) => name.slice(0, 5))")
        assert set(asked) <= {"data:"}
        steps(page, 3)
        assert page.is_enabled("#mode-draw")


def test_a_toy_run(browser, tmp_path):
    """Three actions to choose from, a dreamed score and an end."""
    run = make_run(tmp_path / "toy", TOY, include_reward=True, include_terminal=True, steps=9)
    with serving(site.build(run)) as url, opened(browser, url) as page:
        assert page.inner_text("#name") == "toy" and page.locator("#keys button").count() == 3
        assert page.locator("[data-car]").count() == 0 and page.locator("#starts button").count() == 15
        page.keyboard.down("2")
        steps(page, 1)
        assert page.evaluate("[...playground.drive.action]") == [0, 1, 0]
        page.keyboard.up("2")
        assert page.is_visible("#score-agent")
        page.evaluate("playground.drive.dream.over = true; playground.show()")
        assert "ended after" in page.inner_text("#ended-text")
        page.click("#ended-again")
        assert page.evaluate("playground.drive.time") == 0 and not page.is_visible("#ended")


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:500_000] + b"\x00\x01" + b[500_002:], None])
def test_damaged_files_are_named(browser, shipped, damage):
    """Cut off, changed in the middle, or missing: one sentence on the page, no dream of noise."""
    files = dict(shipped)
    content = files.pop("model.safetensors")
    if damage:
        files["model.safetensors"] = damage(content)
    with serving(files) as url, browser.new_context() as window:
        page = window.new_page()
        page.goto(url)
        page.wait_for_selector("#trouble", state="visible")
        assert page.inner_text("#trouble").startswith("model.safetensors is " + ("damaged" if damage else "missing"))


def test_no_barriers(browser, address):
    """axe-core finds nothing (WCAG 2.2 AA and its best practices) in light and dark, driving and drawing."""
    axe = TOOLS / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: npm ci --prefix tests/playground")
    with opened(browser, f"{address}#seed=7&start=2") as page:
        page.add_script_tag(path=axe)
        page.locator("#beside").scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('#faithful-says').textContent.includes('grey levels')")
        page.evaluate("document.querySelector('#others').open = true; document.querySelector('#link').hidden = false")
        for mode in ("drive", "draw"):
            page.evaluate("mode => { playground.mode(mode === 'draw'); }", mode)
            page.evaluate("document.querySelector('#rescue-offer').hidden = false")
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                rules = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # nothing else changes in the dark
                found = page.evaluate("rules => axe.run(document, {...rules, resultTypes: ['violations']})", rules)
                named = [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]]
                assert named == [], f"{mode}, {scheme}"
