"""K-means, its hierarchy and balanced sampling against the published code's results on the same points, and the paper's facts."""

import json
import re

import cv2
import numpy as np
import pytest
import torch

from dinolab.curation import leaks
from dinolab.curation.hierarchy import Clustering, Level, build_tree, in_order, sample_tree, share
from dinolab.curation.kmeans import choose_seeds, lloyd
from dinolab.curation.options import DedupOptions, RetrieveOptions
from tests.curation.conftest import curate, picture
from tests.curation.test_curate import decisions, names_in


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
        tree = build_tree(
            arrays["points"], settings["n_clusters"], closest, rng, Clustering(settings.get("n_resamples", 0))
        )
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


def test_the_usual_options_are_those_of_the_paper(golden):
    """The facts about de-duplication and retrieval are in words: each number is looked up where it stands."""
    text = " ".join((golden / "curation" / "README.md").read_text().split())

    def number(words: str) -> float:
        return float(re.search(words, text)[1].replace(",", ""))

    dedup, retrieve = DedupOptions(), RetrieveOptions(curated="x")
    assert dedup.neighbours == number(r"Self: k = (\d+) nearest neighbours")
    assert dedup.threshold == number(r"keep similarity > ([\d.]+), connected components")
    assert dedup.threshold_against == number(r"same with > ([\d.]+) against train")
    assert retrieve.per_image == number(r"(\d+) neighbours a query image")
    assert retrieve.per_cluster == number(r"([\d,]+) images of each cluster that holds more than")
    assert retrieve.at_least == number(r"each cluster that holds more than (\d+) query images") + 1


def test_a_component_that_touches_a_test_image_goes_entirely(tmp_path):
    test, chain, out = (tmp_path / name for name in ("test", "chain", "set"))
    for folder in (test, chain):
        folder.mkdir()
    ends = picture(0), picture(1)
    for step in range(12):  # from one image to the test image, each like the next
        mixed = cv2.addWeighted(ends[0], 1 - step / 11, ends[1], step / 11, 0)
        cv2.imwrite(str((chain if step < 11 else test) / f"{step}.png"), mixed)
    cv2.imwrite(str(chain / "other.png"), picture(2))
    curate("embed", out, f"data={chain}")
    curate("dedup", out, f"against={test}", "hash_bits=-1", "threshold=1", "threshold_against=0.8")
    assert names_in(out) == {"other.png"}
    far = decisions(out)["0.png"]
    assert far["reason"] == leaks.GROUP and float(far["similarity"]) < 0.8  # it is not near the test image itself


def test_a_cluster_is_taken_from_more_than_three_curated_images(heap, tmp_path):
    out, few = tmp_path / "set", tmp_path / "few"
    few.mkdir()
    curate("embed", out, f"data={heap}")
    words = ["retrieve", out, f"curated={few}", "by=clusters", "clusters=1"]
    for seed in (7, 8, 9):
        cv2.imwrite(str(few / f"{seed}.png"), picture(seed))
    assert curate(*words) == 2
    cv2.imwrite(str(few / "10.png"), picture(10))
    assert curate(*words) == 0
    assert len(names_in(out)) == 30
