"""How C is searched for: strategies that ask and tell, and the fitness of what they ask about."""

from worldmodels.evolution.strategies import Strategy, centered_ranks, make

__all__ = ["Strategy", "centered_ranks", "make"]
