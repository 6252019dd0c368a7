"""Stochastic rounding to bf16: exact mean, independent bits, and the same ones on every path."""

import math
import struct

import pytest
import torch
import triton
import triton.language as tl

from novobench.optim.novograd import kernel_rounding, rounding

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy's, in the interpreter

SEVENTH_OF_A_STEP = 1 + 2**-7 / 7
"""Between the neighbouring bf16 numbers 1 and 1 + 2⁻⁷."""


def mixed(x):
    """The 32-bit hash with bytes and a modulus, written from its description alone."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x ^= x // 2**shift
        x = (x * factor) % 2**32
    return x ^ (x // 2**15)


def bits_of(number, updates, element):
    row, place = divmod(element, 2**16)
    key = mixed((mixed((mixed(number ^ 0x9E3779B9) + updates) % 2**32) + row) % 2**32)
    return (((key | 1) * mixed(place) + mixed(key ^ 0x9E3779B9)) % 2**32) // 2**16


def rounded_one(x, number, updates, element):
    """By hand: the upper of the two neighbors if the random bits reach it, else the lower one."""
    pattern = struct.unpack("<I", struct.pack("<f", x))[0]
    lower, rest = divmod(pattern, 2**16)
    pattern = lower + (rest + bits_of(number, updates, element) >= 2**16)
    return struct.unpack("<f", struct.pack("<I", pattern * 2**16))[0]


def rounded(x, number=3, updates=5):
    out = torch.empty_like(x, dtype=torch.bfloat16)
    rounding.stochastic_round(x, (number << 32) + updates, out)
    return out


def normal(count, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def test_hash_values():
    values = [0, 1, 2, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 123_456_789]
    assert [rounding.mix32(x) for x in values] == [mixed(x) for x in values]
    assert rounding.mix32(torch.tensor(values)).tolist() == [mixed(x) for x in values]


def test_each_bit_of_the_input_flips_each_bit_of_the_hash_half_of_the_time():
    x = torch.randint(2**32, (20_000,), generator=torch.Generator().manual_seed(0))
    for flipped in range(32):
        changed = rounding.mix32(x) ^ rounding.mix32(x ^ (1 << flipped))
        rates = torch.stack([(changed >> bit & 1).double().mean() for bit in range(32)])
        assert (rates - 0.5).abs().max() < 5 * 0.5 / math.sqrt(len(x))


def test_every_element_is_rounded_by_the_bits_of_its_counter_and_place():
    x = normal(2 * 2**16 + 100)
    given = rounded(x, 7, 2**32 - 1)
    for element in (0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2 * 2**16, 2 * 2**16 + 99):
        assert given[element].item() == rounded_one(x[element].item(), 7, 2**32 - 1, element)


@pytest.mark.parametrize("count", [0, 1, 1000, 2**16, 2**16 + 1, 3 * 2**16 + 7])
def test_the_path_without_the_host_gives_the_same_bits(count):
    x = normal(count)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    rounding._round_on_device(x, torch.tensor((3 << 32) + 5), out)
    assert torch.equal(out, rounded(x))


@triton.jit
def _round_tiles(x, counter, out, first, count, BLOCK: tl.constexpr):
    key = kernel_rounding.tensor_key(tl.load(counter))
    lane = tl.arange(0, BLOCK)
    start = (first + tl.program_id(0).to(tl.int64)) * BLOCK
    mask = start + lane < count
    tile = tl.load(x + start + lane, mask=mask)
    tl.store(out + start + lane, kernel_rounding.stochastic_round(tile, key, start, lane), mask=mask)


def test_a_kernel_rounds_to_the_same_bits():
    """In the first tile, and in those on both sides of where the second row begins."""
    x = normal(2**16 + 700)
    x[:4] = torch.tensor([float("inf"), float("-inf"), float("nan"), 3.4e38])
    x[4:6].view(torch.int32).copy_(torch.tensor([0x7FFFFFFF, -1]))  # a GPU's own NaN, and its negative
    out, counter = torch.zeros_like(x, dtype=torch.bfloat16), torch.tensor((3 << 32) + 5)
    _round_tiles[(1,)](x, counter, out, 0, len(x), BLOCK=1024)
    _round_tiles[(2,)](x, counter, out, 63, len(x), BLOCK=1024)
    for part in (slice(0, 1024), slice(63 * 1024, None)):
        assert torch.equal(out[part].view(torch.int16), rounded(x)[part].view(torch.int16))


def test_the_mean_over_steps_is_the_number_itself():
    """Each element on its own: up in a seventh of the steps, whatever the element."""
    steps, x = 2000, torch.full((500,), SEVENTH_OF_A_STEP)
    ups = sum((rounded(x, updates=t) > 1).double() for t in range(steps))
    deviations = (ups - steps / 7) / math.sqrt(steps * 6 / 49)
    assert deviations.abs().max() < 5
    assert 0.9 < deviations.std() < 1.1  # neither more regular than chance nor less


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 2.0**60, 2.0**-126, 2.0**-131], ids=str)
def test_the_mean_over_elements_is_the_number_itself(scale, sign):
    """At all magnitudes, including subnormal numbers."""
    count = 3 * 2**16
    step = 2**-7 * scale if scale >= 2**-126 else 2.0**-133
    x = torch.full((count,), sign * (1.5 * scale + 0.25 * step))
    errors = (rounded(x).double() - x.double()) / (sign * step)
    assert set(errors.tolist()) == {-0.25, 0.75}
    assert abs(errors.mean()) < 5 * math.sqrt(0.25 * 0.75 / count)


def bits(number=3, updates=5, count=2**16):
    """The 16 random bits of the first elements, as a number that is rounded shows them: that whose pattern's lower half
    is 2¹⁵ is rounded up by those with a first bit, and so on by bisection."""
    low = torch.zeros(count, dtype=torch.int32)  # the largest lower half that is not rounded up
    for bit in reversed(range(16)):
        tried = low + (1 << bit)
        up = rounded((0x3F800000 + tried).view(torch.float32), number, updates) > 1
        low = torch.where(up, low, tried)
    return 0xFFFF - low


@pytest.mark.parametrize("shift", [0, 8], ids=["lower byte", "upper byte"])
def test_bits_are_uniform(shift):
    for updates in range(5):
        counts = torch.bincount(bits(updates=updates) >> shift & 0xFF, minlength=256).double()
        chi_square = ((counts - 256) ** 2 / 256).sum()
        assert 150 < chi_square < 390  # 255 ± 6 standard deviations


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"updates": 5}, {"updates": 6}),
        ({"number": 3}, {"number": 4}),
        ({"number": 0, "updates": 1}, {"number": 1, "updates": 0}),
    ],
    ids=["steps", "tensors", "swapped"],
)
def test_bits_of_other_steps_and_tensors_are_independent(one, other):
    assert_independent(bits(**one), bits(**other))


def test_bits_of_neighbors_are_independent():
    drawn = [bits(updates=t) for t in range(4)]
    for distance in (1, 2, 3, 16, 256, 4096):
        pairs = [(one[:-distance], one[distance:]) for one in drawn]
        assert_independent(*(torch.cat(part) for part in zip(*pairs, strict=True)))


def assert_independent(a, b):
    """Counts of all pairs of the upper four bits, and no correlation of the lower ones."""
    expected = len(a) / 256
    counts = torch.bincount((a >> 12) * 16 + (b >> 12), minlength=256).double()
    assert 120 < ((counts - expected) ** 2 / expected).sum() < 420
    for mask in (0xFFFF, 0xFF, 0xF):
        correlation = torch.corrcoef(torch.stack([(a & mask).double(), (b & mask).double()]))[0, 1]
        assert abs(correlation) < 5.5 / math.sqrt(len(a))


def test_bf16_numbers_stay_unchanged():
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    every = patterns.view(torch.bfloat16)
    numbers = every[~every.isnan()]
    assert torch.equal(rounded(numbers.float()).view(torch.int16), numbers.view(torch.int16))
    assert rounded(every[every.isnan()].float()).isnan().all()


def test_nan_and_infinity_stay_and_too_large_numbers_may_become_infinite():
    nan = torch.tensor([0x7F800001, 0x7FFFFFFF, -1, -(2**23) + 1], dtype=torch.int32).view(torch.float32)
    assert nan.isnan().all()
    largest = torch.finfo(torch.bfloat16).max
    above = torch.tensor(torch.finfo(torch.float32).max)
    for updates in range(200):
        assert rounded(nan, updates=updates).isnan().all()
        edge = torch.tensor([largest, -largest, float("inf"), float("-inf")])
        assert torch.equal(rounded(edge, updates=updates).float(), edge)
    tops = rounded(above.expand(20_000).contiguous())
    assert set(tops.float().tolist()) <= {largest, float("inf")}
    assert tops.isinf().double().mean() > 0.99


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: x,
        lambda x: x.permute(2, 0, 1),
        lambda x: x[:, :, ::2],
        lambda x: x.transpose(0, 1)[1:],
    ],
    ids=["contiguous", "permuted", "holes", "transposed part"],
)
def test_elements_are_counted_in_memory_order(turned):
    x = normal(6 * 5 * 8).view(6, 5, 8)
    out = torch.zeros(6, 5, 8, dtype=torch.bfloat16)
    rounding.stochastic_round(turned(x), (3 << 32) + 5, turned(out))
    by_strides = sorted(range(3), key=lambda d: -turned(out).stride(d))
    flat = turned(x).permute(by_strides).reshape(-1)
    assert torch.equal(turned(out).permute(by_strides).reshape(-1), rounded(flat))
    untouched = torch.ones_like(out, dtype=torch.bool)
    turned(untouched).fill_(False)
    assert not out[untouched].any()


def test_input_of_another_layout_than_the_output():
    x = normal(12).view(3, 4)
    out = torch.empty(4, 3, dtype=torch.bfloat16).t()
    rounding.stochastic_round(x, (3 << 32) + 5, out)
    assert torch.equal(out.t().reshape(-1), rounded(x.t().reshape(-1)))


def test_rows_of_a_moment_are_changed_in_place():
    """Channels-last, so that a row of memory is none of indices."""
    shape = (5, 11, 37, 41)
    weight, grad = (normal(math.prod(shape), seed).view(shape) for seed in (1, 2))
    weight, grad = (x.to(memory_format=torch.channels_last) for x in (weight, grad))
    moment, counter = weight.bfloat16(), torch.tensor((3 << 32) + 5)
    expected = 1.001 * moment.float() + grad
    for w, g, m in rounding.update_rows(weight, grad, moment, counter):
        assert w.numel() <= 2**16
        m.mul_(1.001).add_(g)
    assert torch.equal(moment, rounded(expected))
    assert counter == (3 << 32) + 6
