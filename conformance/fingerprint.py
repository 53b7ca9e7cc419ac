"""One hash of 1,000 steps of 16 lanes, so that the simulator can be compared between platforms.

    python -m conformance.fingerprint

The lines say where the first difference between two platforms lies: in tracks and physics (the state), in rewards and
endings, in the exact or in the fast frames.
"""

import hashlib
import platform

import numpy as np

from worldmodels.cli import as_a_command
from worldmodels.envs.carracing import CarRacingVectorEnv

LANES, STEPS, HOLD = 16, 1000, 10


def fingerprint(**view: str) -> tuple[str, str]:
    """SHA-256 of all observations, and of all rewards and endings, of one way of looking at the same drives."""
    env = CarRacingVectorEnv(LANES, autoreset_mode="SameStep", max_episode_steps=250, **view)
    rng = np.random.default_rng(0)
    seen, earned = hashlib.sha256(env.reset(seed=0)[0].tobytes()), hashlib.sha256()
    for step in range(STEPS):
        if step % HOLD == 0:
            actions = rng.uniform([-1, 0.2, -0.5], [1, 1, 0.5], (LANES, 3)).astype(np.float32)
            actions[:, 0] *= 0.3
        observations, rewards, terminated, truncated, _ = env.step(actions)
        seen.update(observations.tobytes())
        earned.update(rewards.tobytes() + terminated.tobytes() + truncated.tobytes())
    return seen.hexdigest()[:16], earned.hexdigest()[:16]


def main() -> None:
    """Print the four lines."""
    state, rewards = fingerprint(observation="state")
    print(f"{STEPS} steps of {LANES} lanes on {platform.machine()} {platform.system()}")
    print(f"state         {state}\nrewards       {rewards}")
    for frames in ("exact", "fast"):
        seen, earned = fingerprint(frames=frames)
        assert earned == rewards, "what is looked at must not change what is earned"
        print(f"{frames} frames  {seen}" if frames == "exact" else f"{frames} frames   {seen}")


if __name__ == "__main__":
    with as_a_command():
        main()
