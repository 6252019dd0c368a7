"""The config fields of image classification. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from novobench.config import PRACTICAL, CellConfig
from novobench.errors import ConfigError
from novobench.ranges import NOT_EMPTY, Name, NonNegativeInt, PositiveFloat, PositiveInt
from novobench.tasks.base_config import SampledDataConfig
from novobench.tasks.sampling import updates_per_epoch

RECIPE_VERSION = 2


@dataclass(frozen=True)
class ImageModelConfig:
    """ResNet-v2 with bottleneck blocks; the defaults are ResNet-50v2 as OpenSeq2Seq built it."""

    in_channels: PositiveInt = 3
    """Channels of the images: 3 for RGB, 1 for gray."""
    classes: Annotated[int, "[2, inf)"] = 1000
    """Number of labels."""
    stem_width: PositiveInt = 64
    """Channels after the first convolution."""
    stem_kernel: PositiveInt = 7
    """Side of the first convolution's kernel, in pixels."""
    stem_stride: PositiveInt = 2
    """Stride of the first convolution."""
    stem_pool: bool = True
    """3×3 max pooling with stride 2 after the first convolution."""
    pool_padding: Literal["same", "symmetric"] = "same"
    """`same` pads only right and below, as TensorFlow; `symmetric` pads all sides, as torchvision."""
    widths: Annotated[list[PositiveInt], NOT_EMPTY] = field(default_factory=lambda: [64, 128, 256, 512])
    """Inner channels of the blocks of each stage; the first stage has stride 1, the others 2."""
    depths: Annotated[list[PositiveInt], NOT_EMPTY] = field(default_factory=lambda: [3, 4, 6, 3])
    """Blocks of each stage."""
    expansion: PositiveInt = 4
    """Outer channels of a block divided by its inner channels."""
    batch_norm_momentum: Annotated[float, "(0, 1]"] = 0.003
    """PyTorch's convention; TensorFlow's 0.997 in the authors' code."""
    batch_norm_eps: PositiveFloat = 1e-5
    """Added to the variance in batch norm."""
    init_scale: PositiveFloat = 1.0
    """Kernels have variance `init_scale` / fan-in: 1 in the authors' code, 2 is He's."""
    zero_init_last_gamma: bool = False
    """Start each block's last batch norm with scale 0, as Goyal et al. In pre-activation blocks it is the one before
    the last convolution."""


@dataclass(frozen=True)
class ImageDataConfig(SampledDataConfig):
    """The source of the images, their number, and their preprocessing."""

    source: Literal["digits", "folder", "manifest", "hub"] = field(default="folder", metadata=PRACTICAL)
    """`digits`: scikit-learn's; `folder`: an ImageFolder tree; `manifest`: tables `<split>.csv` or `.tsv` with columns
    of file names and labels; `hub`: a Hugging Face data set."""
    name: Name = "imagenet-1k"
    """Identity of the data: the same images from another source are the same data. For `digits`: `digits-plain` (only
    shifts, clean test images) or `digits-mild` (rotated, scaled, shifted, noisy; fixed test images)."""
    path: str = field(default="", metadata=PRACTICAL)
    """Folder under the data root, or hub id, or folder of parquet files."""
    train_split: Name = field(default="train", metadata=PRACTICAL)
    """Name of the training split in the source. For `folder`, `.` is the folder itself, if it has no splits."""
    test_split: str = field(default="val", metadata=PRACTICAL)
    """Name of the test split; `val` is ImageNet's. Empty: `test_size` images of the training split."""
    search_split: str = ""
    """A split for tuning and curves; empty: `search_size` images of the training split."""
    image_column: Name = field(default="image", metadata=PRACTICAL)
    """`hub` and `manifest`: the column of images, or of their files."""
    label_column: Name = field(default="label", metadata=PRACTICAL)
    """`hub` and `manifest`: the column of labels."""
    train_size: PositiveInt = 1281167
    """Training images, without the shares for search and test; checked against the data."""
    search_size: NonNegativeInt = 0
    """Images for tuning and curves: of `search_split`, or held out of the training split by a fixed shuffle."""
    test_size: PositiveInt = 50000
    """Test images: of `test_split`, or held out of the training split by the same shuffle; checked."""
    limit: PositiveInt | None = None
    """Train on this many images: the first of a fixed shuffle of the training images. None: on all."""
    probe_size: NonNegativeInt = 0
    """Training images that are also evaluated, in the way of test images, as the split `probe`; 0: none."""
    image_size: PositiveInt = 224
    """Side in pixels of the images that the network sees."""
    resize_size: PositiveInt | None = field(default=None, metadata={"hashed_as_default": 256})
    """Short side before the center crop of evaluation; with `pad_shift` and `none`, the side that all images must have.
    Default: 256/224 of `image_size`, as in OpenSeq2Seq, or `image_size` with `pad_shift` and `none`."""
    crop: Literal["random_resized", "pad_shift", "none"] = "random_resized"
    """Training crop: of random area and shape (paper §4.1), of the padded image (CIFAR), or none."""
    crop_scale: list[Annotated[float, "(0, 1]"]] = field(default_factory=lambda: [0.05, 1.0])
    """Lowest and highest share of the image's area; OpenSeq2Seq's imagenet_preprocessing.py."""
    crop_ratio: list[PositiveFloat] = field(default_factory=lambda: [0.75, 1.33])
    """Lowest and highest width over height; the same source."""
    crop_sampler: Literal["torchvision", "tensorflow"] = "torchvision"
    """The rule that draws the random crop: torchvision's RandomResizedCrop (area uniform, shape log-uniform), or
    TensorFlow's sample_distorted_bounding_box as OpenSeq2Seq calls it (shape and height uniform, at least a tenth of
    the area)."""
    crop_padding: NonNegativeInt | None = field(default=None, metadata={"hashed_as_default": 0})
    """Pixels of padding on each side before a `pad_shift` crop. Default: `image_size` / 8, so 4 for CIFAR's 32."""
    flip: bool = True
    """Mirror half of the training images, at random."""
    antialias: bool = False
    """Off: TensorFlow's bilinear resize does not antialias."""
    mean: Annotated[list[float], NOT_EMPTY] = field(default_factory=lambda: [123.68, 116.78, 103.94])
    """Subtracted from pixels of 0-255, per channel; OpenSeq2Seq."""
    std: Annotated[list[PositiveFloat], NOT_EMPTY] = field(default_factory=lambda: [127.5, 127.5, 127.5])
    """Divides the difference, per channel; OpenSeq2Seq scales all channels alike."""
    test_copies: PositiveInt = 5
    """`digits-mild`: fixed corruptions of each test image."""
    on_bad_image: Literal["error", "skip"] = "error"
    """An image that cannot be decoded ends the run, or is left out of loss and accuracy and counted."""
    tail: Literal["drop", "wrap"] = "drop"
    """What happens to images that do not fill an optimizer batch: `drop` them, as OpenSeq2Seq, or `wrap` around."""
    images_on: Literal["loader", "accelerator"] = field(default="loader", metadata=PRACTICAL)
    """Where batches are made: in data-loader workers, an image at a time, or on the training's device, which then holds
    all decoded images (`resize_size` squared, cropped by `pad_shift` or `none`). Both give the same bits."""
    evaluation_batch: PositiveInt = 256
    """Images per batch of an evaluation."""

    def __post_init__(self) -> None:
        """Fill in the sizes that follow `image_size`, so that equal recipes have one id however they are written."""
        ratio = 256 / 224 if self.crop == "random_resized" else 1
        padding = self.image_size // 8 if self.crop == "pad_shift" else 0
        for name, value in (("resize_size", round(self.image_size * ratio)), ("crop_padding", padding)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def channels(self) -> int:
        """Channels of the images that the source gives: digits are gray, all others become RGB."""
        return 1 if self.source == "digits" else 3

    def updates_per_epoch(self, batch: int) -> int:
        return updates_per_epoch(self.used_size, batch, self.tail)


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
"""Data sets of the shipped configs -> the values that `data.path` may have; none if built in."""


DIGITS_TRAIN, DIGITS_TEST, DIGITS_CLASSES = 1200, 597, 10
"""Of the built-in corpus: training images, the search share included; test images; classes."""
DIGITS_SIDE = 8
"""Pixels."""


def validate(config: CellConfig) -> None:
    """Raise ConfigError if network, images and preprocessing do not fit each other."""
    model, data = config.model, config.data
    if len(model.widths) != len(model.depths):
        raise ConfigError(
            f"'model.depths' has {len(model.depths)} stages, but 'model.widths' has {len(model.widths)}. Both need one "
            "number per stage."
        )
    if data.probe_size > data.used_size:
        key = "train_size" if data.limit is None else "limit"
        raise ConfigError(f"'data.probe_size' {data.probe_size} is more than data.{key} {data.used_size}.")
    if data.images_on == "accelerator" and (data.source == "digits" or data.crop == "random_resized"):
        what = "data.source digits" if data.source == "digits" else "data.crop random_resized"
        raise ConfigError(f"'data.images_on' accelerator cannot do {what}. Set data.images_on=loader.")
    if data.source == "digits":
        _check_digits(model, data)
    else:
        _check_pixels(data)
        _check_sizes(data)
        _check_splits(data)


def _check_digits(model: ImageModelConfig, data: ImageDataConfig) -> None:
    if data.search_split:
        raise ConfigError(f"'data.search_split' {data.search_split}: source digits has no splits; leave it empty.")
    if model.in_channels != data.channels:
        raise ConfigError(f"'model.in_channels' is {model.in_channels}, but digits are gray. Set model.in_channels=1.")
    if model.classes != DIGITS_CLASSES:
        raise ConfigError(
            f"'model.classes' is {model.classes}, but there are {DIGITS_CLASSES} digits. Set "
            f"model.classes={DIGITS_CLASSES}."
        )
    if data.train_size + data.search_size != DIGITS_TRAIN:
        raise ConfigError(
            f"'data.train_size' {data.train_size} and 'data.search_size' {data.search_size} must add up to "
            f"{DIGITS_TRAIN}, the digits that are not test images."
        )
    test = DIGITS_TEST * (1 if data.name == "digits-plain" else data.test_copies)
    if data.test_size != test:
        raise ConfigError(
            f"'data.test_size' is {data.test_size}, but {data.name} has {test}. Set data.test_size={test}."
        )


def _check_pixels(data: ImageDataConfig) -> None:
    for key in ("mean", "std"):
        if len(getattr(data, key)) not in (1, data.channels):
            raise ConfigError(
                f"'data.{key}' must be one number, or one per channel of {data.channels}, not {getattr(data, key)}."
            )
    for key in ("crop_scale", "crop_ratio"):
        bounds = getattr(data, key)
        if len(bounds) != 2 or bounds[0] > bounds[1]:
            raise ConfigError(f"'data.{key}' must be two numbers, the lower one first, not {bounds}.")


def _check_sizes(data: ImageDataConfig) -> None:
    assert data.resize_size is not None  # set by __post_init__
    remedy = "Set data.resize_size=null, and it follows data.image_size."
    if data.image_size > data.resize_size:
        raise ConfigError(
            f"'data.image_size' {data.image_size} is more than 'data.resize_size' {data.resize_size}, the side of the "
            f"images that evaluation crops. {remedy}"
        )
    if data.crop == "none" and data.image_size < data.resize_size:
        raise ConfigError(
            f"'data.crop' none trains on whole images of data.resize_size {data.resize_size}, but evaluation would "
            f"crop them to data.image_size {data.image_size}. {remedy}"
        )


def _check_splits(data: ImageDataConfig) -> None:
    if data.train_split == data.test_split:
        raise ConfigError(f"'data.test_split' {data.test_split} is also data.train_split. Name another split.")
    for key in ("train_split", "test_split"):
        if data.search_split and data.search_split == getattr(data, key):
            raise ConfigError(
                f"'data.search_split' {data.search_split} is also data.{key}. Name another split, or none."
            )


def relative_cost(config: Any) -> float:
    """Multiply-accumulates of one image's forward pass, from the config alone; for forecasts."""
    model: ImageModelConfig = config.model
    pixels = DIGITS_SIDE if config.data.source == BUILT_IN else config.data.image_size
    side = -(-pixels // model.stem_stride)
    total = side**2 * model.stem_kernel**2 * model.in_channels * model.stem_width
    side, channels = -(-side // 2) if model.stem_pool else side, model.stem_width
    for stage, (width, depth) in enumerate(zip(model.widths, model.depths, strict=False)):
        out = width * model.expansion
        for position in range(depth):
            before, side = side, -(-side // 2) if stage > 0 and position == 0 else side
            projection = channels * out if position == 0 else 0
            total += before**2 * channels * width + side**2 * (9 * width**2 + width * out + projection)
            channels = out
    return total + channels * model.classes
