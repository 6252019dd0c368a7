"""`cell_with_a_broken_process.py FOLDER`: in update 3 (from 1) the second process's images are not finite."""

import math
import os
import sys
from pathlib import Path

from novobench.tasks.image.task import ImageTask
from novobench.training import cell


def training_step(self, batch, batch_idx):
    broken = batch_idx // self.config.accumulation == 2 and os.environ["RANK"] == "1"
    return original(self, batch._replace(images=batch.images * math.nan) if broken else batch, batch_idx)


original, ImageTask.training_step = ImageTask.training_step, training_step

if __name__ == "__main__":
    cell.run(Path(sys.argv[1]), process="--process" in sys.argv)
