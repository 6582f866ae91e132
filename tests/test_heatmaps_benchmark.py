"""The benchmark of heat maps runs, and its scores of known maps are right."""

import functools
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, run_here

import rollNumber_05 as malaria
from benchmarks import heatmaps

run_heatmaps = functools.partial(run_here, heatmaps.run, "--smoke")


def test_heat_maps_are_scored_against_known_parasites(demo, tmp_path):
    """Of networks that were trained for two steps."""
    demo_data = tmp_path / "heatmaps_runs" / "data" / "demo_data"
    shutil.copytree(demo.folder / "results" / "demo_data", demo_data)
    done = run_heatmaps("--demo", "--out", tmp_path / "maps.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finer, 32 px, every 1" in done.stdout


def test_heat_maps_are_held_against_random_ones(small_data, tmp_path):
    """By deletion and insertion, of the shipped MTD."""
    weights = ROOT / "saved_models" / "mtd.pt"
    out = tmp_path / "maps.jsonl"
    done = run_heatmaps("--data_path", small_data, "--weights", weights, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Less the areas of random 16x16." in done.stdout


@pytest.fixture
def masks():
    """Two parasites in images of 32 pixels: one in a corner, one that fills half."""
    masks = np.zeros((2, 32, 32), bool)
    masks[0, :8, :8] = True
    masks[1, :16] = True
    return masks


@pytest.mark.parametrize("name", ["hit", "energy", "auc"])
def test_a_map_that_is_the_mask_has_the_best_scores(masks, name):
    """1 each."""
    assert heatmaps.cell_scores(masks.astype(np.float32), masks)[name].tolist() == [1, 1]


def test_an_even_map_has_the_energy_of_chance(masks):
    """The share of the image that is parasite."""
    scores = heatmaps.cell_scores(np.ones((2, 32, 32)), masks)
    assert scores["energy"].tolist() == scores["energy_chance"].tolist() == [1 / 16, 1 / 2]


def test_a_peak_up_to_a_32nd_beside_the_parasite_counts(masks):
    """One pixel of 32, not two."""
    maps = np.zeros((2, 32, 32))
    maps[0, 8, 0] = 1
    maps[1, 17, 0] = 1
    assert heatmaps.cell_scores(maps, masks)["hit"].tolist() == [True, False]


def test_pixels_are_ranked_from_the_hottest_on():
    """0 is the hottest."""
    places = heatmaps.ranks(torch.tensor([[[0.1, 0.9], [0.5, 0.3]]]))
    assert places[0, 0].tolist() == [[3, 0], [1, 2]]


@pytest.fixture
def question():
    """A Question about two random images, to an MTD of random weights."""
    network = malaria.MultiTaskDiscriminator(num_classes=4, image_size=32, width=16).eval()
    return heatmaps.ask(network, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("end", "image"), [(0, "images"), (-1, "blurred")])
def test_deletion_goes_from_the_image_to_the_blurred_one(question, end, image):
    """And insertion the other way."""
    curves = heatmaps.curves_of(question, torch.rand(2, 32, 32))
    expected = question.probability(getattr(question, image))
    torch.testing.assert_close(curves.deletion[:, end], expected)
    torch.testing.assert_close(curves.insertion[:, -1 - end], expected)


def test_the_area_under_an_even_curve_is_its_height():
    """Whatever the number of steps."""
    curve = torch.full((2, heatmaps.STEPS + 1), 0.25)
    areas = heatmaps.Curves(curve, curve).areas()
    assert areas["deletion"].tolist() == pytest.approx([0.25, 0.25])


def test_maps_are_laid_on_other_cells_only():
    """No cell keeps its own, none gets one twice."""
    maps = torch.arange(12.0)[:, None, None].expand(12, 2, 2)
    numbers = torch.stack([moved[:, 0, 0] for moved in heatmaps.on_other_cells(maps)])
    columns = torch.cat([torch.arange(12.0)[None], numbers]).T
    assert all(len(column.unique()) == 6 for column in columns)
