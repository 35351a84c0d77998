"""Cases for the compiled operators: tensors in any memory, plans of any shape, the definitions."""

import hypothesis.strategies as st
import torch

from ftbench.ops import MixPlan, reference

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "spaced", "transposed", "cropped", "batch_innermost")
DENSE = LAYOUTS[:2]
_GUARD = 70  # elements before and after a tensor that nobody may write: more than a vector
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def strides_of(layout, batch, channels, height, width):
    """Return the strides of (B, C, H, W) in a layout; all but the first two leave gaps or turn."""
    image = channels * height * width
    return {
        "contiguous": (image, height * width, width, 1),
        "channels_last": (image, 1, width * channels, channels),
        "spaced": (2 * image, 2 * height * width, 2 * width, 2),
        "transposed": (image, height * width, 1, height),
        "cropped": (
            channels * (height + 2) * (width + 3),
            (height + 2) * (width + 3),
            width + 3,
            1,
        ),
        "batch_innermost": (1, batch * height * width, batch * width, batch),
    }[layout]


class Memory:
    """A tensor of the given strides in a longer buffer, whose other elements nobody may write."""

    def __init__(self, shape, strides, dtype, offset=0, fill=77):
        """Lay it out ``offset`` elements after a multiple of 64 bytes."""
        reach = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
        width = torch.empty((), dtype=dtype).element_size()
        self.buffer = torch.full((reach + 2 * _GUARD + 64,), fill, dtype=dtype)
        # Python's and torch's allocators agree on 64 bytes today; do not depend on it.
        start = _GUARD + -(self.buffer.data_ptr() // width + _GUARD) % (64 // width) + offset
        self.tensor = self.buffer.as_strided(shape, strides, start)
        self._outside = torch.ones_like(self.buffer, dtype=torch.bool)
        self._outside.as_strided(shape, strides, start).fill_(False)
        self._fill = fill

    def untouched_outside(self):
        """Return whether every element that is not the tensor's is what it was."""
        return bool((self.buffer[self._outside] == self._fill).all())


def in_memory(values, layout, offset=0):
    """Return the Memory of a (B, C, H, W) tensor with these values."""
    memory = Memory(tuple(values.shape), strides_of(layout, *values.shape), values.dtype, offset)
    memory.tensor.copy_(values)
    return memory


def out_memory(shape, dtype, layout, offset=0):
    """Return the Memory of a buffer (B, C, H, W) for a result."""
    return Memory(tuple(shape), strides_of(layout, *shape), dtype, offset)


def canonical_bits(values):
    """Return the elements as integers, every NaN the same one."""
    whole = values.detach().contiguous()
    if whole.is_floating_point():
        whole = torch.where(whole.isnan(), torch.full_like(whole, float("nan")), whole)
    return whole.view(_BITS[whole.element_size()])


def same_bits(found, expected):
    """Return whether dtype, shape and bits are equal, signs of zero included."""
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and torch.equal(canonical_bits(found), canonical_bits(expected))
    )


def draw_values(shape, dtype, seed, *, special=False):
    """Return random numbers, or bytes; with infinities, NaN and subnormal numbers if special."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(256, shape, dtype=dtype, generator=generator)
    values = torch.randn(shape, generator=generator).to(dtype)
    if special and values.numel():
        info = torch.finfo(dtype)
        odd = [float("inf"), float("-inf"), float("nan"), -0.0, 0.0]
        odd += [info.max, info.min, info.tiny, -info.tiny / 8, info.smallest_normal * info.eps]
        which = torch.randint(6 * len(odd), shape, generator=generator)
        for index, value in enumerate(odd):
            values[which == index] = value
        # NaNs whose bits, rounded as a number's, would be those of infinity or of zero.
        ones = 2 ** (8 * values.element_size() - 1) - 1
        infinity = torch.tensor(float("inf"), dtype=dtype).view(_BITS[values.element_size()])
        for index, bits in enumerate((int(infinity) + 1, ones, -1), start=len(odd)):
            values.view(infinity.dtype)[which == index] = bits
    return values


def edges(limit):
    """Where a box may begin or end: within the image, outside, or as far as int32 reaches."""
    return st.one_of(
        st.integers(-3, limit + 3),
        st.sampled_from([0, limit, -(2**31), 2**31 - 1]),
    )


@st.composite
def boxes(draw, height, width):
    """One [top, left, bottom, right) with top ≤ bottom and left ≤ right."""
    kind = draw(st.sampled_from(["empty", "full", "any", "any", "any"]))
    if kind == "empty":
        return [0, 0, 0, 0]
    if kind == "full":
        return [0, 0, height, width]
    rows = sorted([draw(edges(height)), draw(edges(height))])
    columns = sorted([draw(edges(width)), draw(edges(width))])
    return [rows[0], columns[0], rows[1], columns[1]]


# Weights so small that products with pixels are subnormal have a test of their own.
weights = st.sampled_from([0.0, 1.0]) | st.floats(2.0**-60, 1, width=32)


@st.composite
def plans(draw, batch, height, width):
    """Partners that are permutations, shared, oneself, or chains that lead into cycles."""
    partner = draw(
        st.permutations(range(batch))
        | st.lists(st.integers(0, max(0, batch - 1)), min_size=batch, max_size=batch)
        | st.just([(i + 1) % batch for i in range(batch)])
        | st.just([i ^ 1 if i ^ 1 < batch else i for i in range(batch)])
        | st.just(list(range(batch)))
    )
    each = {"min_size": batch, "max_size": batch}
    chosen = draw(
        st.lists(weights, **each) | weights.map(lambda one: [one] * batch)  # one λ for the batch
    )
    box = draw(st.lists(boxes(height, width), **each))
    return MixPlan(
        torch.tensor(partner, dtype=torch.int64),
        torch.tensor(chosen, dtype=torch.float32),
        torch.tensor(box, dtype=torch.int32).reshape(-1, 4),
        height,
        width,
    )


@st.composite
def shapes(draw):
    """(B, C, H, W): whole vectors and tails, few and many channels, within some 50,000 values."""
    channels = draw(st.sampled_from([1, 2, 3, 3, 4, 5, 16, 17, 40]))
    widest = 200 if channels <= 5 else 40
    near = st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 192, 200])
    width = draw(st.integers(1, widest) | near.filter(lambda w: w <= widest))
    height = draw(st.integers(1, max(1, min(24, 6000 // (width * channels)))))
    return draw(st.integers(1, 9)), channels, height, width


@st.composite
def mix_cases(draw, dtypes=(*FLOATS, torch.uint8), layouts=LAYOUTS, special=True):
    """Return images, which are uint8 (B, H, W, C) or floats (B, C, H, W), and a plan for them."""
    shape = draw(shapes())
    dtype = draw(st.sampled_from(dtypes))
    values = draw_values(
        shape, dtype, draw(st.integers(0, 9999)), special=special and draw(st.booleans())
    )
    images = in_memory(values, draw(st.sampled_from(layouts)), draw(st.integers(0, 17))).tensor
    if dtype == torch.uint8:
        images = images.permute(0, 2, 3, 1)
    return images, draw(plans(shape[0], *shape[2:]))


def normalization(channels):
    """Return mean and std, different in every channel."""
    mean = [0.3 + 0.5 * (i % 7) / 7 for i in range(channels)]
    return mean, [0.2 + 0.1 * (i % 5) for i in range(channels)]


def arguments(images, plan, normalize=None):
    """Return what the operators of torch.ops.ftbench take first."""
    mean, std = normalize or ([], [])
    return images, plan.partner, plan.weight, plan.box, list(mean), list(std)


def referenced(images, plan, dtype, normalize=None):
    """Return what plain torch gives, rounded once to ``dtype``."""
    mean, std = normalize or ([], [])
    mixed = reference.mix(images, plan.partner, plan.weight, plan.clipped_box, mean, std)
    return mixed.to(dtype)


def assert_defined(found, images, plan, normalize):
    """Check a normalised result against float64: four float32 roundings and that to its dtype.

    Boxes are pasted image by image, not by a mask as plain torch does.
    """
    integer = images.dtype == torch.uint8
    x = (images.permute(0, 3, 1, 2) if integer else images).double()
    mean, std = (torch.tensor(n, dtype=torch.float64).view(-1, 1, 1) for n in normalize)
    scale, shift = 1 / ((255 if integer else 1) * std), -mean / std
    expected, terms = torch.empty_like(x), torch.empty_like(x)
    for i, (partner, weight) in enumerate(
        zip(plan.partner.tolist(), plan.weight.tolist(), strict=True)
    ):
        own, other = weight * scale * x[i], (1 - weight) * scale * x[partner]
        expected[i] = own + other + shift
        terms[i] = own.abs() + other.abs() + shift.abs()
        top, left, bottom, right = (max(0, side) for side in plan.box[i].tolist())
        pasted = scale * x[partner] + shift
        expected[i, :, top:bottom, left:right] = pasted[:, top:bottom, left:right]
        terms[i, :, top:bottom, left:right] = (pasted.abs() + shift.abs())[
            :, top:bottom, left:right
        ]
    info = torch.finfo(found.dtype)
    slack = 4 * torch.finfo(torch.float32).eps * terms
    rounding = info.eps / 2 * expected.abs().clamp(min=info.smallest_normal)
    assert found.shape == expected.shape
    error = (found.double() - expected).abs()
    assert (error <= slack + rounding * (1 + 1e-6)).all(), (error - slack - rounding).max()


def each_set(module):
    """Use every instruction set of this processor in turn, and return its name."""
    for name in module.instruction_sets():
        module.use_instruction_set(name)
        yield name
