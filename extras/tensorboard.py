"""TensorBoard events of a run, for whoever has the package tensorboard.

tensorboard --logdir results
"""


class MissingPackageError(ValueError):
    """The package tensorboard is not installed; the message is one line that says the mend."""


def writer_class():
    """The SummaryWriter of torch. Raises MissingPackageError."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingPackageError(
            "--tensorboard: the package tensorboard is not installed; pip install tensorboard"
        ) from error
    return SummaryWriter


class Events:
    """The numbers of metrics.csv as scalars of the same names, in the folder events of a run."""

    def __init__(self, folder, epoch):
        """Go on after `epoch`: what is there about later ones no longer counts.

        Raises MissingPackageError.
        """
        self.writer = writer_class()(str(folder / "events"), purge_step=epoch + 1)

    def write(self, row):
        """Add an epoch's numbers, {name: value} with its "epoch"; they are on disk afterwards."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()
