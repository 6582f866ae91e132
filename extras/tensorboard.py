"""TensorBoard events of a run, for whoever has the package tensorboard.

tensorboard --logdir results
"""

from extras import UsageError


def writer_class():
    """The SummaryWriter of torch. Raises UsageError if there is none."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "--tensorboard: the package tensorboard is not installed; pip install tensorboard"
        ) from error
    return SummaryWriter


class Events:
    """The numbers of metrics.csv as scalars of the same names, in the folder events of a run."""

    def __init__(self, folder, epoch):
        """Go on after `epoch`: what is there about later ones no longer counts."""
        self.writer = writer_class()(str(folder / "events"), purge_step=epoch + 1)

    def write(self, row):
        """Add an epoch's numbers, {name: value} with its "epoch"; they are on disk afterwards."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()
