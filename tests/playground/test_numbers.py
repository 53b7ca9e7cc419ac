"""What the page computes against torch, and its two kernels against each other."""

import numpy as np
import pytest
import torch

from tests.helpers.toy import TOY
from tests.playground.conftest import make_run, opened, serving
from worldmodels import memory
from worldmodels.playground import site, starts
from worldmodels.pretrained import folder

# Some steps of a dream: what C does, what M makes of it, what V paints. Noise is handed in.
DREAM = """async ({noise, temperature, steps}) => {
  const {Dream} = await import("playground/dream.js"), {world} = playground;
  const dream = new Dream(world, world.starts[0]), out = [];
  for (let t = 0; t < steps; t++) {
    const before = dream.save(), action = dream.act(), {score} = dream;
    const at = world.decoder.logits(dream.z);
    const picture = Array.from(world.kernel.heap.slice(at, at + 64 * 64 * 4), (x) => 255 / (1 + Math.exp(-x)));
    const painted = new Uint8ClampedArray(64 * 64 * 4);
    world.decoder.paint(dream.z, painted);
    const off = (value, i) => i % 4 < 3 && Math.abs(value - picture[i]) > 0.55;
    if (painted.some(off)) throw new Error("Painted something else than the logits say");
    dream.step(action, temperature, noise[t]);
    const {z, h, c} = dream.save();
    out.push({
      before: {z: [...before.z], h: [...before.h], c: [...before.c]}, action: [...action], picture,
      after: {z: [...z], h: [...h], c: [...c]}, gained: dream.score - score, over: dream.over,
    });
  }
  return out;
}"""


def assert_dreams_agree(page, agent: site.Agent, temperature: float, steps: int = 4) -> None:
    """Every step of a dream in the page equals torch's step from the same state, in float64."""
    rng = np.random.default_rng(3)
    noise = []
    for _ in range(steps):
        noise.append(
            {"uniform": rng.uniform(size=agent.memory.logit_rows), "normal": rng.standard_normal(agent.memory.z_size)}
        )
    handed = [{name: values.ravel().tolist() for name, values in step.items()} for step in noise]
    dreamed = page.evaluate(DREAM, {"noise": handed, "temperature": temperature, "steps": steps})
    vae, mdrnn = agent.encoder.vae.double(), agent.memory.double()
    agent.population = agent.population.double()
    for step, drawn in zip(dreamed, noise, strict=True):
        z, h, c = (torch.tensor([step["before"][name]], dtype=torch.float64) for name in "zhc")
        with torch.no_grad():
            picture = vae.reconstruct(z)[0].permute(1, 2, 0).numpy() * 255
            seen = agent.controller.see(z, (h, c))
            raw = agent.controller.act(agent.population, seen)
            action = torch.from_numpy(agent.actions.squash(raw.numpy()))
            h, c = mdrnn.step(z, torch.tensor([step["action"]], dtype=torch.float64), (h, c))
            prediction = mdrnn.predict(h)
            logits, mean, log_sigma = (part[0].numpy() for part in prediction[:3])
        np.testing.assert_allclose(np.reshape(step["picture"], (64, 64, 4))[..., :3], picture, atol=0.3)
        assert np.abs(np.reshape(step["picture"], (64, 64, 4))[..., :3] - picture).mean() < 0.07
        np.testing.assert_allclose(step["action"], action[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(step["after"]["h"], h[0], atol=1e-6)
        np.testing.assert_allclose(step["after"]["c"], c[0], atol=2e-6)
        np.testing.assert_allclose(step["after"]["z"], drawn_z(logits, mean, log_sigma, drawn, temperature), atol=2e-6)
        if temperature == 0:
            np.testing.assert_allclose(step["after"]["z"], memory.sample(prediction, 0)[0], atol=2e-6)
        if prediction.reward is not None:
            assert step["gained"] == pytest.approx(float(prediction.reward[0]), abs=1e-6)
        if prediction.terminal is not None:
            assert step["over"] == bool(prediction.terminal[0] > 0)


def drawn_z(logits, mean, log_sigma, noise, temperature):
    """The paper's sampling with this noise: the uniform number falls into one Gaussian's share of [0, 1)."""
    chosen = logits.argmax(-1)
    if temperature:
        shares = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
        ends = np.cumsum(shares / shares.sum(-1, keepdims=True), axis=-1)
        chosen = np.array(
            [np.searchsorted(row[:-1], u, side="right") for row, u in zip(ends, noise["uniform"], strict=True)]
        )
    chosen = np.broadcast_to(chosen[:, None], (len(mean), 1))
    z = np.take_along_axis(mean, chosen, 1)[:, 0]
    return z + np.sqrt(temperature) * np.exp(np.take_along_axis(log_sigma, chosen, 1)[:, 0]) * noise["normal"]


@pytest.mark.parametrize("temperature", [0, 1])
def test_shipped_dream(page, temperature):
    assert_dreams_agree(page, site.load(folder("carracing")), temperature)


def test_shipped_encoder(page):
    """A frame of the recorded drive through V: its mean."""
    agent = site.load(folder("carracing"))
    frames = starts.recordings(folder("carracing"), agent.env_id, 3).drive.frames[:3]
    pixels = np.concatenate([frames, np.full((3, 64, 64, 1), 255, np.uint8)], axis=3)
    z = page.evaluate(
        "frames => frames.map((pixels) => [...playground.encoder.encode(Uint8ClampedArray.from(pixels))])",
        pixels.reshape(3, -1).tolist(),
    )
    np.testing.assert_allclose(z, agent.encoder.vae.encode(frames)[0].numpy(), atol=2e-5)


SIZES = {
    "toy": (TOY, {"include_reward": True, "include_terminal": True}),
    "zch": ("worldmodels/CarRacing-v3", {"inputs": "zch", "c_hidden": 7, "z": 5, "hidden": 9}),
    "shared": (TOY, {"mixture": "shared", "gaussians": 3, "inputs": "z", "include_terminal": True}),
    "large": ("worldmodels/CarRacing-v3", {"z": 64, "hidden": 512, "inputs": "zch"}),
}


@pytest.mark.parametrize("name", SIZES)
def test_any_size(browser, tmp_path, name):
    """Sizes, heads, mixture, actions and what C sees are read off the run."""
    env, options = SIZES[name]
    run = make_run(tmp_path, env, **options)
    with serving(site.build(run)) as url, opened(browser, url) as page:
        tolerant = rounded(site.load(run))
        assert_dreams_agree(page, tolerant, 1, steps=2)
        assert page.is_visible("#scores") == ("include_terminal" in options)


def rounded(agent: site.Agent) -> site.Agent:
    """The agent with weights in 16 bits, as the page has them: M's two biases are one; V is folded before that."""
    state = agent.memory.state_dict()
    state["lstm.bias_ih_l0"] += state["lstm.bias_hh_l0"]
    state["lstm.bias_hh_l0"].zero_()
    agent.memory.half().float()
    agent.population = agent.population.half().float()
    return agent


def test_kernels_agree_to_the_last_bit(browser, address, page):
    """Plain JavaScript, where a browser has no WebAssembly, repeats the dream exactly."""
    dream = """() => {
      for (let i = 0; i < 20; i++) playground.drive.step();
      const {z, state: {h, c}} = playground.drive.dream, at = playground.world.decoder.logits(z);
      return [...z, ...h, ...c, ...playground.world.kernel.heap.slice(at, at + 64 * 64 * 4)];
    }"""
    compiled = page.evaluate(dream)
    without = "delete globalThis.WebAssembly"
    with opened(browser, f"{address}#seed=7&start=2&temperature=0.5", without) as plain:
        assert plain.inner_text("#arithmetic") == "JavaScript"
        assert plain.evaluate(dream) == compiled


def test_exponential_and_logarithm(page):
    """Within two units of the last place of what this browser has."""
    worst = page.evaluate(
        """async () => {
          const {exp, log} = await import("playground/numbers.js");
          let worst = 0;
          for (let x = -700; x < 700; x += 0.37) worst = Math.max(worst, Math.abs(exp(x) / Math.exp(x) - 1));
          for (let x = 1e-9; x < 1e9; x *= 1.37) {
            worst = Math.max(worst, Math.abs(log(x) - Math.log(x)) / Math.max(1, Math.abs(Math.log(x))));
          }
          return worst;
        }"""
    )
    assert worst < 5e-16


def test_noise_is_normal_and_uniform(page):
    """Moments of the noise, and none of it from the step before."""
    normal, uniform = page.evaluate(
        """async () => {
          const {Noise} = await import("playground/numbers.js"), noise = new Noise(32, 32), all = [[], []];
          for (let t = 0; t < 200; t++) {
            const {normal, uniform} = noise.draw(5, t);
            all[0].push([...normal]);
            all[1].push([...uniform]);
          }
          return all;
        }"""
    )
    normal, uniform = np.array(normal), np.array(uniform)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03 and abs((normal**4).mean() - 3) < 0.3
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(normal[:-1].ravel(), normal[1:].ravel())[0, 1]) < 0.03
