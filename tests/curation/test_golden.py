"""K-means, its hierarchy and balanced sampling against the published code's results on the same points."""

import json

import numpy as np
import pytest
import torch

from dinolab.curation.hierarchy import Level, build_tree, in_order, sample_tree, share
from dinolab.curation.kmeans import choose_seeds, lloyd


@pytest.fixture(scope="module")
def arrays(golden):
    with np.load(golden / "curation" / "curation.npz") as file:
        return {
            name: torch.from_numpy(file[name].astype(np.int64 if file[name].dtype.kind == "i" else float))
            for name in file
        }


@pytest.fixture(scope="module")
def results(golden):
    files = ("kmeans_results.json", "sampling_results.json")
    return [json.loads((golden / "curation" / name).read_text()) for name in files]


def test_lloyd(arrays):
    points = arrays["points"]
    centroids, clusters = lloyd(points, points[arrays["lloyd_start_points"]])
    torch.testing.assert_close(centroids, arrays["lloyd_centroids"], rtol=0, atol=1e-9)
    assert torch.equal(clusters, arrays["lloyd_assignment"])


def test_seeds(arrays):
    seeds = choose_seeds(arrays["points"], int(arrays["kmeanspp_first"]), arrays["kmeanspp_uniforms"].numpy())
    assert torch.equal(seeds, arrays["kmeanspp_seed7_points"])


@pytest.mark.parametrize("name", ["plain_30", "two_levels", "two_levels_resampled"])
def test_resampling_spreads_the_centroids(arrays, results, name):
    facts, points = results[0], arrays["points"].numpy()
    (left, low), (right, high) = facts["points"]["kl_range"]
    where = {"bins": facts["points"]["kl_bins"], "range": [(left, right), (low, high)]}
    occupied = np.histogram2d(*points.T, **where)[0] > 0

    def divergence(rows):  # KL to uniform, over the cells that hold a point
        share = np.histogram2d(*rows.T, **where)[0][occupied] / len(rows)
        return float((share[share > 0] * np.log(share[share > 0] * occupied.sum())).sum())

    assert divergence(points) == pytest.approx(facts["points"]["kl_to_uniform"])
    settings = facts[name]["settings"]
    closest = settings.get("sample_sizes", [1] * len(settings["n_clusters"]))
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        tree = build_tree(arrays["points"], settings["n_clusters"], closest, rng, settings.get("n_resamples", 0))
        found.append(divergence(tree[-1].centroids.numpy()))
    published = facts[name]["top_level_kl_over_3_seeds"]
    assert np.mean(found) == pytest.approx(published["mean"], abs=0.05)


def test_the_closest_come_first(arrays):
    name = "two_levels_resampled"
    centroids, clusters = arrays[f"{name}_level1_centroids"], arrays[f"{name}_level1_assignment"]
    assert torch.equal(in_order(arrays["points"], centroids, clusters, 2000), arrays[f"{name}_sorted_level1"])


def test_shares(results):
    for case in results[1]["cuts"]:
        if case["multiplier"] == 1:
            found = share(np.array(case["sizes"]), case["target"], np.random.default_rng(0))
            assert [sorted(found.tolist())] == case["shares_sorted"]


@pytest.mark.parametrize("name", ["two_levels_resampled", "three_levels_resampled"])
@pytest.mark.parametrize("target", [100, 500, 1000, 1999])
def test_samples(arrays, results, name, target):
    count = 2 if name.startswith("two") else 3
    levels = [
        Level(arrays[f"{name}_level{n}_centroids"], arrays[f"{name}_level{n}_assignment"]) for n in range(1, count + 1)
    ]
    published = results[1][f"{name}/sorted/r/multiplier1/target{target}"]
    drawn = sample_tree(levels, target, np.random.default_rng(0))
    assert len(np.unique(drawn)) == len(drawn) == published["drawn"]
    top = drawn
    for level in levels:
        top = level.clusters.numpy()[top]
    counts = np.bincount(top, minlength=len(levels[-1].centroids))
    assert sorted(counts.tolist()) == published["top_counts_sorted"]
    rings = np.bincount(arrays["group"].numpy()[drawn], minlength=6)
    assert np.abs(rings - published["rings"]).max() <= 0.06 * target
