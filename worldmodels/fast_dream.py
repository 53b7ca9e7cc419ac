"""Many dreams side by side on the CPU: the rule of dream.py, about twice as fast as PyTorch alone.

Shapes: N lanes (dreams side by side), B some of them, E episodes, Z latent, A action, H hidden, K mixtures, O C's
outputs, P population.

Matrix products in PyTorch, gates, sampling and C in `dream_kernels`. Noise is no state: it is a function of (the lane's
key, step), so all who dream with one key meet the same luck, and a lane depends on its key and actions alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from worldmodels import dream_kernels, memory
from worldmodels.controller import Controller
from worldmodels.envs.actions import Actions
from worldmodels.errors import UserError
from worldmodels.workers.places import ROWS, torch_threads

BLOCK = 64  # lanes of one matrix product, at most


class Dreams:
    """N dreams side by side on the CPU, advanced together; a lane that is over rests.

    Products are of `BLOCK` lanes at most, one thread each: what a lane dreams depends neither on N, nor on its place,
    nor on the number of threads (on one kind of processor).
    """

    def __init__(
        self,
        mdrnn: memory.MDRNN,
        lanes: int,
        *,
        temperature: float = 1.0,
        death: float = memory.DEATH_LOGIT,
        threads: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        """
        Args:
            mdrnn: M, on the CPU.
            lanes: N.
            temperature: of all the dreams.
            death: M's logit of the end above which a dream ends.
            threads: that share the lanes.
            dtype: of the matrix products; bfloat16 pays on processors that have it.

        Raises:
            UserError: a temperature below 0 or not finite, or no lane.
        """
        if not 0 <= temperature < 1e30:  # finite in float32
            raise UserError(f"temperature is {temperature}: give 0 (no noise) or a finite number above it.")
        if lanes < 1:
            raise UserError(f"{lanes} dreams side by side: give at least 1.")
        if threads < 1:
            raise UserError(f"{threads} threads: give at least 1.")
        self.mdrnn, self.lanes, self.temperature, self.dtype = mdrnn, lanes, np.float32(temperature), dtype
        self.death = np.float32(death)
        self.first_h = mdrnn.z_size + mdrnn.action_size + mdrnn.include_restart
        # What the LSTM reads, one row a lane: z, action, restart, h.
        self.x = np.zeros((lanes, self.first_h + mdrnn.hidden_size), dtype=np.float32)
        # Views of the state, float32; writing to them moves the dream: (N, Z), (N, A), (N, H), (N, H).
        self.z, self.h = self.x[:, : mdrnn.z_size], self.x[:, self.first_h :]
        self.actions = self.x[:, mdrnn.z_size : mdrnn.z_size + mdrnn.action_size]
        self.c = np.zeros_like(self.h)
        self.mask = np.ones_like(self.h) if mdrnn.dropout else None
        self.keys, self.steps = np.zeros(lanes, dtype=np.int64), np.zeros(lanes, dtype=np.int64)
        self.active = np.zeros(lanes, dtype=np.bool_)
        self.reward, self.end = np.zeros(lanes, dtype=np.float32), np.zeros(lanes, dtype=np.bool_)

        lstm, head = mdrnn.lstm, mdrnn.head
        weight = torch.cat([lstm.get_parameter("weight_ih_l0"), lstm.get_parameter("weight_hh_l0")], dim=1)
        bias = lstm.get_parameter("bias_ih_l0") + lstm.get_parameter("bias_hh_l0")
        self.lstm = (bias.detach().to(dtype), weight.detach().t().to(dtype).contiguous())
        self.head = (head.bias.detach().to(dtype), head.weight.detach().t().to(dtype).contiguous())
        first = (mdrnn.logit_rows + 2 * mdrnn.z_size) * mdrnn.gaussians
        self.reward_at = first if mdrnn.include_reward else -1
        self.terminal_at = first + mdrnn.include_reward if mdrnn.include_terminal else -1
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self.threads = threads

    def begin(
        self,
        lanes: np.ndarray,
        keys: np.ndarray,
        z: np.ndarray,
        h: np.ndarray | float = 0.0,
        c: np.ndarray | float = 0.0,
        restart: np.ndarray | float = 1.0,
        mask: np.ndarray | None = None,
    ) -> None:
        """Begin dreams in `lanes` int64 (n,), with the noise of integer `keys` (n,).

        Args:
            lanes, keys: which lanes, and whose noise.
            z, h, c: (n, Z), (n, H), (n, H) the state in which they begin.
            restart: (n,), 1 where that state is the first of an episode.
            mask: (n, H) of dropout.
        """
        self.z[lanes], self.h[lanes], self.c[lanes] = z, h, c
        self.keys[lanes], self.steps[lanes], self.active[lanes], self.end[lanes] = keys, 0, True, False
        if self.mdrnn.include_restart:
            self.x[lanes, self.first_h - 1] = restart
        if self.mask is not None:
            self.mask[lanes] = 1.0 if mask is None else mask

    def rest(self, lanes: np.ndarray) -> None:
        """`lanes` (indices or bool (N,)) dream no further until they begin again."""
        self.active[lanes] = False

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions float32 (N, A) → rewards float32 (N,) and ends bool (N,); z, h and c move on.

        Lanes that rest, or that an end has sent to rest, do not move and are paid 0; their end stays.

        Raises:
            UserError: M's prediction is no number, named with its lane and step.
        """
        self.actions[:], self.reward[:] = actions, 0.0
        self.each(self.advance, np.flatnonzero(self.active))
        self.active &= ~self.end
        return self.reward.copy(), self.end.copy()

    def play(
        self,
        act: Callable[[np.ndarray, np.ndarray], np.ndarray],
        candidates: np.ndarray,
        steps: int,
        keys: np.ndarray,
        starts: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Dream E episodes; a lane whose episode is over begins the next one.

        Args:
            act: lanes int64 (B,) and who acts in them (B,) → action vectors float32 (B, A); a `Population`.
            candidates: int64 (E,), who acts in each episode.
            steps: of an episode, at most.
            keys, starts, mask: (E, …), as `begin` takes them: keys, (z, h, c, restart), mask.

        Returns:
            Returns float64 (E,) and lengths int64 (E,).

        Raises:
            UserError: M's prediction is no number, named with its lane and step.
        """
        returns, lengths = np.zeros(len(keys)), np.zeros(len(keys), dtype=np.int64)
        episode = np.zeros(self.lanes, dtype=np.int64)  # that a lane dreams
        waiting, turn = iter(range(len(keys))), Lock()
        self.active[:] = False

        def fill(free: np.ndarray) -> None:
            """Begin the next episodes in lanes that are free."""
            with turn:
                begun = list(islice(waiting, len(free)))
            if begun:
                free = free[: len(begun)]
                episode[free] = begun
                z, h, c, restart = (x[begun] for x in starts)
                self.begin(free, keys[begun], z, h, c, restart, None if mask is None else mask[begun])

        def share(lanes: np.ndarray) -> None:
            """Dream in these lanes until no episode is left."""
            while True:
                fill(lanes[~self.active[lanes]])
                live = lanes[self.active[lanes]]
                if not len(live):
                    return
                self.actions[live] = act(live, candidates[episode[live]])
                self.advance(live)
                returns[episode[live]] += self.reward[live]
                over = live[self.end[live] | (self.steps[live] >= steps)]
                lengths[episode[over]] = self.steps[over]
                self.active[over] = False

        try:
            self.each(share, np.arange(min(self.lanes, len(keys))))
        finally:  # where one thread has failed, or Ctrl-C was pressed, the others go no further
            list(waiting)
            self.active[:] = False
        return returns, lengths

    def each(self, work: Callable[[np.ndarray], None], lanes: np.ndarray) -> None:
        """Run `work` on equal parts of `lanes`, one PyTorch thread each; none is larger than `BLOCK`."""
        size = min(BLOCK, max(2 * ROWS, -(-len(lanes) // self.threads)))
        parts = [lanes[i : i + size] for i in range(0, len(lanes), size)]
        if self.threads > 1 and len(parts) > 1:
            for done in as_completed([self.pool.submit(work, part) for part in parts]):
                done.result()
            return
        with torch_threads(1):
            for part in parts:
                work(part)

    def advance(self, lanes: np.ndarray) -> None:
        """One step of `lanes` int64 (B,), no more than `BLOCK`. Products have a multiple of `ROWS` rows, copies among
        them."""
        mdrnn, rows = self.mdrnn, np.resize(lanes, -(-len(lanes) // ROWS) * ROWS)
        gates = self.product(self.lstm, self.x[rows])
        bad = dream_kernels.cell(gates, lanes, self.x, self.first_h, self.c)
        if bad < 0:
            out = self.product(self.head, self.h[rows] if self.mask is None else self.h[rows] * self.mask[rows])
            bad = dream_kernels.imagine(
                out, lanes, self.keys, self.steps, self.temperature, mdrnn.z_size, mdrnn.gaussians, mdrnn.logit_rows,
                np.float32(memory.LOG_SIGMA_RANGE[0]), np.float32(memory.LOG_SIGMA_RANGE[1]), self.reward_at,
                np.float32(mdrnn.reward_scale), np.float32(mdrnn.step_reward), self.terminal_at, self.death, self.x,
                self.reward, self.end,
            )  # fmt: skip
        if bad >= 0:
            raise UserError(
                f"M predicts what is no number in lane {bad} at step {self.steps[bad]} of its dream: "
                "train it again with a lower --learning-rate."
            )
        if mdrnn.include_restart:
            self.x[lanes, self.first_h - 1] = 0.0

    def product(self, layer: tuple[Tensor, Tensor], x: np.ndarray) -> np.ndarray:
        """x (B, n) through a layer's bias (m,) and weights (n, m), in their type → float32 (B, m)."""
        bias, weight = layer
        return torch.addmm(bias, torch.from_numpy(x).to(self.dtype), weight).float().numpy()

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()


class Population:
    """Linear Cs in N dreams, for `Dreams.play`: `Controller.act` of the lanes, without a copy of what they see."""

    def __init__(self, dreams: Dreams, controller: Controller, parameters: np.ndarray, actions: Actions):
        """
        Args:
            dreams: N lanes.
            controller: the shape of C, without a hidden layer.
            parameters: (P, n) parameter vectors of C.
            actions: how C's outputs become actions.

        Raises:
            UserError: C has a hidden layer.
        """
        if controller.hidden:
            raise UserError("A C with a hidden layer cannot act in the dream: leave --hidden out.")
        self.dreams, self.controller, self.actions = dreams, controller, actions
        self.parameters = np.ascontiguousarray(parameters, dtype=np.float32)

    def __call__(self, lanes: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The action vectors float32 (B, A) of `lanes` int64 (B,), in which the candidates int64 (B,) act."""
        dreams, raw = self.dreams, np.empty((len(lanes), self.controller.outputs), dtype=np.float32)
        inputs = len(self.controller.inputs) - 1
        dream_kernels.control(
            lanes, dreams.x, dreams.c, dreams.first_h, dreams.mdrnn.z_size, inputs, self.parameters, candidates, raw
        )
        return self.actions.squash(raw)
