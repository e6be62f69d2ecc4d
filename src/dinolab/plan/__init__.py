"""A forecast of the time and memory of a run, from a few real steps, before it is started."""

from dinolab.plan.forecast import Plan, plan
from dinolab.plan.text import advice, words

__all__ = ["Plan", "advice", "plan", "words"]
