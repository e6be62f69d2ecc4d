"""Tar files for tests, written plainly."""

import io
import tarfile
from pathlib import Path


def tar_of(files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as tar:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return data.getvalue()


def write_tar(path: Path, files: dict[str, bytes], format: int = tarfile.USTAR_FORMAT) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(files, format))
    return str(path)
