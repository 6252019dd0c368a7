"""Images that stay on the GPU: the bits of the loader's batches, without waiting for the device."""

import numpy as np
import pytest
import torch
from PIL import Image

from novobench.tasks.image.config import ImageDataConfig
from novobench.tasks.image.data import open_images
from novobench.tasks.sampling import SampleKey

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_batches_have_the_bits_of_the_loaders_and_wait_for_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "square" / split / "a").mkdir(parents=True)
        for i in range(16):
            picture = rng.integers(0, 256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "square" / split / "a" / f"{i:02}.png")
    settings = {"name": "square", "train_size": 16, "test_size": 16, "resize_size": 32, "image_size": 32}
    settings |= {"crop": "pad_shift", "crop_padding": 4}
    loader, resident = (
        open_images(ImageDataConfig(**settings, images_on=where), tmp_path, seed=0)
        for where in ("loader", "accelerator")
    )
    device = torch.device("cuda", torch.cuda.current_device())
    resident.train[[SampleKey(0, 0)]].to(device)  # the pictures move now
    keys = [SampleKey(epoch, sample) for epoch in range(8) for sample in range(16)]
    picked = resident.train[keys].pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, labels, samples = picked.to(device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.device == labels.device == samples.device == device
    assert samples.tolist() == [key.sample for key in keys]
    assert torch.equal(images.cpu(), torch.stack([loader.train[key].image for key in keys]))
    tested = resident.test[range(16)].pin_memory().to(device)
    assert torch.equal(tested.images.cpu(), torch.stack([loader.test[i].image for i in range(16)]))
