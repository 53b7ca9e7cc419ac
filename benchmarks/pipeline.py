"""V, M, acting and evolution beside ctallec's port's way of doing the same work, in one run on this machine.

    python -m benchmarks.pipeline [--seconds 3]

The baseline column is written here as ctallec's port works: plain memory layout and batches of 32 for V, one
frame at a time for encoding and acting (decoder and mixture head included), V run again on both frames of every
transition for M; for evolution also one of Gymnasium's environments. The floor is the work's arithmetic over this
machine's own float32 matrix rate (what computes in bfloat16, where the processor has it, can be faster). The frames are
CarRacing's.
"""

import argparse
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch

from conformance.arguments import above_zero
from worldmodels import envs, memory, pretrained
from worldmodels.agent import Agent, Eyes
from worldmodels.cli import as_a_command
from worldmodels.controller import Controller
from worldmodels.data.latents import ENCODE_BATCH
from worldmodels.envs import World
from worldmodels.evolution.fitness import fitness
from worldmodels.rollout import Episode
from worldmodels.runs.directory import RunDir
from worldmodels.vision import VAE, to_images, vae_loss
from worldmodels.workers.driver import Course, Drivers, best_of
from worldmodels.workers.places import choose_bfloat16, choose_places
from worldmodels.workers.pool import open_pool

ENCODER_FLOPS = 2 * (31**2 * 48 * 32 + 14**2 * 512 * 64 + 6**2 * 1024 * 128 + 2**2 * 2048 * 256 + 2 * 1024 * 32)
DECODER_FLOPS = 2 * (32 * 1024 + 25 * 1024 * 128 + 25 * 25 * 128 * 64 + 36 * 13**2 * 64 * 32 + 36 * 30**2 * 32 * 3)
M_FLOPS = 2 * (35 + 256) * 1024  # the LSTM cell; the head adds:
HEAD_FLOPS = 2 * 256 * 480
CPU = torch.device("cpu")


def real_frames(count: int) -> np.ndarray:
    """uint8 (count, 64, 64, 3): the first frames of Gymnasium's CarRacing-v3 at full throttle."""
    env = gymnasium.make("CarRacing-v3")
    env.reset(seed=0)
    images = [env.step(np.array([0.05 * np.sin(i / 9), 0.6, 0], np.float32))[0] for i in range(count)]
    env.close()
    return envs.as_frames(np.stack(images))


def rate(work: Callable[[], int], seconds: float) -> float:
    """Items per second of `work`, which returns the number of items it did."""
    work()
    items, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        items += work()
    return items / (time.perf_counter() - started)


def matrix_rate(seconds: float) -> float:
    """Floating-point operations per second of a 2048³ float32 product."""
    a = torch.randn(2048, 2048)
    return rate(lambda: (a @ a, 2 * 2048**3)[1], seconds)


class PortVAE(VAE):
    """The port's: plain layout, and a transposed convolution on the decoder's first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def first_deconvolution(self, x: torch.Tensor) -> torch.Tensor:
        return self.deconv1(x[:, :, None, None])


def train_v(vae: VAE, frames: np.ndarray) -> Callable[[], int]:
    port = isinstance(vae, PortVAE)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-3, fused=not port)

    def work() -> int:
        images = to_images(frames, CPU)
        if port:
            images = images.contiguous()
        reconstruction, mean, logvar = vae(images, torch.randn(len(frames), 32))
        loss, _ = vae_loss(images, reconstruction, mean, logvar, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return len(frames)

    return work


def train_v_our_way(frames: np.ndarray) -> Callable[[], int]:
    vae = VAE()
    vae.use_bfloat16 = choose_bfloat16("auto", CPU)
    return train_v(vae, frames)


def encode(vae: VAE, frames: np.ndarray, batch: int) -> Callable[[], int]:
    vae.requires_grad_(False)
    return lambda: len(vae.encode(frames[:batch])[0])


def train_m_our_way(batch: int = 32, length: int = 100) -> Callable[[], int]:
    mdrnn = memory.MDRNN()
    mdrnn.use_bfloat16 = choose_bfloat16("auto", CPU)
    return train_m(mdrnn, batch, length)


def train_m(mdrnn: memory.MDRNN, batch: int, length: int) -> Callable[[], int]:
    """An update of M on `batch` sequences of `length` random steps."""
    optimizer = torch.optim.Adam([p for p in mdrnn.parameters() if p.requires_grad], 1e-3, fused=True)
    mean, logvar = torch.randn(2, batch, length + 1, mdrnn.z_size)
    actions, zeros, mask = (
        torch.randn(batch, length, mdrnn.action_size),
        torch.zeros(batch, length),
        torch.ones(batch, length),
    )
    restart = zeros if mdrnn.include_restart else None

    def work() -> int:
        z = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape)
        prediction, _ = mdrnn(z[:, :-1], actions, restart=restart)
        loss, _ = memory.mdrnn_loss(prediction, z[:, 1:], zeros, zeros, mask)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(mdrnn.parameters(), 1.0)
        optimizer.step()
        return batch * length

    return work


def train_m_the_port_s_way(frames: np.ndarray, batch: int = 16, length: int = 32) -> Callable[[], int]:
    """V runs on both frames of every transition of every batch; one shared mixture; RMSprop."""
    vae, mdrnn = PortVAE(), memory.MDRNN(mixture="shared", include_reward=True, include_terminal=True)
    optimizer = torch.optim.RMSprop(mdrnn.parameters(), 1e-3, alpha=0.9)
    some = np.resize(frames, (batch * length, 64, 64, 3))
    actions, zeros, mask = torch.randn(batch, length, 3), torch.zeros(batch, length), torch.ones(batch, length)

    def work() -> int:
        pair = []
        for _ in range(2):
            with torch.no_grad():  # the port runs the whole VAE and throws the reconstruction away
                images = to_images(some, CPU).contiguous()
                _, mean, logvar = vae(images, torch.randn(len(some), 32))
            pair.append((mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape)).reshape(batch, length, 32))
        loss, _ = memory.mdrnn_loss(mdrnn(pair[0], actions)[0], pair[1], zeros, zeros, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return batch * length

    return work


def act_our_way(frames: np.ndarray, lanes: int) -> Callable[[], int]:
    actions = envs.actions_in(World("worldmodels/CarRacing-v3"))
    population = np.random.default_rng(0).standard_normal((lanes, 867))
    v, m = VAE().requires_grad_(False), memory.MDRNN().requires_grad_(False)
    agent = Agent(Eyes(v), m, Controller(), population, actions)
    index = np.arange(lanes)
    agent.begin(index, [Episode(0, lane) for lane in range(lanes)])
    return lambda: len(agent.act(index, frames[:lanes]))


def port_driver() -> Callable[[np.ndarray], torch.Tensor]:
    """Frames uint8 (1, 64, 64, 3) → actions (1, 3): the whole VAE, C, and M with its mixture head."""
    vae, mdrnn = PortVAE(), memory.MDRNN(mixture="shared")
    c = torch.nn.Linear(288, 3)
    state = mdrnn.initial_state(1)

    @torch.no_grad()
    def act(frames: np.ndarray) -> torch.Tensor:
        nonlocal state
        images = to_images(frames, CPU).contiguous()
        _, mean, _ = vae(images, torch.randn(1, 32))
        action = c(torch.cat([mean, state[0]], dim=1))
        state = mdrnn.step(mean, action, state)
        mdrnn.predict(state[0])
        return action

    return act


def act_the_port_s_way(frames: np.ndarray) -> Callable[[], int]:
    act = port_driver()
    return lambda: len(act(frames[:1]))


def evolve_our_way(population: int = 64, samples: int = 2, steps: int = 100) -> Callable[[], int]:
    """A generation of the shipped driver with a little noise: environment, V, M, C and the loop around them."""
    models, mean = best_of(RunDir(pretrained.folder("carracing")), envs.actions_in(World("worldmodels/CarRacing-v3")))
    candidates = mean + 1e-3 * np.random.default_rng(0).standard_normal((population, len(mean)))
    places = choose_places(CPU, 0, batched=True)
    models = models.computing("auto", places[0])
    pool = open_pool(Drivers(World("worldmodels/CarRacing-v3"), 128, models), places)
    course = Course(max_steps=steps)
    return lambda: fitness(pool, candidates.astype(np.float32), range(samples), course, 128)[1]


def evolve_the_port_s_way() -> Callable[[], int]:
    """One step of one process: Gymnasium's environment, the frame resized, the whole VAE, C, M."""
    act, env = port_driver(), gymnasium.make("CarRacing-v3")
    frame = env.reset(seed=0)[0]

    def work() -> int:
        nonlocal frame
        frame, _, terminated, truncated, _ = env.step(act(envs.as_frames(frame[None]))[0].numpy())
        if terminated or truncated:
            frame = env.reset()[0]
        return 1

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=above_zero, default=3.0, help="time for each figure")
    seconds = parser.parse_args().seconds
    torch.manual_seed(0)
    frames = real_frames(256)
    flops = matrix_rate(seconds)
    print(f"float32 matrix rate {flops / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} threads\n")
    v_flops = 3 * (ENCODER_FLOPS + DECODER_FLOPS)
    rows: list[tuple[str, Callable[[], int], Callable[[], int], float]] = [
        ("V training, frames/s", train_v(PortVAE(), frames[:32]), train_v_our_way(frames[:100]), v_flops),
        ("encoding, frames/s", encode(PortVAE(), frames, 1), encode(VAE(), frames, ENCODE_BATCH), ENCODER_FLOPS),
        ("M training, transitions/s", train_m_the_port_s_way(frames), train_m_our_way(),
         3 * (M_FLOPS + HEAD_FLOPS)),
        ("acting, 64 lanes, frames/s", act_the_port_s_way(frames), act_our_way(frames, 64),
         ENCODER_FLOPS + M_FLOPS),
        ("evolution, agent steps/s", evolve_the_port_s_way(), evolve_our_way(), ENCODER_FLOPS + M_FLOPS),
    ]  # fmt: skip
    print(f"{'work':<28}{'port':>9}{'ours':>9}{'ratio':>8}{'floor':>9}")
    for name, theirs, ours, work_flops in rows:
        before, after = rate(theirs, seconds), rate(ours, seconds)
        print(f"{name:<28}{before:>9,.0f}{after:>9,.0f}{after / before:>7.1f}×{flops / work_flops:>9,.0f}")


if __name__ == "__main__":
    with as_a_command():
        main()
