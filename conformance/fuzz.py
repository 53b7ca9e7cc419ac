"""Random use of our simulator beside the same use of Gymnasium's: the first difference, made small.

    python -m conformance.fuzz --cases 40             # random cases
    python -m conformance.fuzz --seed 7 --keep DIR    # others; what differs is shrunk and kept there as JSON
    python -m conformance.fuzz --controls             # a broken tile, pixel and generator: each must be found

A case is a batch with its constructor's arguments and what is done to it, resets amid episodes included. After every
step observations (exact frames, wherever Gymnasium is asked to draw), rewards, flags, infos and the lanes' generators
must be the same. What differs is cut down as long as it still differs: shorter, fewer lanes, plainer arguments and
actions. A minimal case belongs into tests/envs/cases, where it is driven as a test.

Legend: N lanes.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from conformance.arguments import count
from worldmodels.cli import as_a_command
from worldmodels.envs.carracing import CarRacingVectorEnv, track
from worldmodels.envs.carracing.batch import Batch

CASES = Path(__file__).parent.parent / "tests" / "envs" / "cases"
BLANK = np.zeros((96, 96, 3), np.uint8)


@dataclass(frozen=True)
class Event:
    """One call: a reset, or a step with an action per lane."""

    actions: list | None = None  # (N,3) numbers or (N,) choices; None: a reset
    look: bool = False  # compare this step's frames (Gymnasium takes a hundred times longer to draw than to drive)
    seeds: list | None = None  # of a reset: one per lane, or null
    mask: list | None = None  # of a reset: which lanes; null: all
    randomize: bool | None = None  # of a reset: Gymnasium's option


@dataclass(frozen=True)
class Case:
    """What is done with a batch; JSON holds its fields."""

    lanes: int
    events: tuple[Event, ...]
    mode: str = "NextStep"
    continuous: bool = True
    domain_randomize: bool = False
    lap_complete_percent: float = 0.95
    max_episode_steps: int | None = 1000

    @property
    def arguments(self) -> dict[str, Any]:
        """Of Gymnasium's constructor and ours."""
        return {
            "continuous": self.continuous,
            "domain_randomize": self.domain_randomize,
            "lap_complete_percent": self.lap_complete_percent,
        }

    def write(self, path: Path) -> None:
        """Keep it as JSON, without what has its default."""
        plain = {f.name: f.default for f in dataclasses.fields(Event)}
        case = dataclasses.asdict(self)
        case["events"] = [{k: v for k, v in event.items() if v != plain[k]} for event in case["events"]]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(case) + "\n")

    @staticmethod
    def read(path: Path) -> "Case":
        """What `write` wrote."""
        case = json.loads(path.read_text())
        return Case(**case | {"events": tuple(Event(**event) for event in case["events"])})


class Sparing(CarRacing):
    """Gymnasium's CarRacing that draws only while it is looked at."""

    looking = True

    def _render(self, mode: str) -> np.ndarray:
        return super()._render(mode) if Sparing.looking else BLANK


# ------------------------------------------------------------------------------------------------- drawing cases


def random_case(rng: np.random.Generator) -> Case:
    """A case of 1 to 3 lanes and some dozens of steps."""
    lanes, continuous = int(rng.integers(1, 4)), bool(rng.random() < 0.7)
    events = [random_reset(rng, lanes, first=True)]
    length = int(rng.choice([8, 25, 80, 250]))
    looks = set(rng.integers(length, size=8).tolist())
    for step in range(length):
        if step % 12 == 0:
            held = random_actions(rng, lanes, continuous)
        if rng.random() < 0.02:
            events.append(random_reset(rng, lanes))
        events.append(Event(actions=held, look=step in looks))
    return Case(
        lanes,
        tuple(events),
        mode=str(rng.choice([mode.value for mode in AutoresetMode])),
        continuous=continuous,
        domain_randomize=bool(rng.random() < 0.4),
        lap_complete_percent=float(rng.choice([0.95, 0.0, 0.02])),
        max_episode_steps=[1000, 7, 40][int(rng.integers(3))],
    )


def random_reset(rng: np.random.Generator, lanes: int, first: bool = False) -> Event:
    """Seeds for some lanes, maybe only some lanes, maybe Gymnasium's option."""
    seeds = [int(rng.integers(1_000_000)) if first or rng.random() < 0.5 else None for _ in range(lanes)]
    mask = rng.random(lanes) < 0.6
    # a first reset that kept its colours would show those of the constructor, drawn from a generator that nobody seeds
    options = {"seeds": seeds, "randomize": [None, True, False][int(rng.integers(2 if first else 3))]}
    return Event(mask=None if first or not mask.any() else mask.tolist(), **options)


def random_actions(rng: np.random.Generator, lanes: int, continuous: bool) -> list:
    """What each lane does for a while; numbers beyond the action space now and then."""
    if not continuous:
        return rng.choice(5, lanes, p=[0.1, 0.15, 0.15, 0.5, 0.1]).tolist()
    straight = np.array([0.0, 1.0, 0.0])
    actions = [straight if rng.random() < 0.3 else rng.uniform([-1, 0, -0.5], 1) for _ in range(lanes)]
    if rng.random() < 0.1:
        actions[0] = np.array([rng.normal(0, 5), rng.normal(0, 5), rng.normal(0, 5)])
    return np.stack(actions).astype(np.float32).round(3).tolist()


# ------------------------------------------------------------------------------------------------- comparing


def difference(case: Case) -> str:
    """Do it to both; the first difference, or ""."""
    mode = AutoresetMode(case.mode)

    def make() -> TimeLimit:
        return TimeLimit(OrderEnforcing(Sparing(**case.arguments)), case.max_episode_steps or sys.maxsize)

    Sparing.looking = True
    theirs = SyncVectorEnv([make] * case.lanes, autoreset_mode=mode)
    ours = CarRacingVectorEnv(
        case.lanes,
        autoreset_mode=mode,
        frames="exact",
        max_episode_steps=case.max_episode_steps,
        **case.arguments,
    )
    ended = np.zeros(case.lanes, np.bool_)
    fresh = np.zeros(case.lanes, np.bool_)  # lanes whose frame Gymnasium has drawn
    try:
        for index, event in enumerate(case.events):
            if event.actions is not None and mode is AutoresetMode.DISABLED and ended.any():
                found, fresh = reset_both(ours, theirs, Event(seeds=[None] * case.lanes, mask=ended.tolist()), fresh)
                if found:
                    return f"event {index}, the reset before it: {found}"
            if event.actions is None:
                found, fresh = reset_both(ours, theirs, event, fresh)
                ended &= ~np.array(event.mask or [True] * case.lanes)
            else:
                Sparing.looking = event.look
                fresh = np.full(case.lanes, event.look)
                actions = np.array(event.actions, np.float32 if case.continuous else np.int64)
                answers = ours.step(actions), theirs.step(actions)
                found = first_difference(answers, ("frame", "reward", "terminated", "truncated", "info"), fresh)
                ended = answers[0][2] | answers[0][3]
            if not found:
                states = [[g.bit_generator.state for g in env.np_random] for env in (ours, theirs)]
                found = "generator" if states[0] != states[1] else ""
            if found:
                return f"event {index}: {found}"
        return ""
    finally:
        Sparing.looking = True
        ours.close(), theirs.close()


def reset_both(ours: Any, theirs: Any, event: Event, fresh: np.ndarray) -> tuple[str, np.ndarray]:
    """Reset with everything drawn; the first difference, and the lanes whose frame Gymnasium has drawn."""
    Sparing.looking = True
    options = {} if event.randomize is None else {"randomize": event.randomize}
    if event.mask is not None:
        options["reset_mask"] = np.array(event.mask)
    seeds = event.seeds or [None] * len(fresh)
    answers = [env.reset(seed=list(seeds), options=dict(options)) for env in (ours, theirs)]
    fresh = np.ones_like(fresh) if event.mask is None else fresh | np.array(event.mask)
    return first_difference((answers[0], answers[1]), ("frame", "info"), fresh), fresh


def first_difference(answers: tuple, names: tuple[str, ...], fresh: np.ndarray) -> str:
    """The name of the first part of two answers that is not the same in every bit and type."""
    for name, ours, theirs in zip(names, *answers, strict=True):
        if name == "frame":
            ours, theirs = ours[fresh], theirs[fresh]
        if not same(ours, theirs, fresh):
            return name
    return ""


def same(ours: Any, theirs: Any, fresh: np.ndarray) -> bool:
    """Equal values of equal types; frames that Gymnasium has not drawn are left out."""
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key], fresh) for key in theirs)
    if isinstance(theirs, np.ndarray):
        if theirs.dtype == object:  # an array of final observations
            pairs = zip(ours, theirs, fresh, strict=True)
            return all(same(a, b, fresh) for a, b, drawn in pairs if drawn or not isinstance(b, np.ndarray))
        return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    return type(ours) is type(theirs) and ours == theirs


# -------------------------------------------------------------------------------------------------- shrinking


def shrink(case: Case, differs: Callable[[Case], bool], seconds: float = 300.0) -> Case:
    """The smallest case that still differs, as far as `seconds` reach: each step of it alone is needed."""
    deadline = time.monotonic() + seconds
    progress = True
    while progress and time.monotonic() < deadline:
        progress = False
        for smaller in reductions(case):
            if time.monotonic() > deadline:
                break
            if differs(smaller):
                case, progress = smaller, True
                break
    return case


def reductions(case: Case) -> Iterator[Case]:
    """Smaller and plainer versions of a case, the boldest first."""
    replace = dataclasses.replace
    size = len(case.events) // 2
    while size:
        for start in range(len(case.events) - size, 0, -size):  # the first event stays: it is the first reset
            yield replace(case, events=case.events[:start] + case.events[start + size :])
        size //= 2
    for lane in range(case.lanes if case.lanes > 1 else 0):
        yield replace(case, lanes=case.lanes - 1, events=tuple(without(event, lane) for event in case.events))
    for field in dataclasses.fields(Case):
        plain = field.default
        if plain is not dataclasses.MISSING and field.name != "continuous" and getattr(case, field.name) != plain:
            yield replace(case, **{field.name: plain})
    for index, event in enumerate(case.events):
        simple = plainer(event)
        if simple != event:
            yield replace(case, events=case.events[:index] + (simple,) + case.events[index + 1 :])


def without(event: Event, lane: int) -> Event:
    """The event for one lane less."""
    cut = {name: getattr(event, name) for name in ("actions", "seeds", "mask")}
    cut = {name: value and value[:lane] + value[lane + 1 :] for name, value in cut.items()}
    if cut["mask"] is not None and not any(cut["mask"]):
        cut["mask"] = None
    return dataclasses.replace(event, **cut)


def plainer(event: Event) -> Event:
    """The event with zeros for its numbers, looked at or not as before."""
    if event.actions is not None:
        return dataclasses.replace(event, actions=(np.array(event.actions) * 0).tolist())
    return dataclasses.replace(event, seeds=event.seeds and [seed and 0 for seed in event.seeds], randomize=None)


# ------------------------------------------------------------------------------------------------- controls


@contextmanager
def broken(what: str) -> Iterator[None]:
    """Our simulator with a fault that the fuzz must find."""
    begin, advance, generate = Batch.begin, Batch.advance, track.generate

    def with_tile(generator, tracks, lane):
        count = generate(generator, tracks, lane)
        tracks.polygon[lane, 2] += np.float32(0.5)  # one tile, half a unit off, where wheels feel it
        return count

    def with_pixel(self, *arguments, **keywords):
        answer = advance(self, *arguments, **keywords)
        shown = keywords.get("copy", arguments[2] if len(arguments) > 2 else None)
        (self.frames if shown is None else shown)[-1, 40, 40, 1] ^= 1  # one bit of one pixel
        return answer

    def with_draw(self, lanes, generators, start):
        begin(self, lanes, generators, start)
        generators[0].random()  # one number too many

    try:
        if what == "tile":
            track.generate = with_tile
        elif what == "pixel":
            Batch.advance = with_pixel  # type: ignore[method-assign]
        else:
            Batch.begin = with_draw  # type: ignore[method-assign]
        yield
    finally:
        Batch.begin, Batch.advance, track.generate = begin, advance, generate  # type: ignore[method-assign]


def controls(seconds: float = 60.0) -> Iterator[tuple[str, Case | None]]:
    """Each fault with the minimal case that shows it (None: it was not found)."""
    for what in ("tile", "pixel", "generator"):
        rng = np.random.default_rng(0)
        with broken(what):
            found = next((case for case in (random_case(rng) for _ in range(20)) if difference(case)), None)
            yield what, found and shrink(found, lambda case: bool(difference(case)), seconds)


def run(cases: int, seed: int = 0, keep: Path | None = None) -> list[str]:
    """Random cases; a sentence per difference, each shrunk and kept."""
    rng = np.random.default_rng(seed)
    found, steps, looks = [], 0, 0
    for number in range(cases):
        case = random_case(rng)
        what = difference(case)
        steps += case.lanes * sum(event.actions is not None for event in case.events)
        looks += case.lanes * sum(event.look for event in case.events)
        if what:
            small = shrink(case, lambda case: bool(difference(case)))
            sentence = (
                f"case {number} of seed {seed}: {what}; made small, {len(small.events)} events: {difference(small)}"
            )
            if keep is not None:
                small.write(keep / f"seed{seed}_case{number}.json")
            print(sentence, flush=True)
            found.append(sentence)
    print(f"{cases} cases, {steps} steps, {looks} frames looked at besides those of resets: {len(found)} differ")
    return found


def main() -> int:
    """Command line; exit code 1 when something differs, or when a control was not found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=count, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=CASES, help="where minimal cases go")
    parser.add_argument("--controls", action="store_true", help="break the simulator and see that it is found")
    options = parser.parse_args()
    if not options.controls:
        return int(bool(run(options.cases, options.seed, options.keep)))
    missed = 0
    for what, case in controls():
        events = f"found, {len(case.events)} events, {case.lanes} lanes" if case else "NOT FOUND"
        print(f"broken {what}: {events}", flush=True)
        missed += case is None
    return int(missed > 0)


if __name__ == "__main__":
    with as_a_command():
        sys.exit(main())
