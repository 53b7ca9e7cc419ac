"""Presets for Take Cover: C evolves in the dream alone, and what it is worth is measured in the game."""

import dataclasses

from worldmodels.runs.settings import TAKECOVER, Collection, Evaluation, Evolution, MDRNNTraining, VAETraining
from worldmodels.runs.stages import Run

COFFEE = Run(
    env=TAKECOVER,
    collect=Collection(rollouts=400, policy="mixed", longer_than=100),
    vae=VAETraining(
        epochs=1, batch_size=32, learning_rate=1e-3, anneal=1, init="he", motion=4.0, z_size=64
    ),
    mdrnn=MDRNNTraining(
        include_terminal=True, include_restart=True, hidden_size=256, epochs=30, batch_size=16, sequence_length=125,
        learning_rate=1.5e-3, anneal=1,
    ),
    controller=Evolution(
        dream=True, temperature=1.15, horizon=2100, inputs="zch", sample_z=True, strategy="pgpe", pop_size=64,
        n_samples=4, batch_size=128, epochs=40, select_every=10, select_tracks=16,
    ),
    evaluate=Evaluation(video=True),
)  # fmt: skip
"""Two cores, no GPU, a coffee break. Smaller than the paper's: the data, the training of V and M, h (256 numbers), and
the search. Frames, z and the game are whole. V's loss weighs what moves five times."""

NIGHT = dataclasses.replace(
    COFFEE,
    collect=dataclasses.replace(COFFEE.collect, rollouts=2000),
    mdrnn=dataclasses.replace(COFFEE.mdrnn, epochs=12),
    controller=dataclasses.replace(COFFEE.controller, temperature=1.0, epochs=24, select_tracks=32),
    evaluate=Evaluation(episodes=1000, video=True),
)
"""Two cores, no GPU, a night's first hours: five times the data, so that M knows death, and ten times the games for the
score."""

PAPER = Run(
    env=TAKECOVER,
    collect=Collection(rollouts=10_000, policy="held", longer_than=100),
    vae=VAETraining(z_size=64),
    mdrnn=MDRNNTraining(
        include_terminal=True,
        include_restart=True,
        hidden_size=512,
        sequence_length=500,
        batch_size=100,
        epochs=270,  # 24,400 updates: most episodes are one sequence
    ),
    controller=Evolution(dream=True, temperature=1.15, horizon=2100, inputs="zch", sample_z=True),
    evaluate=Evaluation(),
)
"""The paper's numbers (Ha & Schmidhuber 2018, section 4 and appendix A, and the released code)."""
