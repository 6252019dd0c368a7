"""`python cell_with_dropout.py FOLDER`: a cell whose net has dropout, for torchrun and for a single process."""

import sys
from pathlib import Path

from torch import nn

from novobench.tasks.image import task
from novobench.training import cell


def _with_dropout(config):
    network = original(config)
    network.classifier = nn.Sequential(nn.Dropout(0.5), network.classifier)
    return network


original, task.build_model = task.build_model, _with_dropout

if __name__ == "__main__":
    cell.run(Path(sys.argv[1]), process="--process" in sys.argv)
