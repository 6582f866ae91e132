"""Where heat maps point to on the demo set, whose parasites are known."""

import dataclasses

import pytest

import rollNumber_05 as malaria
from benchmarks.heatmaps import class_scores, parasite_masks
from extras import classes


def scores_of_maps(maps_of, mtd, folder, data):
    """{stage: scores} of heat maps of the cells of val and test, as benchmarks.heatmaps has them.

    maps_of: malaria.gradcam_maps or malaria.finer_maps; folder: where the demo set is.
    """
    unseen = data.split("val", "test")
    images = unseen.__getitems__(range(len(unseen))).images
    heat = maps_of(mtd, images, malaria.class_score(unseen.labels))
    masks = parasite_masks(folder, unseen)
    return class_scores(heat.maps.numpy(), masks, unseen.labels.numpy(), unseen.classes)


def test_heat_maps_point_at_the_largest_parasites(demo):
    """The peak of a schizont's Grad-CAM is on it more often than a random pixel."""
    mtd = malaria.load_checkpoint(demo.mtd, "mtd").discriminator
    folder = demo.folder / "results/demo_data"
    scores = scores_of_maps(malaria.gradcam_maps, mtd, folder, demo.data())["schizont"]
    assert scores["hit"] > scores["hit_chance"] + 0.1


@pytest.mark.parametrize("maps_of", [malaria.gradcam_maps, malaria.finer_maps])
def test_heat_maps_have_evidence(demo, maps_of):
    """Nearly all of them."""
    mtd = malaria.load_checkpoint(demo.mtd, "mtd").discriminator
    test = demo.data().split("test")
    images = test.__getitems__(range(len(test))).images
    heat = maps_of(mtd, images, malaria.class_score(test.labels))
    assert heat.has_evidence.float().mean() > 0.9


@pytest.fixture(scope="module")
def finer_scores(demo, tmp_path_factory):
    """{stage: scores} of finer maps after trainings as long as the demo's own, 12 epochs each."""
    data = demo.data()
    results = tmp_path_factory.mktemp("pointing")
    config = malaria.Config(image_size=32, measure_every=1000, results_dir=str(results))
    malaria.train("gan", config, data)
    on_dcgan = dataclasses.replace(config, weights=str(results / "gan/last.pt"))
    malaria.train("mtd", on_dcgan, data)
    mtd = malaria.load_checkpoint(results / "mtd/best.pt", "mtd").discriminator
    folder = demo.folder / "results/demo_data"
    return scores_of_maps(malaria.finer_maps, mtd, folder, data)


@pytest.mark.long
@pytest.mark.parametrize("stage", classes.STAGES)
def test_finer_maps_point_at_the_parasite(finer_scores, stage):
    """In the worst training of benchmarks.heatmaps 0.90 of the peaks of a stage did."""
    assert finer_scores[stage]["hit"] > 0.8


@pytest.mark.long
@pytest.mark.parametrize(
    ("stage", "times"),
    [("ring", 2.5), ("trophozoite", 2), ("schizont", 1.5), ("gametocyte", 1.15)],
)
def test_finer_maps_lie_on_the_parasite(finer_scores, stage, times):
    """Their sum does more than an even map's; the large stages fill half of the image."""
    scores = finer_scores[stage]
    assert scores["energy"] > times * scores["energy_chance"]
