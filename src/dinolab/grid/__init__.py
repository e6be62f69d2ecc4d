"""Grids: a table of option sets, each trained with several seeds, evaluated on the same images, and compared with the first row."""

from dinolab.grid.run import run_grid

__all__ = ["run_grid"]
