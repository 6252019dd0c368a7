"""Random crops: boxes inside the image, with an area and a shape of the allowed ranges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novobench.tasks.image.transforms import crop_box, crop_draws, tensorflow_crop_box
from novobench.tasks.sampling import SampleKey
from tests.properties import bounded

SIDES = st.integers(8, 400)
SCALES = st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)).map(sorted)
RATIOS = st.tuples(st.floats(0.5, 2.0), st.floats(0.5, 2.0)).map(sorted)
KEYS = st.builds(SampleKey, st.integers(0, 300), st.integers(0, 10**7))


def overlaps(low: float, high: float, allowed: list[float]) -> bool:
    return low <= allowed[1] * (1 + 1e-9) and high >= allowed[0] * (1 - 1e-9)


@bounded
@given(SIDES, SIDES, SCALES, RATIOS, KEYS)
def test_torchvisions_rule(height, width, scale, ratio, key):
    [draws] = crop_draws(0, [key])
    top, left, h, w = crop_box(height, width, draws, scale, ratio)
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width
    # Sides are rounded, so the exact box has sides within half a pixel of these.
    assert overlaps((w - 0.5) / (h + 0.5), (w + 0.5) / (h - 0.5), ratio)
    fallback = (top, left) == ((height - h) // 2, (width - w) // 2) and (h == height or w == width)
    area = [share * height * width for share in scale]
    assert fallback or overlaps((h - 0.5) * (w - 0.5), (h + 0.5) * (w + 0.5), area)


@bounded
@given(SIDES, SIDES, SCALES, RATIOS, KEYS)
def test_tensorflows_rule(height, width, scale, ratio, key):
    [draws] = crop_draws(0, [key], "tensorflow")
    top, left, h, w = tensorflow_crop_box(height, width, draws, scale, ratio)
    assert 0 <= top < top + h <= height
    assert 0 <= left < left + w <= width
    if (h, w) != (height, width):
        assert max(scale[0], 0.1) <= h * w / (height * width) <= scale[1]
        assert overlaps((w - 0.5) / h, (w + 0.5) / h, ratio)


@bounded
@given(KEYS, st.lists(KEYS, max_size=4), st.sampled_from(["torchvision", "tensorflow"]))
def test_a_crop_depends_only_on_its_key(key, others, sampler):
    together, alone = crop_draws(3, [*others, key], sampler), crop_draws(3, [key], sampler)
    assert together[-1].tolist() == alone[0].tolist()
    assert together[-1].tolist() != pytest.approx(crop_draws(4, [key], sampler)[0].tolist())
