"""Trackers that also get the metrics (`runtime.trackers`): TensorBoard and Weights & Biases, both optional extras."""

from __future__ import annotations

from typing import Any

from novobench.config import CellConfig, cell_id
from novobench.errors import NovobenchError
from novobench.training.run_folder import RunFolder


def make_trackers(config: CellConfig, folder: RunFolder) -> list[Any]:
    """Lightning's loggers for `runtime.trackers`. Raises NovobenchError if the package of one is not installed."""
    from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

    factories = {
        "tensorboard": lambda: TensorBoardLogger(str(folder.path), name="tensorboard", version=""),
        "wandb": lambda: WandbLogger(project="novobench", name=cell_id(config), save_dir=str(folder.path)),
    }
    trackers = []
    for name in config.runtime.trackers:
        try:
            trackers.append(factories[name]())
        except ModuleNotFoundError:
            raise NovobenchError(
                f"runtime.trackers: '{name}' is not installed. Run: pip install 'novobench[{name}]'."
            ) from None
    return trackers
