"""The script from its command line to the end of the first step, for benchmarks.speed.

python -m benchmarks.first_step --task gan ...       the flags of the script
"""

import os
import sys

import rollNumber_05 as malaria
from extras import checks, run_folder


def run(arguments):
    """What the script does before and at its first step of a gan, in the same order."""
    config = malaria.config_from(arguments)
    data = malaria.load_data(config, malaria.pick_device(config.device))
    print(data.table())
    checks.check_trainable("gan", data)
    checks.check_packages(config)
    trainer = malaria.Trainer("gan", config, data.classes, data.device)
    folder = malaria.last_checkpoint(config, "gan").parent
    folder.mkdir(parents=True, exist_ok=True)
    run_folder.write_about(folder, "rollNumber_05.py", "gan", trainer.config, data)
    trainer.train_epoch(data.split("train"), 1, malaria.tqdm(disable=True))


if __name__ == "__main__":
    code = malaria.main(run, sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the interpreter's own end, half a second, is no part of the start
