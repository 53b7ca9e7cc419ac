"""Real moments from which the page dreams on, and one real drive to hold the dream against.

Shapes: S starts, T steps of a recording, Z latent, H hidden.

Both come from recordings: a run's own rollouts, or, for CarRacing, the drives that come with the package
(`carracing/`: short ones for the starts, one long one). V and M watch the WARM_UP steps before a start, so that the
page begins with the state the driver would have there; other weights make other states of the same recordings.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worldmodels import pretrained
from worldmodels.agent import Agent
from worldmodels.data.dataset import open_dataset
from worldmodels.data.episodes import BadFile, load_rollout
from worldmodels.envs import FRAME_SIZE
from worldmodels.errors import UserError
from worldmodels.rollout import Rollout
from worldmodels.runs import record
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json

HERE = Path(__file__).parent
SHIPPED = {"worldmodels/CarRacing-v3": "carracing", "CarRacing-v3": "carracing"}
STARTS = 20
WARM_UP = 16  # steps that M watches before a start
DRIVE = 500  # steps of the long recording: ten seconds of CarRacing
CANDIDATES = 400  # moments among which the starts are chosen
EPISODES = 40  # rollouts of a run that are looked at, evenly spaced
COLUMNS = 20  # frames in a line of a sprite


class Start(NamedTuple):
    """One real moment, and what M remembers there."""

    frame: np.ndarray  # uint8 (64, 64, 3)
    z: Tensor  # (Z,)
    h: Tensor  # (H,)
    c: Tensor  # (H,)


class Recordings(NamedTuple):
    """What the page shows of the real world."""

    short: list[Rollout]  # where the starts are chosen
    drive: Rollout  # DRIVE steps at most
    picture: bytes  # the drive's frames as a sprite


def recordings(run: Path, env_id: str, action_size: int) -> Recordings:
    """The rollouts of a run; where it has none, those of its environment that come with the package.

    Raises:
        UserError: there is neither.
    """
    shipped = HERE / SHIPPED.get(env_id, "none")
    if run.parent == pretrained.HERE and not shipped.is_dir():
        raise UserError(
            f"The package has no episode of {env_id}, in which the page could begin: drive in the dream of a run of "
            "your own, with --logdir."
        )
    try:
        return recorded(rollouts_of(RunDir(run)), action_size)
    except UserError:
        if not shipped.is_dir():
            raise
        long = shipped / "drive.webp"
        return Recordings(load_sprite(shipped / "starts.webp"), load_sprite(long)[0], long.read_bytes())


def rollouts_of(run: RunDir) -> Path:
    """Where the episodes lie: in the run, or where M's training found them."""
    return run.rollouts if run.rollouts.is_dir() else Path(record.read("train-mdrnn", run).get("rootdir", run.rollouts))


def recorded(folder: Path, action_size: int) -> Recordings:
    """Evenly spaced rollouts of a folder, and the longest of them; damaged ones are left out.

    Raises:
        UserError: there is no rollout, or its actions are none that M knows.
    """
    files = open_dataset(folder).files
    found = []
    for path in files[:: max(1, -(-len(files) // EPISODES))]:
        try:
            found.append(load_rollout(path))
        except BadFile:
            continue
    if not found:
        raise UserError(f"No rollout in {folder} can be read: `worldmodels collect --noreload` collects them again.")
    if found[0].actions.shape[1] != action_size:
        sizes = f"{found[0].actions.shape[1]} numbers where M expects {action_size}"
        raise UserError(f"The actions in {folder} have {sizes}: they are of another environment than this run.")
    longest = max(found, key=lambda rollout: len(rollout.actions))
    drive = Rollout(
        longest.frames[: DRIVE + 1], longest.actions[:DRIVE], longest.rewards[:DRIVE], longest.terminals[:DRIVE]
    )
    return Recordings(found, drive, sprite(drive.frames, quality=80))


def choose(agent: Agent, rollouts: list[Rollout]) -> tuple[list[Start], Tensor, Tensor]:
    """(starts that differ as much as they can, mean (Z,) and standard deviation (Z,) of z over all moments).

    Moments before which little was earned are no start (half of a random driver's are spent in the grass), nor is the
    fifth of the rest that looks least like the others; of what is left, each start is the one farthest from all chosen.
    """
    moments = candidates(rollouts)
    z = agent.encoder.vae.encode(np.stack([rollouts[i].frames[t] for i, t in moments]))[0]  # (M, Z)
    mean, std = z.mean(0), z.std(0, correction=0)
    scaled = (z - mean) / std.clamp(min=0.2)  # what hardly moves is noise
    earned = torch.tensor([float(rollouts[i].rewards[max(0, t - WARM_UP) : t].sum()) for i, t in moments])
    ordinary = scaled.norm(dim=1) <= scaled.norm(dim=1).quantile(0.8)
    kept = torch.nonzero((earned >= earned.median()) & ordinary)[:, 0]
    if len(moments) <= STARTS:
        kept = torch.arange(len(moments))
    chosen = [int(kept[scaled[kept].norm(dim=1).argmin()])]
    while len(chosen) < min(STARTS, len(kept)):
        distance = torch.cdist(scaled[kept], scaled[chosen]).min(dim=1).values
        chosen.append(int(kept[distance.argmax()]))
    return [watch(agent, rollouts[i], t) for i, t in (moments[k] for k in chosen)], mean, std


def candidates(rollouts: list[Rollout]) -> list[tuple[int, int]]:
    """Evenly spaced (rollout, step) at which M has watched WARM_UP steps, or half of a shorter rollout."""
    found = []
    for index, rollout in enumerate(rollouts):
        steps = len(rollout.actions)
        first = WARM_UP if steps >= WARM_UP else -(-steps // 2)
        found += [(index, t) for t in range(first, steps + 1 - bool(rollout.terminals[-1]))]
    return found[:: max(1, -(-len(found) // CANDIDATES))]


@torch.no_grad()
def watch(agent: Agent, rollout: Rollout, t: int) -> Start:
    """The state of V and M at step t, after they watched the steps before it."""
    first = max(0, t - WARM_UP)
    z = agent.encoder.vae.encode(rollout.frames[first : t + 1])[0]
    actions = torch.from_numpy(rollout.actions[first:t]).to(z.device)
    state = agent.memory.initial_state(1)
    for step in range(t - first):
        state = agent.memory.step(z[step][None], actions[step][None], state)
    return Start(rollout.frames[t], z[-1], state[0][0], state[1][0])


# ---------------------------------------------------------------------------------------------------- sprites


def sprite(frames: np.ndarray, quality: int) -> bytes:
    """Frames uint8 (T, 64, 64, 3) as one WebP picture, COLUMNS in a line."""
    lines = -(-len(frames) // COLUMNS)
    grid = np.zeros((lines * COLUMNS, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    grid[: len(frames)] = frames
    grid = grid.reshape(lines, COLUMNS, FRAME_SIZE, FRAME_SIZE, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(lines * FRAME_SIZE, COLUMNS * FRAME_SIZE, 3))
    with io.BytesIO() as buffer:
        picture.save(buffer, "WEBP", quality=quality, method=6)
        return buffer.getvalue()


def frames_of(picture: Path, count: int) -> np.ndarray:
    """The first `count` frames of a sprite, uint8 (count, 64, 64, 3)."""
    with Image.open(picture) as image:
        grid = np.asarray(image.convert("RGB"))
    lines = grid.shape[0] // FRAME_SIZE
    frames = grid.reshape(lines, FRAME_SIZE, COLUMNS, FRAME_SIZE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(frames.reshape(-1, FRAME_SIZE, FRAME_SIZE, 3)[:count])


def load_sprite(picture: Path) -> list[Rollout]:
    """The recordings in a sprite, one after the other, with the actions of the JSON file beside it."""
    actions = [np.array(steps, dtype=np.float32) for steps in read_json(picture.with_suffix(".json"))["actions"]]
    ends = np.cumsum([len(steps) + 1 for steps in actions])
    parts = zip(np.split(frames_of(picture, ends[-1]), ends[:-1]), actions, strict=True)
    return [
        Rollout(frames, steps, np.zeros(len(steps), np.float32), np.zeros(len(steps), bool)) for frames, steps in parts
    ]
