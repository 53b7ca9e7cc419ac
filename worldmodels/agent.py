"""V, M and C acting together: frames, state → actions, state.

Shapes: N lanes of the environment, L of them driving now, P population, F features, A action.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldmodels import controller, memory, vision
from worldmodels.envs import ActionKind, as_frames
from worldmodels.errors import UserError
from worldmodels.rollout import Episode
from worldmodels.runs import checkpoint


class Agent:
    """A whole population that acts in one batch: V encodes all frames, C acts with a parameter vector a lane."""

    def __init__(
        self,
        vae: vision.VAE,
        mdrnn: memory.MDRNN,
        population: np.ndarray,
        kind: ActionKind,
        *,
        inputs: str = "zh",
        sample_z: bool = False,
        seed: int = 0,
        hidden: int = 0,
    ):
        """
        Args:
            vae, mdrnn: V and M, on the same device.
            population: float (P, n), the parameter vectors of C; `Episode.candidate` says which of them drives.
            kind: how C's outputs become actions.
            inputs: what C sees: "z", "zh" or "zch".
            sample_z: act on a sample of z instead of its mean.
            seed: of the samples of z, which depend on (seed, track, candidate) alone.
            hidden: units of C's hidden layer; 0 is the linear C.
        """
        width = controller.feature_size(inputs, mdrnn.z_size, mdrnn.hidden_size)
        expected = controller.parameter_count(width, kind.size, hidden=hidden)
        if population.shape[1] not in (expected, width * kind.size):
            raise UserError(
                f"C has {population.shape[1]} parameters where this V, M and environment need {expected}: "
                "train it again with `worldmodels train-controller --noreload`."
            )
        if vae.z_size != mdrnn.z_size:
            raise UserError(
                f"V makes z of {vae.z_size} numbers and M expects {mdrnn.z_size}: "
                "train M again with `worldmodels train-mdrnn --noreload`."
            )
        self.vae, self.mdrnn, self.kind = vae, mdrnn, kind
        self.inputs, self.sample_z, self.seed, self.hidden = inputs, sample_z, seed, hidden
        self.crop: tuple[int, int, int, int] | None = None  # of observations that the agent is called with
        self.population = torch.as_tensor(population, dtype=torch.float32, device=vae.device)
        self.candidate = torch.zeros(0, dtype=torch.long, device=vae.device)  # (N,)
        self.h, self.c = mdrnn.initial_state(0)  # (N, H) each
        self.noise: list[np.random.Generator] = []  # one a lane

    def begin(self, lanes: np.ndarray, episodes: list[Episode]) -> None:
        """`lanes` int64 (n,) start the given episodes with h = c = 0."""
        missing = int(lanes.max()) + 1 - len(self.noise)
        if missing > 0:
            h, c = self.mdrnn.initial_state(missing)
            self.h, self.c = torch.cat([self.h, h]), torch.cat([self.c, c])
            self.candidate = torch.cat([self.candidate, self.candidate.new_zeros(missing)])
            self.noise += [np.random.default_rng(0)] * missing
        index = torch.as_tensor(lanes, device=self.h.device)
        self.h[index], self.c[index] = 0.0, 0.0
        self.candidate[index] = torch.tensor([episode.candidate for episode in episodes], device=self.h.device)
        for lane, episode in zip(lanes, episodes, strict=True):
            self.noise[lane] = np.random.default_rng([self.seed, episode.seed, episode.candidate])

    @torch.no_grad()
    def act(self, lanes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 (L, 64, 64, 3) of `lanes` int64 (L,) → actions float32 (L, A); h moves one step on."""
        mean, logvar = self.vae.encode(frames)  # (L, Z)
        z = mean + torch.exp(0.5 * logvar) * self.draw(lanes, mean) if self.sample_z else mean
        index = torch.as_tensor(lanes, device=z.device)
        state = (self.h[index], self.c[index])
        seen = controller.features(self.inputs, z, state)  # (L, F)
        outputs = controller.outputs(self.population[self.candidate[index]], seen, self.kind.size, self.hidden)
        actions = self.kind.squash(outputs.cpu().numpy())
        self.h[index], self.c[index] = self.mdrnn.step(z, torch.from_numpy(actions).to(z.device), state)
        return actions

    def reset(self, seed: int = 0) -> None:
        """Begin an episode outside the batched loop; `seed` matters to agents that sample z."""
        self.begin(np.array([0]), [Episode(seed)])

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """One observation uint8 (height, width, 3) of a single environment → what its `step` takes."""
        return self.kind.to_env(self.act(np.array([0]), as_frames(observation[None], self.crop)))[0]

    def draw(self, lanes: np.ndarray, like: Tensor) -> Tensor:
        """Standard normal noise (L, Z), each lane from its own generator."""
        noise = np.stack([self.noise[lane].standard_normal(like.shape[1], dtype=np.float32) for lane in lanes])
        return torch.from_numpy(noise).to(like.device)


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one; UserError when `cuda` is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is visible to PyTorch: use --device cpu, or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def choose_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16; `auto` does where it is faster: on a GPU, and on processors that have it."""
    if precision == "auto":
        asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: absent from some versions of PyTorch
        return device.type == "cuda" or any(getattr(torch.cpu, name, bool)() for name in asked)
    return precision == "bfloat16"


def load(logdir: str | Path, kind: ActionKind, device: torch.device | str = "cpu") -> Agent:
    """The best driver of a run.

    Raises:
        UserError: V, M or C is missing (the sentence names the command that makes it), damaged, or does not fit.
    """
    vae, mdrnn = vision.load(logdir, device), memory.load(logdir, device)
    path = Path(logdir) / "ctrl" / "best.safetensors"
    if not path.exists():
        raise UserError(f"There is no trained C in {logdir}: run `worldmodels train-controller --logdir {logdir}`.")
    tensors, meta = checkpoint.load(path)
    try:
        parameters, settings = tensors["parameters"][None].numpy(), meta["controller"]
        return Agent(vae, mdrnn, parameters, kind, **settings)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds no C of this version: train it again with --noreload.") from error
