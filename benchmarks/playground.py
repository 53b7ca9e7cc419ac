"""The playground's figures in headless Chromium on one thread, torch on one thread beside them.

    python -m benchmarks.playground [--repeats 5]

Every repeat times the page, torch and the page's plain JavaScript in turn, so that other programs slow all alike;
printed are medians over all steps, and what the quickest tenth of them took. Needs Chromium and playwright.
"""

import argparse
import shutil
import threading
import time
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Browser, Page, sync_playwright

from conformance.arguments import count
from worldmodels import memory
from worldmodels.agent import Agent
from worldmodels.cli import as_a_command
from worldmodels.playground import server, site
from worldmodels.pretrained import folder

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
STEPS = 300  # in a repeat
LATE = ("encoder.safetensors", "drive.webp", "starts.webp")  # asked for after the first picture

TIMES = """steps => {
  const {drive, image, world, picture} = playground, times = [];
  for (let i = 0; i < steps; i++) {
    const before = performance.now();
    drive.step();
    world.decoder.paint(drive.dream.z, image.data);
    picture.putImageData(image, 0, 0);
    times.push(performance.now() - before);
  }
  return times;
}"""

DREAM = """async ({uniform, normal, temperature}) => {
  const {Dream} = await import("playground/dream.js"), {world} = playground;
  const dream = new Dream(world, world.starts[0]), out = [];
  for (let t = 0; t < uniform.length; t++) {
    const before = dream.save(), action = dream.act(), at = world.decoder.logits(dream.z);
    const picture = Array.from(world.kernel.heap.slice(at, at + 64 * 64 * 4), (x) => 255 / (1 + Math.exp(-x)));
    dream.step(action, temperature, {uniform: uniform[t], normal: normal[t]});
    const after = dream.save(), plain = (all) => ({z: [...all.z], h: [...all.h], c: [...all.c]});
    out.push({before: plain(before), after: plain(after), action: [...action], picture});
  }
  return out;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=count, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    files = site.build(folder("carracing"))
    agent = site.load(folder("carracing"))
    running = server.open_server(files, 8800)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = opened(chromium, running.url)
        plain = opened(chromium, f"{running.url}?plain")
        timed: dict[str, list[float]] = {"page": [], "torch": [], "plain JavaScript": []}
        for _ in range(repeats):
            timed["page"] += page.evaluate(TIMES, STEPS)
            timed["torch"] += torch_times(agent)
            timed["plain JavaScript"] += plain.evaluate(TIMES, STEPS // 10)
        first = sum(len(content) for name, content in files.items() if name not in LATE)
        print(f"{'whole step (C + M + sampling + decode), ms':44} {'median':>9} {'quickest':>9} {'× torch':>9}")
        for name, times in timed.items():
            median, quick = np.median(times), np.quantile(times, 0.1)
            print(f"  {name:42} {median:9.2f} {quick:9.2f} {median / np.median(timed['torch']):9.2f}")
        print(f"{'bytes to the first picture':44} {first:9,}   all {sum(map(len, files.values())):,}")
        loads = sorted(load_seconds(chromium, running.url) for _ in range(repeats))
        print(f"{'load to first picture, s':44} {loads[len(loads) // 2]:9.2f}   quickest {loads[0]:.2f}")
        page.evaluate("playground.pause(true)")
        plain.close()
        for factor in (1, 4):
            rate, pictures = pace(page, factor)
            print(f"{f'processor slowed {factor} ×':44} {rate:9.1f} steps/s   {pictures:.0f} pictures/s")
        for temperature in (0, 1):
            print(f"{f'page against torch at temperature {temperature}':44} {against_torch(page, agent, temperature)}")
        chromium.close()
    running.shutdown()


def opened(chromium: Browser, url: str, **context: Any) -> Page:
    """A page whose dream stands still."""
    page = chromium.new_context(reduced_motion="reduce", **context).new_page()
    page.goto(f"{url}#seed=7&start=2&temperature=0.5")
    page.wait_for_selector("html[data-ready]")
    return page


def torch_times(agent: Agent) -> list[float]:
    """ms of the same step in torch, one dream by itself."""
    z, state = torch.zeros(1, agent.memory.z_size), agent.memory.initial_state(1)
    draw, times = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for _ in range(STEPS):
            before = time.perf_counter()
            seen = agent.controller.see(z, state)
            raw = agent.controller.act(agent.population, seen)
            action = torch.from_numpy(agent.actions.squash(raw.numpy()))
            state = agent.memory.step(z, action, state)
            uniform, normal = torch.rand(z.shape, generator=draw), torch.randn(z.shape, generator=draw)
            z = memory.sample(agent.memory.predict(state[0]), 0.5, uniform, normal)
            agent.encoder.vae.decode(z)
            times.append(1000 * (time.perf_counter() - before))
    return times


def load_seconds(chromium: Browser, url: str) -> float:
    """Navigation to first picture, nothing cached."""
    page = chromium.new_context().new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    seconds = page.evaluate("performance.getEntriesByName('first picture')[0].startTime") / 1000
    page.context.close()
    return float(seconds)


def pace(page: Page, factor: int, seconds: float = 4) -> tuple[float, float]:
    """(steps, pictures) a second of the running page on a processor slowed `factor` times."""
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": factor})
    page.evaluate("playground.pause(false)")
    count = "[playground.drive.time, playground.shown, performance.now()]"
    first = page.evaluate(count)
    page.wait_for_timeout(1000 * seconds)
    last = page.evaluate(count)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    page.evaluate("playground.pause(true)")
    passed = (last[2] - first[2]) / 1000
    return (last[0] - first[0]) / passed, (last[1] - first[1]) / passed


def against_torch(page: Page, agent: Agent, temperature: float, steps: int = 30) -> str:
    """The largest differences over some steps from torch in float64, each from the page's own state before it."""
    rng, mdrnn = np.random.default_rng(0), agent.memory
    uniform = rng.uniform(size=(steps, mdrnn.logit_rows))
    normal = rng.standard_normal((steps, mdrnn.z_size))
    handed = {"uniform": uniform.tolist(), "normal": normal.tolist(), "temperature": temperature}
    dreamed = page.evaluate(DREAM, handed)
    vae, mdrnn, population = agent.encoder.vae.double(), mdrnn.double(), agent.population.double()
    worst = dict.fromkeys(("image", "action", "h", "z"), 0.0)
    with torch.no_grad():
        for t, step in enumerate(dreamed):
            z, h, c = (torch.tensor([step["before"][name]], dtype=torch.float64) for name in "zhc")
            picture = 255 * vae.reconstruct(z)[0].permute(1, 2, 0).numpy()
            image = np.abs(np.reshape(step["picture"], (64, 64, 4))[..., :3] - picture).mean()
            raw = agent.controller.act(population, agent.controller.see(z, (h, c)))
            action = agent.actions.squash(raw.numpy())
            state = mdrnn.step(z, torch.tensor([step["action"]], dtype=torch.float64), (h, c))
            logits, mean, log_sigma = (part[0].numpy() for part in mdrnn.predict(state[0])[:3])
            shares = np.exp((logits - logits.max(-1, keepdims=True)) / max(temperature, 1e-6))
            ends = np.cumsum(shares / shares.sum(-1, keepdims=True), axis=-1)[:, :-1]
            chosen = (uniform[t][:, None] >= ends).sum(-1) if temperature else logits.argmax(-1)
            chosen = chosen[:, None]
            z = np.take_along_axis(mean, chosen, 1)[:, 0]
            z = z + temperature**0.5 * np.exp(np.take_along_axis(log_sigma, chosen, 1)[:, 0]) * normal[t]
            for name, difference in (
                ("image", image), ("action", np.abs(np.array(step["action"]) - action).max()),
                ("h", np.abs(np.array(step["after"]["h"]) - state[0][0].numpy()).max()),
                ("z", np.abs(np.array(step["after"]["z"]) - z).max()),
            ):  # fmt: skip
                worst[name] = max(worst[name], float(difference))
    vae.float(), mdrnn.float()
    return f"image {worst['image']:.3f} grey levels, " + ", ".join(f"{n} {worst[n]:.1e}" for n in ("h", "z", "action"))


if __name__ == "__main__":
    with as_a_command():
        main()
