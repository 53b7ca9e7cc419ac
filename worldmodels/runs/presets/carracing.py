"""Presets for CarRacing."""

import dataclasses

from worldmodels.runs.settings import Collection, Dreaming, Evaluation, Evolution, MDRNNTraining, VAETraining
from worldmodels.runs.stages import Run

SMOKE = Run(
    early_generations=1,
    again=Collection(rollouts=2, max_steps=40, policy="agent", threads=1),
    collect=Collection(rollouts=3, max_steps=40, policy="gas", threads=1),
    vae=VAETraining(epochs=2, batch_size=32, learning_rate=1e-3, test_fraction=0.34),
    mdrnn=MDRNNTraining(epochs=2, batch_size=4, sequence_length=16, test_fraction=0.34),
    controller=Evolution(
        epochs=2, pop_size=4, n_samples=1, max_steps=30, select_every=1, select_tracks=1, batch_size=4
    ),
    evaluate=Evaluation(episodes=1, max_steps=50, max_workers=1, video=True),
)
"""Seconds: every stage at a size that only shows it works."""

LAPTOP = Run(
    collect=Collection(rollouts=320, max_steps=150, policy="gas", start="anywhere"),
    vae=VAETraining(epochs=2, batch_size=64, learning_rate=1e-3, anneal=0.2, free_bits=0),
    mdrnn=MDRNNTraining(epochs=12, batch_size=32, sequence_length=125, learning_rate=1.5e-3),
    controller=Evolution(
        n_samples=2, batch_size=128, start="anywhere", max_steps=640, give_up=100, whole_after=12, epochs=28,
        select_every=14, select_tracks=16,
    ),
    evaluate=Evaluation(video=True),
)  # fmt: skip
"""Two cores, no GPU, a coffee break."""

OVERNIGHT = Run(
    iterations=2,
    early_generations=25,
    collect=dataclasses.replace(LAPTOP.collect, rollouts=400),
    again=Collection(rollouts=400, max_steps=250, policy="agent", start="anywhere"),
    vae=dataclasses.replace(LAPTOP.vae, epochs=5, learning_rate=7e-4, anneal=0, free_bits=0.5),
    mdrnn=dataclasses.replace(LAPTOP.mdrnn, epochs=25),
    controller=dataclasses.replace(
        LAPTOP.controller, strategy="pgpe", sigma_decay=0.99, directions=64, n_samples=4, whole_after=25, epochs=150,
        average=5, select_every=5, select_tracks=48,
    ),
    evaluate=Evaluation(video=True),
)  # fmt: skip
"""Two cores, no GPU, about 80 minutes: from nothing to a driver as good as the one in the package."""

SPRINT = dataclasses.replace(
    OVERNIGHT,
    early_generations=20,
    collect=LAPTOP.collect,
    again=dataclasses.replace(OVERNIGHT.again, rollouts=300),
    vae=LAPTOP.vae,
    mdrnn=LAPTOP.mdrnn,
    controller=dataclasses.replace(
        OVERNIGHT.controller, sigma_decay=0.985, batch_size=256, whole_after=20, epochs=80, select_tracks=32
    ),
)
"""Two cores, no GPU, half an hour: two iterations, each as short as it may be, and a driver that beats the paper's."""

DREAM = Run(
    collect=OVERNIGHT.collect,
    vae=dataclasses.replace(LAPTOP.vae, z_size=16, anneal=0, free_bits=1.0),
    mdrnn=dataclasses.replace(
        LAPTOP.mdrnn, epochs=40, include_reward=True, dropout=0.1, discount=0.99, hidden_size=128, gaussians=3
    ),
    dream=Dreaming(start="anywhere", rounds=60, afresh=45, select_every=15, discount=0.998, supply=300),
    evaluate=LAPTOP.evaluate,
)
"""Two cores, no GPU: C learns in the dream alone."""

PAPER = Run(
    collect=Collection(rollouts=10_000, policy="gas"),
    vae=VAETraining(),
    mdrnn=MDRNNTraining(),
    controller=Evolution(sample_z=True),
    evaluate=Evaluation(),
)
"""The paper's numbers (Ha & Schmidhuber 2018, appendix A, and the released code)."""
