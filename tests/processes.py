"""Several processes that train together, started as torchrun starts them."""

import os
import socket
import subprocess
import sys


def launch(world: int, command: list[str], machine: int | None = None, **options) -> list[subprocess.Popen]:
    """Start processes as torchrun does, `machine` of them on each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    each = machine or world
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | env | {"RANK": str(r), "LOCAL_RANK": str(r % each), "LOCAL_WORLD_SIZE": str(each)},
            **options,
        )
        for r in range(world)
    ]
