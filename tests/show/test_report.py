"""The report: one page that parses, loads nothing, and shows what the run's files say."""

import base64
import io
import json
import math
import re
import shlex
import shutil
import xml.etree.ElementTree as xml
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.runs import save_agent
from tests.helpers.toy import TOY
from worldmodels.commands import evaluate, report
from worldmodels.errors import UserError
from worldmodels.runs.settings import TAKECOVER, Evaluate, Report
from worldmodels.show import charts
from worldmodels.show import report as pages
from worldmodels.show.charts import Band, Line
from worldmodels.show.pictures import write_grid

VOID = {"meta", "img", "br", "hr", "link", "input"}
EPOCHS, GENERATIONS = 3, 25


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a page is made of."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


def read(logdir: Path) -> Page:
    report.main(Report(str(logdir)))
    text = (logdir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""https?:|["'(]//|url\((?!#)|@import|<script""", text), "the page would load something"
    page = Page(text)
    for _, attributes in page.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#", "playground.html")), "of another file"
    return page


def test_take_cover_is_read_beside_policies_without_eyes(tmp_path: Path) -> None:
    seeds = [1_000_000, 1_000_001]
    found = {
        "env": TAKECOVER, "command": "worldmodels evaluate", "episodes": 2, "mean": 900.0, "std": 10.0,
        "stderr": 7.0, "min": 893.0, "max": 907.0, "seeds": seeds, "scores": [893.0, 907.0], "lengths": [893, 907],
        "versions": {}, "max_steps": None,
    }  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    (tmp_path / "mdrnn").mkdir()
    (tmp_path / "mdrnn" / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "test_nll": 1.0}) + "\n")
    policies = {"stay": [149, 203.4], "sweep-110": [751, 1302.6], "odd": ["<b>", 1]}
    quality = {"ranking": {"policies": policies, "rank": 0.5, "slope": 1.0}}
    (tmp_path / "mdrnn" / "quality.json").write_text(json.dumps(quality))
    text = read(tmp_path).text
    assert "to and fro, eyes closed" in text and "CarRacing" not in text
    assert "rank correlation 0.50, slope 1.00: not the world's order" in text
    assert "sweep-110" in text and "1303" in text and "odd" not in text


def test_a_c_that_learned_in_rounds_did_not_evolve(tmp_path: Path) -> None:
    rows = [
        {"generation": g, "env_steps": 4000 * g, "dream_steps": 64_000 * g, "best": 20.0, "mean": 8.0 * g, "std": 5.0,
         "worst": -9.0, "selected": 9.0 * g if g == 4 else None, "dreamed": 10.0 + g, "real": 9.0 + g,
         "promised": 90.0 + g, "paid": 80.0 + g, "resting": 0, "seconds": 8.0 * g}
        for g in range(1, 5)
    ]  # fmt: skip
    (tmp_path / "ctrl").mkdir()
    (tmp_path / "ctrl" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = read(tmp_path).text
    for said in ("4 rounds", "36 best on the selection episodes", "16,000 environment steps",
                 "256,000 steps in the dream", "the average of C over the last", "Reward of a dream"):  # fmt: skip
        assert said in text, said
    assert "Evolution" not in text and "search distribution" not in text and "generation" not in text


def fill(logdir: Path) -> None:
    """Metrics and pictures as the training commands leave them."""
    epochs, generations = range(1, EPOCHS + 1), range(1, GENERATIONS + 1)
    vae = [
        {"epoch": e, "train_loss": 90 / e, "test_loss": 80 / e, "test_reconstruction": 60 / e, "test_kl": 17,
         "learning_rate": 1e-3, "frames_per_second": 350, "seconds": 60.0 * e}
        for e in epochs
    ]  # fmt: skip
    mdrnn = [
        {"epoch": e, "train_loss": 1.4, "train_nll": 1.5 / e, "test_loss": 1.3, "test_nll": 1.25 / e,
         "transitions_per_second": 30_000, "seconds": 9.0 * e}
        for e in epochs
    ]  # fmt: skip
    ctrl = [
        {"generation": g, "env_steps": 1000 * g, "best": 10.0 * g, "mean": 8.0 * g, "std": 5.0, "worst": -9.0,
         "sigma": 0.1, "selected": 9.0 * g if g % 10 == 0 else None, "steps_per_second": 2000, "seconds": 3.0 * g}
        for g in generations
    ]  # fmt: skip
    for stage, rows in (("vae", vae), ("mdrnn", mdrnn), ("ctrl", ctrl)):
        (logdir / stage).mkdir(parents=True, exist_ok=True)
        (logdir / stage / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for epoch in (2, 10):
        row = np.full((10, 64, 64, 3), 20 * epoch, np.uint8)
        write_grid(logdir / "vae" / "samples" / f"reconstruction_{epoch:04d}.png", [row, row])
        write_grid(logdir / "vae" / "samples" / f"samples_{epoch:04d}.png", [row])
        write_grid(logdir / "mdrnn" / "samples" / f"dream_{epoch:04d}.png", [row, row, row])
    (logdir / "config.json").write_text(json.dumps({"preset": "laptop", "vae": {"epochs": EPOCHS, "note": "<b>&"}}))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logdir = save_agent(tmp_path_factory.mktemp("full"), actions=3)
    fill(logdir)
    evaluate.main(Evaluate(logdir=str(logdir), env=TOY, episodes=4, video=True, max_workers=1))
    return logdir


# ------------------------------------------------------------------------------------------------- the page


def test_a_full_run_shows_every_stage(full: Path) -> None:
    page = read(full)
    result = json.loads((full / "evaluation.json").read_text())
    assert f"{result['mean']:.0f} ± {result['std']:.0f}" in page.text
    assert "Mean score and standard deviation over 4 held-out episodes" in page.text
    for seed, score in zip(result["seeds"], result["scores"], strict=True):
        assert f"{seed}{score:.1f}" in page.text
    for words in ("sees", "remembers and predicts", "decides", "The evaluation", result["command"], "<b>&", "laptop",
                  "25 generations", "180 best on the selection episodes", "25,000 environment steps"):  # fmt: skip
        assert words in page.text, words
    assert "worldmodels train" not in page.text, "nothing is missing"
    titles = [attributes["class"] for attributes in page.all("svg")]
    assert titles.count("chart") == 6 and {"wide", "tall"} <= set(titles)
    assert (full / "report.html").stat().st_size < 8_000_000


def test_a_run_with_a_driver_has_a_playground_beside_the_report(full: Path, tmp_path: Path) -> None:
    logdir = shutil.copytree(full, tmp_path / "run")
    assert [a["href"] for a in read(logdir).all("a")] == ["playground.html"]
    assert b"Drive inside the dream" in (logdir / "playground.html").read_bytes()
    (logdir / "mdrnn" / "best.safetensors").unlink()
    page = read(logdir)
    assert not page.all("a") and f"worldmodels play --logdir {logdir}" in page.text


def test_the_video_and_the_latest_pictures_are_inside(full: Path) -> None:
    page = read(full)
    (video,) = page.all("video")
    assert base64.b64decode((video["src"] or "").partition(",")[2]) == (full / "evaluation.mp4").read_bytes()
    images = [attributes["src"] or "" for attributes in page.all("img")]
    assert len(images) == 3
    for source in images:
        (full / "one.png").write_bytes(base64.b64decode(source.partition(",")[2]))
        with Image.open(full / "one.png") as image:
            assert image.getpixel((32, 32))[:3] == (200, 200, 200), "epoch 10, not epoch 2"  # type: ignore[index]


def test_missing_stages_name_the_commands_that_make_them(tmp_path: Path) -> None:
    logdir = tmp_path / "new <run> & more"
    logdir.mkdir()
    page = read(logdir)
    for command in ("evaluate", "evaluate", "train-vae", "train-mdrnn", "train-controller"):
        assert f"worldmodels {command} --logdir {shlex.quote(str(logdir))}" in page.text
    assert not page.all("img") and not page.all("video")
    assert [attributes["class"] for attributes in page.all("svg")] == ["flow", "wide", "tall"]


@pytest.mark.parametrize("stage", ["vae", "mdrnn", "ctrl"])
def test_one_stage_alone(full: Path, tmp_path: Path, stage: str) -> None:
    (tmp_path / stage).mkdir()
    lines = (full / stage / "metrics.jsonl").read_text().splitlines()
    (tmp_path / stage / "metrics.jsonl").write_text(lines[0] + '\n{"epoch": 2, "cut sho')  # one row, one cut short
    page = read(tmp_path)
    commands = {"vae": "train-vae", "mdrnn": "train-mdrnn", "ctrl": "train-controller"}
    for name, command in commands.items():
        assert (f"worldmodels {command}" in page.text) == (name != stage)


def test_a_single_cut_episode_claims_nothing(tmp_path: Path) -> None:
    logdir = save_agent(tmp_path, actions=3)
    evaluate.main(Evaluate(logdir=str(logdir), env="CarRacing-v3", episodes=1, max_steps=5, seed=3, max_workers=1))
    text = read(logdir).text
    assert "Score of a single track" in text and "cut after 5 steps" in text
    assert "held-out" not in text and "±" not in text


def test_other_peoples_scores_stand_beside_a_carracing_score(full: Path, tmp_path: Path) -> None:
    result = json.loads((full / "evaluation.json").read_text())
    result |= {"env": "CarRacing-v3", "mean": 880.0, "std": 60.0, "video": None}
    (tmp_path / "evaluation.json").write_text(json.dumps(result))
    text = read(tmp_path).text
    assert "this run880 ± 60" in text and "the paper, z and h906 ± 21" in text


def test_a_missing_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="worldmodels run --logdir"):
        report.main(Report(str(tmp_path / "nowhere")))


# ------------------------------------------------------------------------------------------------- its parts


def coordinates(svg: str, tag: str) -> list[list[tuple[float, float]]]:
    found = re.findall(rf'<{tag} [^>]*points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())] for points in found]


def test_curves_are_drawn_where_the_axes_say() -> None:
    points = [(x, math.sin(x / 3) * 40 + 100) for x in range(1, 31)]
    svg = charts.line_chart("t", "epoch", [Line("a", points, "v")], Band([(x, y - 5, y + 5) for x, y in points], "v"))
    ticks = re.findall(r'<text class="tick" x="[\d.]+" y="([\d.]+)" text-anchor="end">([^<]*)<', svg)
    y_pixels, y_values = np.array([(float(y) - 4, float(value)) for y, value in ticks]).T
    slope, offset = np.polyfit(y_pixels, y_values, 1)
    ((*drawn,),) = coordinates(svg, "polyline")
    np.testing.assert_allclose([slope * y + offset for _, y in drawn], [y for _, y in points], atol=0.05)
    (band,) = coordinates(svg, "polygon")
    assert slope * band[0][1] + offset == pytest.approx(points[0][1] + 5, abs=0.05)
    assert slope * band[-1][1] + offset == pytest.approx(points[0][1] - 5, abs=0.05)
    assert all(0 <= x <= charts.WIDTH and 0 <= y <= charts.HEIGHT for x, y in [*drawn, *band])


def test_charts_take_what_metrics_hold() -> None:
    assert charts.line_chart("t", "epoch", [Line("a", [], "v"), Line("b", [(1, math.nan)], "v")]) == ""
    Page(charts.line_chart("t", "epoch", [Line("a", [(1, 0.5)], "v")]))
    many = [(float(i), float(i % 7)) for i in range(5000)]
    (drawn,) = coordinates(charts.line_chart("t", "g", [Line("a", many, "c")]), "polyline")
    assert 200 < len(drawn) <= charts.MOST_POINTS + 1
    Page(charts.bar_chart("t", "tracks", [("a", -30.0), ("b", 900.0)], [("mean", 435.0)], "c"))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-37.5, 941.2), (0.9573, 1.36), (1, 3), (1e-4, 2e-4), (0, 1e6), (-60, 990)]
)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = charts.nice_ticks(low, high)
    assert 4 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)
    step = ticks[1] - ticks[0]
    assert float(f"{step:.1e}"[0]) in (1, 2, 5) and np.allclose(np.diff(ticks), step)


def test_the_pipeline_is_a_drawing_that_stays_inside_its_frames(full: Path, tmp_path: Path) -> None:
    picture = xml.parse(Path(pages.__file__).with_name("pipeline.svg")).getroot()
    for drawing in picture.findall("{*}svg"):
        _, _, width, height = (float(side) for side in drawing.attrib["viewBox"].split())
        for shape in drawing.iter():
            if "x" in shape.attrib:
                assert 0 <= float(shape.attrib["x"]) <= width and 0 <= float(shape.attrib["y"]) <= height
    text = read(full).text
    assert text.count("4 numbers") == 2 and text.count("8 numbers") == 2, "the run's z and h, lying and standing"
    assert text.count("3 numbers") == 2 and "steer" not in text, "the actions of the toy are no car's"
    assert read(tmp_path).text.count("steer, gas, brake") == 2


# ------------------------------------------------------------------------------------------- what a run holds


def test_the_data_and_the_time_are_shown_at_a_glance(full: Path, tmp_path: Path) -> None:
    for folder, lengths in ((tmp_path / "rollouts", (120, 80)), (tmp_path / "previous" / "rollouts", (50,))):
        folder.mkdir(parents=True)
        for number, _ in enumerate(lengths):
            (folder / f"rollout_{number:06d}.npz").write_bytes(bytes(1_000_000))
        rows = [{"rollout": n, "seed": n, "score": 1.0, "length": length} for n, length in enumerate(lengths, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place in (tmp_path, tmp_path / "previous"):
        (place / "vae").mkdir()
        (place / "vae" / "metrics.jsonl").write_bytes((full / "vae" / "metrics.jsonl").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"train-vae": {"rootdir": str(tmp_path)}}))
    text = read(tmp_path).text
    assert "3 episodes of data" in text and "250 steps" in text and "3 MB" in text
    assert "6 min of training by the clock: V 6 min" in text, "180 s in each of two iterations"
    (tmp_path / "config.json").unlink()
    assert "2 episodes of data" in read(tmp_path).text, "without a record of where the data lie: those of the run"


def test_settings_are_those_that_were_used(full: Path, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "metrics.jsonl").write_bytes((full / "vae" / "metrics.jsonl").read_bytes())
    vae = {"epochs": 3, "free_bits": 0.5, "nosamples": False, "seed": 0, "note": None, "hidden": 0}
    run = {"preset": None, "seed": 0, "iterations": 1, "early_generations": 25, "vae": vae, "mdrnn": {"epochs": 7},
           "again": {"rollouts": 1000}}  # fmt: skip
    config = {"run": run, "train-vae": {**vae, "preset": None}, "versions": {"torch": "2.6"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    used = pages.used(pages.Found(tmp_path))
    assert used == {"run": {"seed": 0}, "vae": {"epochs": 3, "free_bits": 0.5}, "versions": {"torch": "2.6"}}
    assert "None" not in read(tmp_path).text


def test_numbers_beyond_all_showing_are_left_out(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    (run / "vae/metrics.jsonl").write_text(
        '{"epoch": NaN, "train_loss": 1}\n{"epoch": 1, "train_loss": 1e308, "test_loss": -1e308, "seconds": NaN}\n'
        '{"epoch": 2, "train_loss": Infinity, "test_loss": 3}\n{"epoch": 1e400, "test_loss": 5}\n'
    )
    text = read(run).text
    assert "Infinity" not in text and "nan" not in text.lower().replace("finance", "")
    found = json.loads((run / "evaluation.json").read_text())
    for change in ({"mean": math.nan}, {"std": math.inf}, {"stderr": None}, {"scores": [1e308, -1e308, 0, 1]}):
        (run / "evaluation.json").write_text(json.dumps(found | change))
        assert "no score yet" in read(run).text, change
    (run / "evaluation.json").write_text(json.dumps(found | {"video": {"file": found["video"]["file"]}}))
    assert "no score yet" not in read(run).text


def test_another_game_s_three_numbers_are_no_pedals(full: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(full, tmp_path / "run"))
    (run / "evaluation.json").unlink()
    assert "steer, gas, brake" in read(run).text, "the paper's, where nobody says"
    for command, env in (("run", TOY), ("train-controller", TOY), ("run", "worldmodels/CarRacing-v3")):
        (run / "config.json").write_text(json.dumps({command: {"env": env}}))
        assert ("steer, gas, brake" in read(run).text) == (env != TOY)


def test_a_score_of_an_earlier_driver_is_called_so(full: Path, tmp_path: Path) -> None:
    assert "earlier driver" not in read(full).text
    run = Path(shutil.copytree(full, tmp_path / "run"))
    save_agent(run, actions=3, seed=2)
    assert "An earlier driver of this run drove; worldmodels evaluate" in read(run).text


@pytest.mark.parametrize("content", [b"[]", b"7", b"null", bytes(range(256)), b'{"mean": 1}', b'{"run": 3, "vae": []}'])
def test_damaged_files_are_left_out(full: Path, tmp_path: Path, content: bytes) -> None:
    for name in ("config.json", "evaluation.json", "vae/metrics.jsonl", "mdrnn/metrics.jsonl", "ctrl/metrics.jsonl",
                 "rollouts/metrics.jsonl", "vae/samples/samples_0001.png", "mdrnn/samples/dream_0001.png",
                 "rollouts/rollout_000000.npz", "mdrnn/best.safetensors"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert "no score yet" in read(tmp_path).text
    for stage, axis in (("vae", "epoch"), ("mdrnn", "epoch"), ("ctrl", "generation")):  # rows without most columns
        (tmp_path / stage / "metrics.jsonl").write_text(f'{{"{axis}": 1}}\n[]\n{{"{axis}": 2, "mean": 3, "std": NaN}}')
    with (tmp_path / "ctrl" / "metrics.jsonl").open("a") as rows:
        rows.write('\n{"generation": 3, "dream_steps": null}')
    (tmp_path / "config.json").write_text('{"run": {"iterations": "2"}}')
    assert "1 episode of data" in read(tmp_path).text


def test_the_page_is_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text file opened without an encoding is read and written as the locale says: none may be."""
    real = io.open

    def strict(file, mode="r", buffering=-1, encoding=None, *more, **options):  # type: ignore[no-untyped-def]
        assert "b" in mode or str(encoding).lower() in ("utf-8", "utf8"), f"{file} is opened with encoding {encoding}"
        return real(file, mode, buffering, encoding, *more, **options)

    (tmp_path / "config.json").write_text('{"vae": {"note": "Zürich"}}', encoding="utf-8")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "metrics.jsonl").write_text('{"epoch": 1}\n', encoding="utf-8")
    monkeypatch.setattr(io, "open", strict)
    report.main(Report(str(tmp_path)))
    monkeypatch.undo()
    assert "Zürich" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_films_say_that_they_scroll(full: Path) -> None:
    strips = [attributes for attributes in read(full).all("div") if attributes.get("class") == "strip"]
    assert len(strips) == 3 and all(strip["tabindex"] == "0" and strip["aria-label"] for strip in strips)
    assert read(full).text.count("scroll for more →") == 3
