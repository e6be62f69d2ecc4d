"""Ways to make steps faster that do not change their results. They are applied to the networks before the first step."""

import ctypes
import platform
import shutil
from functools import partial

import torch
from torch.compiler import config as compiler
from torch.utils.checkpoint import checkpoint

from dinolab.errors import UserError
from dinolab.methods.base import Method
from dinolab.parallel import blocks_of

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's mallopt
RECOMPILED = 64  # variants of a block: student, teacher, evaluations, pictures, last batches; rates of stochastic depth


def compile_blocks(method: Method, device: torch.device) -> None:
    """Compile the transformer blocks of the method's networks, one by one: as they are alike, blocks of a network share compiled graphs.

    The method stays as it is around them, so compiling takes a minute or two and not ten. Raises UserError without a C++
    compiler, which TorchInductor needs on a CPU.
    """
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "c++", "clang++"))):
        raise UserError("run.compile=true needs a C++ compiler (g++ or clang++), and none is installed")
    compiler.recompile_limit = max(compiler.recompile_limit, RECOMPILED)
    for network in method.networks:
        for block in blocks_of(network["backbone"]):
            block.compile(dynamic=False)  # shapes are static, though they differ between the networks


def checkpoint_activations(method: Method) -> None:
    """Keep only what enters each of the student's blocks; in the backward pass the block is computed again (arXiv 1604.06174)."""
    for block in blocks_of(method.student["backbone"]):
        # no draws to repeat: those of stochastic depth are made outside
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def keep_memory() -> None:
    """Have glibc keep what a step frees for the next one, in this process and for good.

    Otherwise every large tensor is fresh from the kernel, which clears it page by page: an eighth of the time of ViT-S/14's step.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
