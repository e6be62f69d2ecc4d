"""The class for Ray Data, by itself and, where Ray is installed, in a dataset."""

from pathlib import Path

import numpy as np
import pytest

from dinolab.data.sources import open_source
from dinolab.errors import UserError
from dinolab.features.extract import extract
from dinolab.features.ray import EmbedBatch
from tests.features.test_cache import make_encoder
from tests.pictures import make_folder


@pytest.fixture
def folder(tmp_path):
    """Six images, and one file that is none."""
    folder = make_folder(tmp_path / "images", per_class=3, side=20)
    (folder / "class0" / "broken.png").write_bytes(b"no image")
    return folder


def test_embeddings_are_those_of_an_extraction(folder):
    encoder, source = make_encoder(), open_source(str(folder))
    found = extract(encoder, source, 16, progress=False)
    batch = {"bytes": np.array([Path(path).read_bytes() for path in source.paths], object), "path": source.paths}
    embed = EmbedBatch(encoder, size="16", precision="fp32", threads=2)
    out = embed(batch)
    assert list(out) == ["bytes", "path", "embedding", "problem"]
    lost = np.setdiff1d(np.arange(7), found.kept)
    np.testing.assert_allclose(out["embedding"][found.kept], found.matrix(), rtol=0, atol=1e-5)
    assert out["embedding"].dtype == np.float32 and not out["embedding"][lost].any()
    assert [bool(problem) for problem in out["problem"]] == [row in lost for row in range(7)]
    assert embed({"bytes": batch["bytes"][lost]})["embedding"].shape == (1, 12)
    assert embed({"bytes": batch["bytes"][:0]})["embedding"].shape == (0, 12)
    with pytest.raises(UserError, match="column=bytes: the batch has only path"):
        embed({"path": np.array(source.paths)})


def test_in_a_dataset(folder, monkeypatch):
    ray_data = pytest.importorskip("ray.data")
    import ray

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        files = ray_data.read_binary_files(str(folder), include_paths=True)
        how = {"encoder": "pixels", "device": "cpu", "threads": 1}
        actors = ray_data.ActorPoolStrategy(size=1)
        rows = files.map_batches(EmbedBatch, fn_constructor_kwargs=how, batch_size=4, compute=actors).take_all()
    finally:
        ray.shutdown()
    assert len(rows) == 7
    assert [row["path"].endswith("broken.png") for row in rows] == [bool(row["problem"]) for row in rows]
    assert all(np.any(row["embedding"]) != bool(row["problem"]) for row in rows)
