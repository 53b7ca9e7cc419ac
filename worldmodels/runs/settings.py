"""Every setting of every command but `run`'s own (stages.py), as frozen dataclasses with their bounds on the field.

What a stage does (`Collection`, `VAETraining`, …) is what a preset decides, and what `run` takes as --collect.…,
--vae.…; the command of the stage (`Collect`, `TrainVAE`, …) adds where it reads and writes. Defaults are the paper's
values. What wins: defaults < preset < what the run was asked before < flags. This file imports no torch, so that
`--help` answers at once.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt, Predicate

from worldmodels.runs.bounds import Above, Count, FromZero, Needs, OrNone, Seed, Share, Size, Workers, halves

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16"]
CARRACING = "worldmodels/CarRacing-v3"  # our fast simulator; "CarRacing-v3" is Gymnasium's own
TAKECOVER = "worldmodels/TakeCover-v0"


@dataclass(frozen=True)
class Collection:
    """Which episodes are gathered."""

    rollouts: Annotated[int, Ge(1), Lt(10**7)] = 1000
    """Episodes in the folder when the command is done; an interrupted collection continues."""
    threads: Workers = 0
    """Worker processes (0: one per core)."""
    policy: Literal["brown", "white", "gas", "held", "legs", "stays", "mixed", "agent"] = "brown"
    """brown: a random walk of the action; white: the space's own samples; gas: smooth steering with the foot on the
    gas, which really drives; held: random actions for 1-10 steps (paper, Take Cover); legs: to and fro for 30-149
    steps; stays: random actions for 30-399 steps; mixed: every episode one of these three; agent: the trained V, M and
    C of --logdir."""
    start: Literal["line", "anywhere"] = "line"
    """anywhere: begin on a random tile at a random speed (our simulator only), so that V and M see the whole track."""
    max_steps: Count | None = None
    """Cut episodes after so many steps (the environment's own limit otherwise)."""
    longer_than: OrNone = 0
    """Keep only episodes of more steps than this; for a shorter one another is driven (paper, Take Cover: 100)."""


AGENT = Needs("--policy agent", lambda collect: collect.policy == "agent")


@dataclass(frozen=True)
class Collect(Collection):
    """Drive with a random policy (or a trained agent) and store the episodes."""

    rootdir: str | None = None
    """Folder of the episodes, one compressed .npz file each (None: datasets/ and the environment's name; with --policy
    agent datasets/driven)."""
    env: str = CARRACING
    """Any Gymnasium id with image observations."""
    logdir: Annotated[str, AGENT] = "exp_dir"
    """Where the agent of `--policy agent` was trained."""
    format: Literal["npz", "minari"] = "npz"
    """minari: also export the episodes to <rootdir>/minari for other offline-RL tools."""
    noreload: bool = False
    """Delete the rollouts that are already there and start over."""
    seed: Seed = 0
    device: Annotated[Device, AGENT] = "auto"
    ray: str | None = None
    """Drive on a Ray cluster: auto (the one this machine belongs to), local (one for this command), or HOST:PORT of its
    head. Needs the extra `ray`."""

    @property
    def folder(self) -> Path:
        """`rootdir`."""
        return Path(self.rootdir or ("datasets/driven" if self.policy == "agent" else episodes_of(self.env)))


def episodes_of(env_id: str) -> str:
    """The folder of an environment's episodes where none is said: worldmodels/TakeCover-v0 → datasets/takecover."""
    name = re.sub(r".*[:/]|-v\d+$", "", env_id)
    return f"datasets/{name.lower()}"


@dataclass(frozen=True)
class Training:
    """What V and M have in common when they learn."""

    epochs: OrNone = 10
    """Passes over the training data; 0 leaves the model untrained (an ablation)."""
    batch_size: Count = 100
    learning_rate: Above = 1e-4
    test_fraction: Share = 0.1
    """Share of the episodes held back to measure the loss, the same ones for V and M."""
    anneal: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the training, at its end, in which the learning rate falls to zero, along half a cosine (the paper's
    stays as it is)."""
    patience: OrNone = 5
    """Halve the learning rate after so many epochs without progress on the test episodes."""
    stop_after: Count = 30
    """Stop after so many epochs without progress."""
    precision: Precision = "auto"
    """Arithmetic of V's convolutions and of M's LSTM; auto: bfloat16 on a GPU and on processors that have it, else
    float32."""
    checkpoint_seconds: FromZero = 60.0
    """Time between checkpoints inside an epoch."""
    nosamples: bool = False
    """Write no pictures: V's samples and reconstructions, M's dream beside the real sequence."""
    micro_batches: Annotated[OrNone, Predicate(halves)] = 0
    """Parts of a batch, 1, 2, 4, …, that as many processes of torchrun can share; they decide on the last bits, and the
    processes do not (0: as the training began; a new one, one per process)."""


OWN = Needs("first weights of its own", lambda vae: getattr(vae, "warm", None) is None, "leave --warm out")


@dataclass(frozen=True)
class VAETraining(Training):
    """How V learns."""

    z_size: Size = 32
    """Numbers in z (paper: 32 for CarRacing, 64 for Take Cover)."""
    free_bits: FromZero = 0.5
    """KL is not pushed below this many nats per dimension, on the total (paper's code: 0.5); 0 is the plain VAE."""
    motion: FromZero = 0.0
    """So much more weighs the error of pixels that changed since the frame before, the whole picture's change apart:
    small things in flight are learned first (0: all pixels alike, as the paper)."""
    init: Annotated[Literal["pytorch", "he"], OWN] = "pytorch"
    """The first weights; he: scaled for ReLU (He et al. 2015), which learns faster."""


@dataclass(frozen=True)
class FromEpisodes:
    """Where V and M read and write."""

    logdir: str = "exp_dir"
    """Where V and M live; a model that is already there is continued."""
    rootdir: str = "datasets/carracing"
    """Folder of the episodes (with a preset: that of its environment)."""
    noreload: bool = False
    """Start the model over."""
    seed: Seed = 0
    device: Device = "auto"


@dataclass(frozen=True)
class TrainVAE(FromEpisodes, VAETraining):
    """Train V, the variational auto-encoder, on the collected frames."""

    warm: str | None = None
    """Begin with the V of this run directory instead of with random weights."""


@dataclass(frozen=True)
class MDRNNTraining(Training):
    """How M learns."""

    epochs: OrNone = 40
    """Passes over the training transitions (the paper's 4,000 updates see each of its transitions about 40 times);
    0 leaves M untrained (an ablation)."""
    batch_size: Count = 100
    """Sequences per batch."""
    learning_rate: Above = 1e-3
    include_reward: bool = False
    """Also predict the reward."""
    include_terminal: bool = False
    """Also predict whether the episode ends."""
    include_restart: bool = False
    """M also reads whether the episode begins at this step (the paper's Take Cover)."""
    reward_scale: Annotated[Above, Needs("--include-reward", lambda mdrnn: mdrnn.include_reward)] = 1.0
    """The reward that counts as one in M's loss: about the spread of the environment's rewards."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of h hidden from M's head, another one in every sequence and in every dream (Dropout's Dream Land: 0.1)."""
    discount: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Also predict the value, what later steps will pay, each worth so much of the one before (0: no such head)."""
    starts: Count = 1024
    """States kept in mdrnn/starts.safetensors, from which dreams begin."""
    mixture: Literal["dimension", "shared"] = "dimension"
    """dimension: a mixture for each number of z (paper); shared: one mixture over the whole of z (ctallec's port)."""
    hidden_size: Size = 256
    """Numbers in h (paper: 256 for CarRacing, 512 for Take Cover)."""
    gaussians: Size = 5
    sequence_length: Count = 1000
    """Steps per sequence; shorter episodes are masked (paper: whole episodes)."""
    clip: Above = 1.0
    """Gradients are clipped to ±this, number by number (paper's code)."""


@dataclass(frozen=True)
class TrainMDRNN(FromEpisodes, MDRNNTraining):
    """Train M, the mixture density recurrent network, on the episodes as V sees them."""


FRAGMENTS = Needs("--max-steps or --start anywhere", lambda evolution: evolution.max_steps or evolution.start != "line")
DREAM = Needs("--dream", lambda evolution: evolution.dream)
REAL = Needs("--no-dream", lambda evolution: not evolution.dream)
GENERATIONS = Needs("--epochs above it", lambda evolution: evolution.whole_after < evolution.epochs)


@dataclass(frozen=True)
class Evolution:
    """How C evolves."""

    n_samples: Count = 16
    """Rollouts that score one candidate; all candidates of a generation drive the same tracks."""
    pop_size: Annotated[int, Ge(3), Lt(10**6)] = 64
    """Candidates per generation."""
    target_return: float | None = None
    """Stop when the mean of the distribution scores this much on the selection tracks (None: 950 in CarRacing, never
    elsewhere)."""
    max_workers: Workers = 0
    """Worker processes (0: one per GPU; without a GPU one for our own simulator and for the dream, one per core for any
    other)."""
    epochs: OrNone = 1800
    """Generations."""
    env_steps: Annotated[int, Ge(0)] = 0
    """Stop after so many steps of the environment (0: never)."""
    batch_size: Count = 64
    """Lanes of one worker: episodes driven side by side. In the dream it has 64 for each of its threads."""
    dream: bool = False
    """Evolve in the dream: candidates drive inside M (trained with --include-reward; in Take Cover, where each step
    pays 1, with --include-terminal); only the selection tracks are real."""
    temperature: Annotated[FromZero, DREAM] = 1.0
    """Of the dream: 1 is M's own uncertainty, more makes C careful, 0 is none (paper: 1.15 in Take Cover)."""
    death: Annotated[float, Ge(-100), Lt(100), DREAM] = 0.0
    """M's logit of the end above which a dream ends (paper's code: 0); where good players dream on for longer than they
    live, a lower one shortens their dreams."""
    horizon: Annotated[Count, DREAM] = 250
    """Steps of a dream, if it does not end before."""
    strategy: Literal["cma", "sep-cma", "openai-es", "pgpe"] = "cma"
    """cma: CMA-ES, the paper's; sep-cma: with a diagonal covariance; openai-es; pgpe: with ClipUp."""
    sigma: Above = 0.1
    """First step size."""
    sigma_decay: Annotated[Above, Needs("--strategy openai-es or pgpe", lambda c: "cma" not in c.strategy)] = 1.0
    """Multiplies the step sizes of openai-es and pgpe in every generation (CMA-ES adapts its own)."""
    directions: OrNone = 0
    """Search this many principal directions of [z, h], each scaled to unit variance (0: all weights, as the paper)."""
    inputs: Literal["z", "zh", "zch"] = "zh"
    """What C sees: z alone, z and h (paper, CarRacing), or z, c and h (paper, Take Cover)."""
    hidden: Annotated[int, Ge(0), Lt(10**5)] = 0
    """Give C a hidden layer of so many tanh units (0: linear, the paper's driver; its ablation of z alone has one)."""
    sample_z: bool = False
    """Act on a sample of z (the paper's code) instead of its mean."""
    start: Literal["line", "anywhere"] = "line"
    """anywhere: candidates begin on a random tile at a random speed (our simulator only)."""
    max_steps: Annotated[Count | None, REAL] = None
    """Cut training episodes after so many steps (selection drives whole episodes)."""
    give_up: Annotated[OrNone, REAL] = 0
    """End a training episode after so many steps without a reward above zero, and score the rest as if it went on like
    that (0: drive every episode to its end, as the paper)."""
    whole_after: Annotated[OrNone, REAL, FRAGMENTS, GENERATIONS] = 0
    """With --start anywhere or --max-steps: generations after which training episodes are whole, from the line to their
    end (0: never). Fragments teach driving quickly, but make light of crashes and missed tiles."""
    select_every: Count = 10
    """Generations between evaluations of the distribution's mean on the selection tracks: what `best` means."""
    average: Count = 1
    """Evaluate, and keep, the average of the distribution's mean over so many generations (the paper: the last)."""
    select_tracks: Annotated[int, Ge(1), Le(50_000)] = 16
    """Selection tracks: never used for training, never for the final evaluation."""
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Arithmetic in which V encodes training frames; auto: int8 on processors that multiply such integers fast (VNNI),
    bfloat16 on a GPU and on processors that have it, else float32. `evaluate` always takes float32."""


@dataclass(frozen=True)
class WithModels:
    """Where C lives and drives."""

    logdir: str = "exp_dir"
    """Where V and M were trained and C will live; a C that is already there is continued."""
    env: str = CARRACING
    """Any Gymnasium id with image observations."""
    noreload: bool = False
    """Start C over, with the M that train-mdrnn left."""
    seed: Seed = 0


@dataclass(frozen=True)
class TrainController(WithModels, Evolution):
    """Evolve C, the linear controller, with V and M held fixed."""

    warm: str | None = None
    """Begin as the best driver of this run directory, carried over to V and M as they are here (C of [z, h], the same
    sizes): it drives 16 training episodes, and in their states C is to do what it did."""
    display: bool = False
    """Print a line for every candidate's score, and the mean's."""
    device: Device = "auto"
    ray: str | None = None
    """Drive on a Ray cluster: auto, local, or HOST:PORT of its head."""


ANYWHERE = Needs("--start anywhere", lambda dreaming: dreaming.start == "anywhere")
PARTS = Needs("--whole below --episodes", lambda d: d.start == "line" or d.whole < d.episodes)
ROUNDS = Needs("--rounds above it", lambda dreaming: dreaming.afresh < dreaming.rounds)


@dataclass(frozen=True)
class Dreaming:
    """How C learns in the dream."""

    rounds: OrNone = 60
    """Rounds: C climbs in the dream, its population drives real episodes, and M learns from them."""
    afresh: Annotated[OrNone, ROUNDS] = 0
    """Begin another C from nothing after so many rounds, in the M that the first one taught (0: never): a C can be
    stuck where M is not. The best of both is kept."""
    horizon: Count = 40
    """Steps of a dream; what would come after them is M's value of its last state."""
    dreams: Count = 128
    """Dreams side by side, whose mean C climbs."""
    climbs: Count = 20
    """Steps of C in a round."""
    step_size: Above = 3e-3
    """How far a weight of C moves in one of them, about (Adam); falls by 4% each round, to a sixth."""
    discount: Share = 0.995
    """Of M's value in the end. M may be trained with a lower one, since what looks less far ahead is learned sooner,"""
    farther: OrNone = 20
    """and comes to look so far in this many rounds."""
    supply: FromZero = 0.0
    """Rewards that an episode has to give, about: what is paid is taken from it, so that to be quick pays little and to
    be lost costs all that is left (0: without end)."""
    temperature: FromZero = 1.0
    """Of the dream: 1 is M's own uncertainty."""
    gate: Annotated[float, Ge(1), Lt(10**9)] = 1.5
    """C rests for a round when the dream promised so many times what the same candidates were then paid."""
    episodes: Annotated[int, Ge(2), Lt(10**6)] = 16
    """Real episodes of a round, each driven by another candidate; the first two by C itself."""
    start: Annotated[Literal["line", "anywhere"], PARTS] = "line"
    """anywhere: all but `whole` of them begin on a random tile at a random speed (our simulator only) and are
    `fragment` long."""
    whole: Annotated[Count, ANYWHERE] = 4
    """Episodes of a round that are whole in any case."""
    fragment: Annotated[Count, ANYWHERE, PARTS] = 400
    """Steps of an episode that begins anywhere."""
    spread: FromZero = 0.1
    """Standard deviation of the candidates' weights around C's, in dreams and on the road; falls by 4% each round, to a
    quarter."""
    waver: FromZero = 0.15
    """Standard deviation of smooth noise on the outputs of every other candidate: so M sees trouble, and ways out."""
    give_up: OrNone = 60
    """End an episode after so many steps without a reward above zero (0: never)."""
    updates: Count = 60
    """Of M in a round."""
    batch_size: Count = 24
    """Sequences per update."""
    sequence_length: Count = 100
    """Steps per sequence."""
    learning_rate: Above = 1e-3
    """Of M; falls by 4% each round, to a tenth."""
    select_every: Count = 15
    """Rounds between evaluations of C on the selection tracks: what `best` means."""
    select_tracks: Annotated[int, Ge(1), Le(50_000)] = 16
    """Selection tracks: never used for training, never for the final evaluation."""
    average: Count = 5
    """Evaluate, and keep, the average of C over about so many rounds (1: C itself)."""
    precision: Precision = "auto"
    """Arithmetic in which V encodes the frames of the rounds; auto: bfloat16 on processors that have it, else float32.
    `evaluate` always takes float32."""


@dataclass(frozen=True)
class TrainInDream(WithModels, Dreaming):
    """Let C learn in M's dream, in rounds that show M what C tries; V is held fixed."""


@dataclass(frozen=True)
class Evaluation:
    """Which episodes score a driver."""

    env: str | None = None
    """Where to drive (None: where C was trained; our CarRacing draws Gymnasium's own frames for it, every pixel)."""
    episodes: Annotated[int, Ge(1), Lt(10**6)] = 100
    seed: Seed = 1_000_000
    """Of the first episode; the others have the seeds that follow. Held-out tracks and games start at 1,000,000."""
    video: bool = False
    """Write an mp4 of the first episode."""
    max_workers: Workers = 0
    """Worker processes (0: one per core)."""
    max_steps: Count | None = None
    """Cut episodes after so many steps (scores of cut episodes are not comparable)."""


@dataclass(frozen=True)
class OfRun:
    """Whose driver it is."""

    logdir: str = "exp_dir"
    """The run."""
    pretrained: str | None = None
    """Take weights that come with the package, by their name, instead of a run's."""


@dataclass(frozen=True)
class Evaluate(OfRun, Evaluation):
    """Drive held-out episodes with the trained agent, or any policy; what comes of it is kept in evaluation/."""

    policy: str | None = None
    """Evaluate a policy of your own instead: module:name or file.py:name, a callable observation → action (or a class
    of such) with an optional reset (docs/protocol.md)."""
    output: str | None = None
    """Folder for evaluation.json and the video (the logdir otherwise; evaluation-NAME with --pretrained, --policy)."""
    render: bool = False
    """Watch: a window where there is a display, an mp4 where there is none."""
    device: Device = "auto"
    ray: str | None = None
    """Drive on a Ray cluster: auto, local, or HOST:PORT of its head."""


@dataclass(frozen=True)
class Report:
    """Write report.html: one page of curves, reconstructions, a dream, the scores and a drive."""

    logdir: str = "exp_dir"
    """The run to report on."""


@dataclass(frozen=True)
class Play(OfRun):
    """Drive inside the dream of a run, in the browser; served on this machine alone."""

    port: Annotated[int, Ge(1), Lt(65536)] = 8000
    """Where the page is served; the next free port when it is taken."""
    no_browser: bool = False
    """Print the address only."""


@dataclass(frozen=True)
class Export(OfRun):
    """Write the page that drives in a run's dream, for any web host, or the run's networks as ONNX."""

    to: str = "playground"
    """A folder, or a file that ends in .html: the whole page in one file."""
    format: Literal["page", "onnx"] = "page"
    """page: the playground; onnx: encoder, decoder, M's step and C for other tools (needs the extra `export`)."""
