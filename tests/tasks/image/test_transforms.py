"""Random crops: their areas, shapes and positions."""

import numpy as np
import pytest

from novobench.tasks.image.transforms import crop_box, tensorflow_crop_box
from novobench.tasks.sampling import SampleKey, uniforms


def test_crop_boxes_fill_their_ranges():
    draws = uniforms(0, "test", [SampleKey(0, i) for i in range(3000)], 23)
    boxes = np.array([crop_box(200, 300, row, (0.05, 1.0), (0.75, 1.33)) for row in draws])
    top, left, height, width = boxes.T
    area, shape = height * width / 60_000, width / height
    assert (top >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    assert 0.04 < area.min() < 0.07
    assert 0.85 < area.max() <= 1.0
    assert 0.7 < shape.min() < 0.78
    assert 1.28 < shape.max() < 1.37
    assert crop_box(10, 1000, np.full(23, 0.999), (0.9, 1.0), (0.75, 1.33)) == (0, 493, 10, 13)


def test_tensorflows_crop_boxes_have_its_areas_and_shapes():
    height, width, scale, ratio = 375, 500, (0.05, 1.0), (0.75, 1.33)
    draws = uniforms(0, "test", [SampleKey(0, i) for i in range(20_000)], 203)
    boxes = np.array([tensorflow_crop_box(height, width, row, scale, ratio) for row in draws])
    top, left, h, w = boxes.T
    area, shape = h * w / (height * width), w / h
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    assert area.min() == pytest.approx(0.1, abs=0.002)
    assert area.max() > 0.99
    # The same by quadrature: shape uniform, height uniform up to where a side of the image ends, a tenth covered.
    shapes, shares = np.linspace(*ratio, 400)[:, None], np.linspace(0, 1, 2000)[None]
    low = np.sqrt(scale[0] * height * width / shapes)
    heights = low + shares * (np.minimum(height, width / shapes) - low)
    areas = heights**2 * shapes / (height * width)
    assert area.mean() == pytest.approx(areas[areas >= 0.1].mean(), abs=0.005)
    kept = (areas >= 0.1).mean(axis=1)
    assert shape.mean() == pytest.approx(kept @ shapes[:, 0] / kept.sum(), abs=0.005)
    assert tensorflow_crop_box(10, 1000, draws[0], (0.9, 1.0), ratio) == (0, 0, 10, 1000)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_no_crop_is_empty(height, width):
    for ratio in ((0.75, 1.33), (3.0, 4.0), (0.1, 0.2)):
        _, _, h, w = crop_box(height, width, np.full(23, 0.5), (0.01, 0.02), ratio)
        assert 1 <= h <= height
        assert 1 <= w <= width
