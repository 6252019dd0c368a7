"""The config fields of image classification. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from novobench.config import CellConfig
from novobench.errors import ConfigError
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 2

_PRACTICAL: dict[str, Any] = {"scientific": False}


@dataclass(frozen=True)
class ImageModelConfig:
    """ResNet-v2 with bottleneck blocks; the defaults are ResNet-50v2 as OpenSeq2Seq built it."""

    in_channels: int = 3
    classes: int = 1000
    stem_width: int = 64
    """Channels after the first convolution."""
    stem_kernel: int = 7
    stem_stride: int = 2
    stem_pool: bool = True
    """3×3 max pooling with stride 2 after the first convolution."""
    pool_padding: Literal["same", "symmetric"] = "same"
    """`same` pads right and below alone, as TensorFlow; `symmetric` pads all sides, as torchvision."""
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])
    """Inner channels of each stage's blocks; the first stage has stride 1, the others 2."""
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    """Blocks of each stage."""
    expansion: int = 4
    """Outer channels of a block over its inner ones."""
    batch_norm_momentum: float = 0.003
    """PyTorch's convention; TensorFlow's 0.997 in the authors' code."""
    batch_norm_eps: float = 1e-5
    init_scale: float = 1.0
    """Kernels have variance `init_scale` / fan-in: 1 in the authors' code, 2 is He's."""
    zero_init_last_gamma: bool = False
    """Start each block's last batch norm with scale 0, as Goyal et al. In pre-activation blocks that is the one
    before the last convolution."""


@dataclass(frozen=True)
class ImageDataConfig:
    """Where images come from, how many there are, and what is done to them."""

    source: Literal["digits", "folder", "hub"] = field(default="folder", metadata=_PRACTICAL)
    """`digits`: scikit-learn's; `folder`: an ImageFolder tree; `hub`: a Hugging Face data set."""
    name: str = "imagenet-1k"
    """Identity of the data: the same images from another source are the same data. For `digits`, `digits-plain`
    (shifts alone, clean test images) or `digits-mild` (turned, scaled, shifted, noisy; frozen for testing)."""
    path: str = field(default="", metadata=_PRACTICAL)
    """Folder under the data root, or hub id, or folder of parquet files."""
    train_split: str = field(default="train", metadata=_PRACTICAL)
    test_split: str = field(default="val", metadata=_PRACTICAL)
    image_column: str = field(default="image", metadata=_PRACTICAL)
    label_column: str = field(default="label", metadata=_PRACTICAL)
    train_size: int = 1281167
    """Images trained on, without the searched share; checked against what is found."""
    search_size: int = 0
    """Training images held out, by a fixed shuffle, for tuning and curves."""
    test_size: int = 50000
    image_size: int = 224
    """Pixels a side that the network sees."""
    resize_size: int = 256
    """Short side before the centre crop of evaluation."""
    crop: Literal["random_resized", "pad_shift", "none"] = "random_resized"
    """Training crop: of random area and shape (paper §4.1), or of the padded image (CIFAR)."""
    crop_scale: list[float] = field(default_factory=lambda: [0.05, 1.0])
    """Area of the random crop; OpenSeq2Seq's imagenet_preprocessing.py."""
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.33])
    crop_padding: int = 0
    """Pixels of padding before a `pad_shift` crop."""
    flip: bool = True
    antialias: bool = False
    """TensorFlow's bilinear resize does none."""
    mean: list[float] = field(default_factory=lambda: [123.68, 116.78, 103.94])
    """Subtracted from pixels of 0-255, by channel; OpenSeq2Seq."""
    std: list[float] = field(default_factory=lambda: [127.5, 127.5, 127.5])
    """Divides afterwards; OpenSeq2Seq scales all channels alike."""
    test_copies: int = 5
    """`digits-mild`: frozen corruptions of each test image."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be decoded ends the run, or is left out: of the loss, of the accuracy, and counted."""
    tail: Literal["drop", "wrap"] = "drop"
    """What becomes of images that do not fill an optimizer batch: floor, as OpenSeq2Seq."""
    images_on: Literal["loader", "accelerator"] = field(default="loader", metadata=_PRACTICAL)
    """Who makes batches: data-loader workers, a picture at a time, or the training's device, where all decoded pictures
    then lie (pictures of `resize_size` squared, cropped by `pad_shift` or `none`). The same bits either way."""
    evaluation_batch: int = 256

    def updates_per_epoch(self, batch: int) -> int:
        return updates_per_epoch(self.train_size, batch, self.tail)


MODEL = ImageModelConfig
DATA = ImageDataConfig
BUILT_IN = "digits"
"""The source that needs no files."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "digits-plain": (),
    "digits-mild": (),
    "cifar10": ("cifar10", "uoft-cs/cifar10"),
    "imagenet-1k": ("imagenet", "imagenet-1k", "ILSVRC/imagenet-1k"),
}
"""Data sets that the shipped configs train on -> where they may come from (`data.path`); none: built in."""


def validate(config: CellConfig) -> None:
    """Raise ConfigError where the accelerator cannot make the batches that the loader would."""
    data = config.data
    if data.images_on == "loader":
        return
    if data.source == "digits" or data.crop == "random_resized":
        what = "data.source digits" if data.source == "digits" else "data.crop random_resized"
        raise ConfigError(f"'data.images_on' accelerator cannot do {what}. Set data.images_on=loader.")
    if data.image_size > data.resize_size + 2 * data.crop_padding:
        raise ConfigError(
            f"'data.image_size' {data.image_size} is more than the padded pictures have: data.resize_size "
            f"{data.resize_size} and twice data.crop_padding {data.crop_padding}."
        )
