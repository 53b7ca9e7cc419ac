"""Every setting of every command: a frozen dataclass a command, presets as Python objects.

Defaults are the paper's values. What wins: defaults < preset < the run's saved config < flags.
This file imports no torch, so that `--help` answers at once.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodels.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
CARRACING = "worldmodels/CarRacing-v3"  # our fast simulator; "CarRacing-v3" is Gymnasium's own


@dataclass(frozen=True)
class Collect:
    """Drive with a random policy (or a trained agent) and store the episodes."""

    rollouts: int = 1000
    """Episodes in the folder when the command is done; an interrupted collection continues."""
    rootdir: str = "datasets/carracing"
    """Folder of the episodes, one compressed .npz file each."""
    threads: int = 0
    """Worker processes (0: one a core)."""
    policy: Literal["brown", "white", "gas", "agent"] = "brown"
    """brown: a random walk of the action; white: the space's own samples; gas: smooth steering with the foot on the
    gas, which really drives; agent: the trained V, M and C of --logdir."""
    env: str = CARRACING
    """Any Gymnasium id with image observations."""
    start: Literal["line", "anywhere"] = "line"
    """anywhere: begin on a random tile at a random speed (our simulator only), so that V and M see the whole track."""
    max_steps: int | None = None
    """Cut episodes after so many steps (the environment's own limit otherwise)."""
    logdir: str = "exp_dir"
    """Where the agent of `--policy agent` was trained."""
    format: Literal["npz", "minari"] = "npz"
    """minari: also export the episodes to <rootdir>/minari for other offline-RL tools."""
    noreload: bool = False
    """Delete the rollouts that are already there and start over."""
    seed: int = 0
    device: Device = "auto"


@dataclass(frozen=True)
class TrainVAE:
    """Train V, the variational auto-encoder, on the collected frames."""

    logdir: str = "exp_dir"
    """Where the model lives; one that is already there is continued."""
    rootdir: str = "datasets/carracing"
    """Folder of the episodes."""
    noreload: bool = False
    """Start V over."""
    nosamples: bool = False
    """Write no sample and reconstruction pictures."""
    epochs: int = 10
    """Passes over the training frames; 0 leaves V untrained (an ablation)."""
    batch_size: int = 100
    z_size: int = 32
    """Numbers in z (paper: 32 for CarRacing, 64 for Take Cover)."""
    learning_rate: float = 1e-4
    free_bits: float = 0.5
    """KL is not pushed below this many nats a dimension, on the total (paper's code: 0.5); 0 is the plain VAE."""
    test_fraction: float = 0.1
    """Share of the episodes held back to measure the loss."""
    patience: int = 5
    """Halve the learning rate after so many epochs without progress on the test episodes."""
    stop_after: int = 30
    """Stop after so many epochs without progress."""
    precision: Precision = "auto"
    """Arithmetic of the convolutions; auto: bfloat16 on a GPU and on processors that have it, else float32."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints inside an epoch."""
    seed: int = 0
    device: Device = "auto"


@dataclass(frozen=True)
class TrainMDRNN:
    """Train M, the mixture density recurrent network, on the episodes as V sees them."""

    logdir: str = "exp_dir"
    """Where V was trained and M will live; an M that is already there is continued."""
    rootdir: str = "datasets/carracing"
    """Folder of the episodes."""
    noreload: bool = False
    """Start M over."""
    include_reward: bool = False
    """Also predict the reward."""
    include_terminal: bool = False
    """Also predict whether the episode ends."""
    include_restart: bool = False
    """M also reads whether the episode begins at this step (the paper's Take Cover)."""
    reward_scale: float = 1.0
    """The reward that counts as one in M's loss: about the spread of the environment's rewards."""
    dropout: float = 0.0
    """Share of h hidden from M's head, another one in every sequence and in every dream (Dropout's Dream Land: 0.1)."""
    starts: int = 1024
    """States kept in mdrnn/starts.safetensors, from which dreams begin."""
    mixture: Literal["dimension", "shared"] = "dimension"
    """dimension: a mixture for each number of z (paper); shared: one mixture over the whole of z (the seed's port)."""
    hidden_size: int = 256
    """Numbers in h (paper: 256 for CarRacing, 512 for Take Cover)."""
    gaussians: int = 5
    epochs: int = 40
    """Passes over the training transitions (the paper's 4,000 updates see each of its transitions about 40 times);
    0 leaves M untrained (an ablation)."""
    batch_size: int = 100
    """Sequences a batch."""
    sequence_length: int = 1000
    """Steps a sequence; shorter episodes are masked (paper: whole episodes)."""
    learning_rate: float = 1e-3
    clip: float = 1.0
    """Gradients are clipped to ±this, number by number (paper's code)."""
    test_fraction: float = 0.1
    """Share of the episodes held back to measure the loss: the same ones as for V."""
    patience: int = 5
    """Halve the learning rate after so many epochs without progress on the test episodes."""
    stop_after: int = 30
    """Stop after so many epochs without progress."""
    precision: Precision = "auto"
    """Arithmetic of the LSTM; auto: bfloat16 on a GPU and on processors that have it, else float32."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints inside an epoch."""
    nosamples: bool = False
    """Write no picture of a dream beside the real sequence."""
    seed: int = 0
    device: Device = "auto"


@dataclass(frozen=True)
class TrainController:
    """Evolve C, the linear controller, with V and M held fixed."""

    logdir: str = "exp_dir"
    """Where V and M were trained and C will live; a C that is already there is continued."""
    env: str = CARRACING
    """Any Gymnasium id with image observations."""
    noreload: bool = False
    """Start C over."""
    n_samples: int = 16
    """Rollouts that score one candidate; all candidates of a generation drive the same tracks."""
    pop_size: int = 64
    """Candidates a generation."""
    target_return: float = 950.0
    """Stop when the mean of the distribution scores this much on the selection tracks."""
    display: bool = False
    """Print a line for every candidate's score, and the mean's."""
    max_workers: int = 0
    """Worker processes (0: one a GPU; without a GPU one for our own simulator, one a core for any other)."""
    epochs: int = 1800
    """Generations."""
    env_steps: int = 0
    """Stop after so many steps of the environment (0: never)."""
    batch_size: int = 64
    """Lanes of one worker: episodes driven side by side."""
    strategy: Literal["cma", "sep-cma", "openai-es", "pgpe"] = "cma"
    """cma: CMA-ES, the paper's; sep-cma: with a diagonal covariance; openai-es; pgpe: with ClipUp."""
    sigma: float = 0.1
    """First step size."""
    sigma_decay: float = 1.0
    """Multiplies the step sizes of openai-es and pgpe in every generation (CMA-ES adapts its own)."""
    directions: int = 0
    """Search this many principal directions of [z, h], each scaled to unit variance (0: all weights, as the paper)."""
    inputs: Literal["z", "zh", "zch"] = "zh"
    """What C sees: z alone, z and h (paper, CarRacing), or z, c and h (paper, Take Cover)."""
    hidden: int = 0
    """Give C a hidden layer of so many tanh units (0: linear, the paper's driver; its ablation of z alone has one)."""
    sample_z: bool = False
    """Act on a sample of z (the paper's code) instead of its mean."""
    start: Literal["line", "anywhere"] = "line"
    """anywhere: candidates begin on a random tile at a random speed (our simulator only)."""
    max_steps: int | None = None
    """Cut training episodes after so many steps (selection drives whole episodes)."""
    give_up: int = 0
    """End a training episode after so many steps without a reward above zero, and score the rest as if it went on like
    that (0: drive every episode to its end, as the paper)."""
    whole_after: int = 0
    """With --start anywhere or --max-steps: generations after which training episodes are whole, from the line to their
    end (0: never). Fragments teach driving quickly, but make light of crashes and missed tiles."""
    select_every: int = 10
    """Generations between evaluations of the distribution's mean on the selection tracks: what `best` means."""
    average: int = 1
    """Evaluate, and keep, the average of the distribution's mean over so many generations (the paper: the last)."""
    select_tracks: int = 16
    """Selection tracks: never used for training, never for the final evaluation."""
    precision: Precision = "auto"
    """Arithmetic in which V encodes training frames; auto: bfloat16 on a GPU and on processors that have it, else
    float32. `evaluate` always takes float32."""
    seed: int = 0
    device: Device = "auto"


@dataclass(frozen=True)
class Evaluate:
    """Drive held-out tracks with the trained agent and write evaluation.json."""

    logdir: str = "exp_dir"
    """The run to evaluate."""
    pretrained: str | None = None
    """Evaluate weights that come with the package, by their name, instead of a run."""
    env: str = "CarRacing-v3"
    """Gymnasium's own environment unless told otherwise."""
    episodes: int = 100
    seed: int = 1_000_000
    """First track: FIRST … FIRST + episodes − 1. Held-out tracks start at 1,000,000."""
    output: str | None = None
    """Folder for evaluation.json and the video (the logdir otherwise)."""
    render: bool = False
    """Watch: a window where there is a display, an mp4 where there is none."""
    video: bool = False
    """Write an mp4 of the first episode."""
    max_workers: int = 0
    """Worker processes (0: one a core)."""
    max_steps: int | None = None
    """Cut episodes after so many steps (scores of cut episodes are not comparable)."""
    device: Device = "auto"


@dataclass(frozen=True)
class Run:
    """The whole pipeline in order: collect, train V, train M, evolve C, evaluate, report."""

    logdir: str = "exp_dir"
    """The run directory; running again continues, or says that it is done."""
    env: str = CARRACING
    """Any Gymnasium id with image observations; our simulator of CarRacing-v3 is evaluated on Gymnasium's own."""
    seed: int = 0
    device: Device = "auto"
    iterations: int = 1
    """The paper's iterative procedure: in every iteration after the first the driver so far gathers more episodes, V
    and M are trained on all of them, and C evolves anew. <logdir>/previous holds the iteration before."""
    early_generations: int = 25
    """Generations of C in all iterations but the last: its driver only has to see the whole track."""
    again: Collect = field(default_factory=lambda: Collect(policy="agent"))
    """How the driver of the iteration before gathers episodes."""
    collect: Collect = field(default_factory=Collect)
    vae: TrainVAE = field(default_factory=TrainVAE)
    mdrnn: TrainMDRNN = field(default_factory=TrainMDRNN)
    controller: TrainController = field(default_factory=TrainController)
    evaluate: Evaluate = field(default_factory=Evaluate)


@dataclass(frozen=True)
class Report:
    """Write report.html: one page of curves, reconstructions, a dream, the scores and a drive."""

    logdir: str = "exp_dir"
    """The run to report on."""


SMOKE = Run(
    collect=Collect(rollouts=3, max_steps=40, policy="gas", threads=1),
    vae=TrainVAE(epochs=2, batch_size=32, learning_rate=1e-3, test_fraction=0.34),
    mdrnn=TrainMDRNN(epochs=2, batch_size=4, sequence_length=16, test_fraction=0.34),
    controller=TrainController(
        epochs=2, pop_size=4, n_samples=1, max_steps=30, select_every=1, select_tracks=1, batch_size=4
    ),
    evaluate=Evaluate(episodes=1, max_steps=50, max_workers=1, video=True),
)
"""Seconds: every stage at a size that only shows it works."""

LAPTOP = Run(
    collect=Collect(rollouts=400, max_steps=150, policy="gas", start="anywhere"),
    vae=TrainVAE(epochs=2, batch_size=64, learning_rate=7e-4, free_bits=0),
    mdrnn=TrainMDRNN(epochs=12, batch_size=32, sequence_length=125, learning_rate=1.5e-3),
    controller=TrainController(
        n_samples=2, batch_size=128, start="anywhere", max_steps=640, give_up=100, whole_after=20, epochs=35,
        select_every=5, select_tracks=16,
    ),
    evaluate=Evaluate(episodes=4, video=True),
)  # fmt: skip
"""Two cores, no GPU, a coffee break."""

OVERNIGHT = Run(
    iterations=2,
    early_generations=25,
    collect=LAPTOP.collect,
    again=Collect(rollouts=400, max_steps=250, policy="agent", start="anywhere"),
    vae=dataclasses.replace(LAPTOP.vae, epochs=5, free_bits=0.5),
    mdrnn=dataclasses.replace(LAPTOP.mdrnn, epochs=25),
    controller=dataclasses.replace(
        LAPTOP.controller, strategy="pgpe", sigma_decay=0.99, directions=64, n_samples=4, whole_after=25, epochs=150,
        average=5, select_tracks=48,
    ),
    evaluate=Evaluate(video=True),
)  # fmt: skip
"""Two cores, no GPU, about 80 minutes: from nothing to a driver as good as the one in the package."""

PAPER = Run(
    collect=Collect(rollouts=10_000, policy="gas"),
    vae=TrainVAE(),
    mdrnn=TrainMDRNN(),
    controller=TrainController(sample_z=True),
    evaluate=Evaluate(),
)
"""The paper's numbers (Ha & Schmidhuber 2018, appendix A, and the released code)."""

PRESETS = {"smoke": SMOKE, "laptop": LAPTOP, "overnight": OVERNIGHT, "paper": PAPER}

STAGES = {  # command → the field of Run that holds its settings
    "collect": "collect",
    "train-vae": "vae",
    "train-mdrnn": "mdrnn",
    "train-controller": "controller",
    "evaluate": "evaluate",
}


def resolve(run: Run) -> Run:
    """The same run with its logdir, env, seed and device handed to every stage, and the episodes inside the logdir.

    In a further iteration, `collect` is the collection with the driver of the one before, and V and M read the episodes
    of both: all that lie below the logdir.
    """
    shared: dict[str, Any] = {"logdir": run.logdir, "device": run.device}
    rollouts = f"{run.logdir}/rollouts"
    data: dict[str, Any] = {"rootdir": run.logdir if run.iterations > 1 else rollouts}
    gathered = dataclasses.replace(run.collect, logdir=run.logdir, seed=run.seed)
    if run.iterations > 1:  # other tracks than before
        gathered = dataclasses.replace(
            run.again, policy="agent", logdir=previous(run).logdir, seed=run.seed + run.iterations - 1
        )
    evaluated = run.evaluate.env if run.env == CARRACING else run.env
    return dataclasses.replace(
        run,
        collect=dataclasses.replace(gathered, rootdir=rollouts, env=run.env, device=run.device),
        vae=dataclasses.replace(run.vae, **shared, **data, seed=run.seed),
        mdrnn=dataclasses.replace(run.mdrnn, **shared, **data, seed=run.seed),
        controller=dataclasses.replace(run.controller, **shared, env=run.env, seed=run.seed),
        evaluate=dataclasses.replace(run.evaluate, **shared, env=evaluated),
    )


def previous(run: Run) -> Run:
    """The iteration before: a run of its own in <logdir>/previous, whose C evolves for `early_generations`."""
    return dataclasses.replace(
        run,
        logdir=f"{run.logdir}/previous",
        iterations=run.iterations - 1,
        controller=dataclasses.replace(run.controller, epochs=run.early_generations),
    )


AT_LEAST = {
    0: (
        "seed", "epochs", "env_steps", "threads", "max_workers", "directions", "hidden", "give_up", "whole_after",
        "free_bits", "patience", "checkpoint_seconds",
    ),
    1: (
        "rollouts", "episodes", "max_steps", "iterations", "early_generations", "n_samples", "average", "select_every",
        "select_tracks", "batch_size", "sequence_length", "stop_after", "z_size", "hidden_size", "gaussians",
    ),
    3: ("pop_size",),  # CMA-ES recombines the better half
}  # fmt: skip
ABOVE_ZERO = ("learning_rate", "clip", "sigma", "sigma_decay")


def check(settings: Any, prefix: str = "") -> None:
    """UserError for the first number that cannot be, by its flag; nested settings included."""
    for own in dataclasses.fields(settings):
        name, value = own.name, getattr(settings, own.name)
        flag = f"--{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
        for least, names in AT_LEAST.items():
            if name in names and value is not None and not value >= least:
                raise UserError(f"{flag} is {value}: it must be at least {least}.")
        if name in ABOVE_ZERO and not 0 < value < float("inf"):
            raise UserError(f"{flag} is {value}: it must be a number above zero.")
