"""Many dreams side by side on the CPU: the rule of dream.py, about twice as fast as PyTorch alone.

Shapes: N lanes (dreams side by side), B a block of them, E episodes, Z latent, A action, H hidden, K mixtures, O C's
outputs, P population.

Matrix products in PyTorch, gates, sampling and C in `dream_kernels`. Noise is no state: it is a function of (the lane's
key, step), so all who dream with one key meet the same luck, and a lane depends on its key and actions alone.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from worldmodels import dream_kernels, memory
from worldmodels.controller import Controller
from worldmodels.envs.actions import Actions
from worldmodels.errors import UserError
from worldmodels.workers.places import torch_threads

BLOCK = 64  # lanes of one matrix product: always as many rows, since float32 results depend on their number


class Dreams:
    """N dreams side by side on the CPU, advanced together; a lane that is over rests.

    Lanes are computed in blocks of `BLOCK` rows, one thread a block: what a lane dreams depends on neither N, nor its
    place, nor the number of threads (on one kind of processor).
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
            threads: that share the blocks.
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
        rows = -(-lanes // BLOCK) * BLOCK  # N, filled up
        # What the LSTM reads, one row a lane: z, action, restart, h. z and h live here.
        self.x = torch.zeros(rows, self.first_h + mdrnn.hidden_size)
        self.c_rows = torch.zeros(rows, mdrnn.hidden_size)
        self.mask = torch.ones_like(self.c_rows) if mdrnn.dropout else None  # (rows, H)
        self.keys, self.steps = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
        self.active = np.zeros(rows, dtype=np.bool_)
        self.reward, self.end = np.zeros(rows, dtype=np.float32), np.zeros(rows, dtype=np.bool_)

        lstm, head = mdrnn.lstm, mdrnn.head
        weight = torch.cat([lstm.get_parameter("weight_ih_l0"), lstm.get_parameter("weight_hh_l0")], dim=1)
        bias = lstm.get_parameter("bias_ih_l0") + lstm.get_parameter("bias_hh_l0")
        self.lstm = (bias.detach().to(dtype), weight.detach().t().to(dtype).contiguous())
        self.head = (head.bias.detach().to(dtype), head.weight.detach().t().to(dtype).contiguous())
        self.gates = torch.empty(rows, 4 * mdrnn.hidden_size, dtype=dtype)
        self.out = torch.empty(rows, head.out_features, dtype=dtype)
        first = (mdrnn.logit_rows + 2 * mdrnn.z_size) * mdrnn.gaussians
        self.reward_at = first if mdrnn.include_reward else -1
        self.terminal_at = first + mdrnn.include_reward if mdrnn.include_terminal else -1
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self.threads = threads

    # Views of the state, float32; writing to them moves the dream.
    @property
    def z(self) -> np.ndarray:
        """(N, Z)"""
        return self.x[: self.lanes, : self.mdrnn.z_size].numpy()

    @property
    def h(self) -> np.ndarray:
        """(N, H)"""
        return self.x[: self.lanes, self.first_h :].numpy()

    @property
    def c(self) -> np.ndarray:
        """(N, H)"""
        return self.c_rows[: self.lanes].numpy()

    def begin(
        self,
        lanes: np.ndarray,
        keys: np.ndarray,
        z: np.ndarray,
        h: np.ndarray | float = 0.0,
        c: np.ndarray | float = 0.0,
        restart: np.ndarray | float = 1.0,
        mask: Tensor | None = None,
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
            self.x.numpy()[lanes, self.first_h - 1] = restart
        if self.mask is not None:
            self.mask[torch.as_tensor(lanes)] = 1.0 if mask is None else mask

    def rest(self, lanes: np.ndarray) -> None:
        """`lanes` (indices or bool (N,)) dream no further until they begin again."""
        self.active[: self.lanes][lanes] = False

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions float32 (N, A) → rewards float32 (N,) and ends bool (N,); z, h and c move on.

        Lanes that rest, or that an end has sent to rest, do not move and are paid 0; their end stays.

        Raises:
            UserError: M's prediction is no number, named with its lane and step.
        """
        first = self.mdrnn.z_size
        self.x.numpy()[: self.lanes, first : first + self.mdrnn.action_size] = actions
        blocks = [i for i in range(0, len(self.x), BLOCK) if self.active[i : i + BLOCK].any()]
        self.reward[:] = 0.0
        self.each(self.step_block, blocks)
        reward, end = self.reward[: self.lanes], self.end[: self.lanes]
        self.active[: self.lanes] &= ~end
        return reward.copy(), end.copy()

    def play(
        self,
        act: Callable[[slice, np.ndarray], np.ndarray],
        candidates: np.ndarray,
        steps: int,
        keys: np.ndarray,
        starts: tuple[np.ndarray, ...],
        mask: Tensor | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Dream E episodes, each block of lanes on its own thread; a lane whose episode is over begins the next one.

        Args:
            act: rows of B lanes and their candidates (B,) → action vectors float32 (B, A); a `Population`.
            candidates: int64 (E,), who acts in each episode.
            steps: of an episode, at most.
            keys, starts, mask: (E, …), as `begin` takes them: keys, (z, h, c, restart), mask.

        Returns:
            Returns float64 (E,) and lengths int64 (E,).

        Raises:
            UserError: M's prediction is no number, named with its lane and step.
        """
        returns, lengths = np.zeros(len(keys)), np.zeros(len(keys), dtype=np.int64)
        actions = self.x.numpy()[:, self.mdrnn.z_size : self.mdrnn.z_size + self.mdrnn.action_size]
        waiting, turn = iter(range(len(keys))), Lock()
        self.active[:] = False

        def block(start: int) -> None:
            rows = slice(start, min(start + BLOCK, self.lanes))
            live = self.active[rows]
            episode = np.zeros(len(live), dtype=np.int64)
            while True:
                free = np.flatnonzero(~live)
                with turn:
                    begun = list(islice(waiting, len(free)))
                if begun:
                    lanes = free[: len(begun)]
                    episode[lanes] = begun
                    own_mask = None if mask is None else mask[begun]
                    self.begin(start + lanes, keys[begun], *(x[begun] for x in starts), own_mask)
                if not live.any():
                    return
                actions[rows] = act(rows, candidates[episode])
                self.step_block(start)
                returns[episode[live]] += self.reward[rows][live]
                over = live & (self.end[rows] | (self.steps[rows] >= steps))
                lengths[episode[over]] = self.steps[rows][over]
                live &= ~over

        try:
            self.each(block, list(range(0, len(self.x), BLOCK)))
        finally:  # where one block has failed, or Ctrl-C was pressed, the others go no further
            list(waiting)
            self.active[:] = False
        return returns, lengths

    def each(self, work: Callable[[int], None], blocks: list[int]) -> None:
        """Run `work` on every block, one PyTorch thread each."""
        if self.threads > 1 and len(blocks) > 1:
            for _ in self.pool.map(work, blocks):
                pass
            return
        with torch_threads(1):
            for block in blocks:
                work(block)

    def step_block(self, start: int) -> None:
        """One step of the lanes from `start` on, `BLOCK` of them."""
        rows = slice(start, start + BLOCK)
        x, c, gates, out, active = self.x[rows], self.c_rows[rows], self.gates[rows], self.out[rows], self.active[rows]
        h = x[:, self.first_h :]
        with torch.no_grad():
            torch.addmm(self.lstm[0], x.to(self.dtype), self.lstm[1], out=gates)
            bad = dream_kernels.cell(gates.float().numpy(), active, x.numpy(), self.first_h, c.numpy())
            seen = h if self.mask is None else h * self.mask[rows]
            torch.addmm(self.head[0], seen.to(self.dtype), self.head[1], out=out)
        if bad < 0:
            bad = dream_kernels.imagine(
                out.float().numpy(), active, self.keys[rows], self.steps[rows], self.temperature,
                self.mdrnn.z_size, self.mdrnn.gaussians, self.mdrnn.logit_rows, np.float32(memory.LOG_SIGMA_RANGE[0]),
                np.float32(memory.LOG_SIGMA_RANGE[1]), self.reward_at, np.float32(self.mdrnn.reward_scale),
                np.float32(self.mdrnn.step_reward), self.terminal_at, self.death, x.numpy(),
                self.reward[rows], self.end[rows],
            )  # fmt: skip
        if bad >= 0:
            raise UserError(
                f"M predicts what is no number in lane {start + bad} at step {self.steps[start + bad]} of its dream: "
                "train it again with a lower --learning-rate."
            )
        if self.mdrnn.include_restart:
            x[:, self.first_h - 1] = 0.0

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
        self.dreams, self.actions, self.inputs = dreams, actions, len(controller.inputs) - 1
        self.parameters = np.ascontiguousarray(parameters, dtype=np.float32)
        self.outputs = controller.outputs

    def __call__(self, rows: slice, candidates: np.ndarray) -> np.ndarray:
        """The action vectors float32 (B, A) of B lanes, of which candidates int64 (B,) are at the wheel."""
        dreams, raw = self.dreams, np.empty((len(candidates), self.outputs), dtype=np.float32)
        x, c = dreams.x[rows].numpy(), dreams.c_rows[rows].numpy()
        dream_kernels.control(
            x, c, dreams.first_h, dreams.mdrnn.z_size, self.inputs, self.parameters, candidates, raw
        )
        return self.actions.squash(raw)
