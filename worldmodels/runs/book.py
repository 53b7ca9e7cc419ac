"""The scores of an evaluation, on disk as they come: what a driver has driven somewhere is not driven again."""

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from worldmodels.errors import UserError
from worldmodels.runs.directory import RunDir
from worldmodels.runs.files import read_json, write_atomically, write_json
from worldmodels.runs.metrics import is_number

AROUND = 0.95  # of the tiles: Gymnasium's lap_complete_percent


class Score(NamedTuple):
    """What one episode came to."""

    score: float
    """Sum of the rewards."""
    length: int
    """Steps."""
    ending: str
    """`worldmodels.rollout.ending`"""

    @property
    def crashed(self) -> bool:
        """In an environment of laps: off the playfield, or not around when time was up.

        A lap pays 1,000 for all its tiles and takes 0.1 per step, so the score says which share of them was visited.
        """
        return self.ending == "off" or (self.ending == "time" and self.score + 0.1 * self.length < 1000 * AROUND)


class Book:
    """The scores of one evaluation, with what earlier ones of the same driver have left, finished or not."""

    def __init__(self, folder: RunDir, key: dict[str, Any], seeds: range, episode: str = "episode"):
        """
        Args:
            folder: where it is kept.
            key: what drives where, as JSON: everything that a score depends on besides the seed.
            seeds: of the episodes that are asked for.
            episode: what people call one there.
        """
        self.folder, self.key, self.seeds, self.episode = folder, key, seeds, episode
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
        name = re.sub(r"[^-\w.]", "_", key["env"])
        self.path = folder.evaluations / f"{name}_{seeds[0]}+{len(seeds)}_{digest}.json"
        self.scores: dict[int, Score] = {}  # by seed
        self.video: dict[str, Any] | None = None  # the drive that the video shows: file, seed, score, length
        for path in [folder.evaluation, *sorted(folder.evaluations.glob("*.json"))]:
            with contextlib.suppress(UserError, KeyError, TypeError, ValueError, AttributeError):  # missing or foreign
                self.take(read_json(path))

    def take(self, found: dict[str, Any]) -> None:
        """Enter what an evaluation holds, if it is of the same driver."""
        if any(found[part] != value for part, value in self.key.items()):
            return
        columns = (found[name] for name in ("seeds", "scores", "lengths", "endings"))
        self.scores |= {
            seed: Score(float(score), int(length), ending)
            for seed, score, length, ending in zip(*columns, strict=True)
            if is_number(score) and is_number(length) and isinstance(ending, str)
        }
        if found["video"] and found["video"]["seed"] == self.seeds[0] and found["video"]["file"] in self.films:
            self.video = found["video"]

    @property
    def missing(self) -> list[int]:
        return [seed for seed in self.seeds if seed not in self.scores]

    @property
    def driven(self) -> list[Score]:
        """The scores of what is asked for, as far as they are known."""
        return [self.scores[seed] for seed in self.seeds if seed in self.scores]

    @property
    def films(self) -> set[str]:
        """Every video in the folder, relative to it: no other file is taken for one."""
        films = [self.folder.video, *self.folder.evaluations.glob("*.mp4")]
        return {film.relative_to(self.folder.path).as_posix() for film in films if film.exists()}

    @property
    def film(self) -> Path:
        """The video: every evaluation has its own."""
        return self.folder.path / self.video["file"] if self.video else self.path.with_suffix(".mp4")

    @property
    def filmed(self) -> bool:
        """Whether the video of this evaluation is there."""
        return self.video is not None and self.film.exists()

    def add(self, scores: dict[int, Score]) -> None:
        """Enter scores by seed, and save."""
        self.scores |= scores
        write_json(self.path, {**self.key, **self.columns(), "video": self.video})

    def columns(self) -> dict[str, list[Any]]:
        """Seeds, scores, lengths and endings, an entry per episode; None where it has not been driven."""
        rows = [self.scores.get(seed, (None, None, None)) for seed in self.seeds]
        scores, lengths, endings = (list(column) for column in zip(*rows, strict=True))
        return {"seeds": list(self.seeds), "scores": scores, "lengths": lengths, "endings": endings}

    def close(self, result: dict[str, Any]) -> Path:
        """Keep the finished evaluation; where it is: evaluation.json stays if it says more about the same driver."""
        if not self.path.exists() or read_json(self.path) != result:
            write_json(self.path, result)
        with contextlib.suppress(UserError, KeyError, TypeError):
            there = read_json(self.folder.evaluation)
            says_more = there["max_steps"] is None, there["episodes"]
            if there["model"] == result["model"] and says_more > (result["max_steps"] is None, result["episodes"]):
                print(f"{self.folder.evaluation} keeps the evaluation over {there['episodes']} {self.episode}s.")
                return self.path
        write_json(self.folder.evaluation, result)
        if self.filmed and self.film != self.folder.video:
            write_atomically(self.folder.video, self.film.read_bytes())
        return self.folder.evaluation
