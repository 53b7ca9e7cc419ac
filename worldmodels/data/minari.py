"""Collected episodes as a Minari dataset, for other offline-RL tools.

    MINARI_DATASETS_PATH=<rootdir>/minari python -c "import minari; print(minari.load_dataset('CarRacing-v3/gas-v0'))"

Frames are stored as they are (Minari's JPEG would change them), compressed; actions are the environment's own. An
episode that did not end by itself was cut, so its last step is a truncation. One episode is in memory at a time.
"""

import json
import os
import re
import shutil
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from worldmodels import envs
from worldmodels.data.dataset import Dataset, rollouts
from worldmodels.envs import FRAME_SIZE, Actions, World
from worldmodels.envs.lanes import FRAMES
from worldmodels.errors import missing
from worldmodels.rollout import Rollout
from worldmodels.runs.progress import progress

if TYPE_CHECKING:
    from minari.dataset.minari_storage import MinariStorage

CHUNK = 16  # frames compressed together
MARK = "worldmodels_fingerprint"  # in the metadata of what we exported: the episodes it was made of


def require() -> None:
    """UserError when Minari is not installed."""
    try:
        import h5py  # noqa: F401  Minari keeps its data in it
        import minari  # noqa: F401
    except ImportError as error:
        raise missing("--format minari needs Minari and h5py: one of them", "minari") from error


def dataset_id(env_id: str, policy: str) -> str:
    """Minari's name of a collection: `module:worldmodels/CarRacing-v3` by `gas` is `CarRacing-v3/gas-v0`."""
    name = re.sub(r"[^-\w]", "-", env_id.split(":")[-1].split("/")[-1])
    return f"{name}/{policy}-v0"


def export(dataset: Dataset, folder: Path, env_id: str, policy: str) -> Path:
    """Write the episodes to `folder`/<dataset id>/data, where `minari.MinariDataset` reads them; returns that path.

    `folder` is what MINARI_DATASETS_PATH names for `minari.load_dataset`. An export of the same episodes is kept; one
    that is interrupted leaves nothing.
    """
    require()
    import minari
    from minari.dataset.minari_storage import MinariStorage

    name = dataset_id(env_id, policy)
    target = folder / name / "data"
    if _mark(target) == dataset.fingerprint:
        print(f"{target} holds these rollouts as the Minari dataset {name} already.")
        return target
    temporary = (folder / ".export").absolute()  # Minari joins a relative one to itself
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    spec, space, actions = _env(env_id)
    about = {
        "dataset_id": name, "minari_version": minari.__version__, "algorithm_name": policy, MARK: dataset.fingerprint,
        "description": "Episodes collected by worldmodels: 64×64 frames as V sees them.",
    }  # fmt: skip
    try:
        storage = MinariStorage.new(temporary, FRAMES, space, env_spec=spec, data_format="hdf5", jpeg_encoding=False)
        for number, (head, rollout) in enumerate(
            progress(iterable=rollouts(dataset), total=len(dataset.heads), desc="Exporting", unit="rollout")
        ):
            _append(storage, temporary, number, rollout, actions, head.seed)
        storage.update_metadata(about)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{target} holds the Minari dataset {name} (set MINARI_DATASETS_PATH={folder} to load it by name).")
    return target


def remove(folder: Path) -> None:
    """Delete what `export` made in `folder`, and nothing else."""
    shutil.rmtree(folder / ".export", ignore_errors=True)
    for data in list(folder.glob("*/*/data")):
        if _mark(data) is None:
            continue
        shutil.rmtree(data)
        for parent in (data.parent, data.parent.parent, folder):
            if not any(parent.iterdir()):
                parent.rmdir()


def _append(
    storage: "MinariStorage", folder: Path, number: int, rollout: Rollout, actions: Actions, seed: int | None
) -> None:
    """Add one episode through Minari's storage, its frames into a compressed array made beforehand.

    Minari itself would store them as JPEG or, without, uncompressed: 12 GB for 1,000 rollouts of 1,000 steps.
    """
    import h5py
    from minari.data_collector import EpisodeBuffer

    with h5py.File(folder / "main_data.hdf5", "a", track_order=True) as file:
        file.create_dataset(
            f"episode_{number}/observations", (0, *FRAMES.shape), np.uint8, maxshape=(None, *FRAMES.shape),
            chunks=(CHUNK, *FRAMES.shape), compression="gzip", compression_opts=1,
        )  # fmt: skip
    truncations = np.zeros(len(rollout.rewards), dtype=bool)
    truncations[-1] = not rollout.terminals[-1]
    episode = EpisodeBuffer(
        number, seed, observations=rollout.frames, actions=actions.to_env(rollout.actions), rewards=rollout.rewards,
        terminations=rollout.terminals, truncations=truncations,
    )  # fmt: skip
    storage.update_episodes([episode])


def _env(env_id: str) -> tuple[Any, gymnasium.Space[Any], Actions]:
    """The spec that makes the environment again (None unless it shows the stored frames and can be written down: a
    function that makes one cannot), its actions' space, and how action vectors become its actions."""
    description = envs.find(env_id)
    small: dict[str, Any] = {"obs_size": FRAME_SIZE} if description.env_id == envs.CARRACING else {}
    with closing(gymnasium.make(env_id, **small)) as env:
        same = env.observation_space == FRAMES and description.crop is None
        return (
            (_written(env.spec) if same else None),
            env.action_space,
            envs.actions_for(World(env_id), env.action_space),
        )


def _written(spec: Any) -> Any:
    """The spec where it can be written down, else None."""
    with suppress(TypeError, ValueError):
        spec.to_json()
        return spec
    return None


def _mark(data: Path) -> str | None:
    """The fingerprint of the episodes that an export was made of; None where there is none of ours."""
    try:
        return json.loads((data / "metadata.json").read_text()).get(MARK)
    except (OSError, ValueError, AttributeError):
        return None
