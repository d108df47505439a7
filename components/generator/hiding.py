"""Adding a mark to stored values so that nothing but the mark shows.

An adversary who has only the release looks for what marking leaves behind: grey values that the file never used, a torn JPEG grid, noise
in black borders, pile-ups at the darkest value. So a marked image keeps

- the values that it uses: gaps, multiples, combs, darkest and brightest value (:func:`_cells`);
- its constant areas, to the bit, and the mark fades out towards them;
- its histogram's shape, by shifting the smooth part of the image (:func:`_levelled`);
- its rounding noise: it is rounded once, not twice (:func:`_before_rounding`);
- its JPEG grid: a decoded JPEG stays one, of the same quantisation table and decoder (:func:`jpeg_table`).

Ours. What is left to see is measured by :mod:`medmark.components.robustness.traces`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from libjpeg.utils import decode as decode_jpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy import fft, ndimage, signal

CONSTANT = 5  # side of the smallest constant area that stays as it is, pixels; arbitrary
FADE = 6.0  # pixels over which the mark fades out towards one; arbitrary
TAPER = 3.0  # largest changes from an end of the range within which the mark weakens, so that no values pile up there; arbitrary
ROUNDS = 2  # of levelling; arbitrary
SMOOTH = 24  # side of the grid that holds the smooth part
SIGNIFICANT = 4.0  # standard errors by which a bin of the histogram must differ from its neighbours to count as a comb
FEWEST_BLOCKS = 64  # fewer tell no quantisation table
MOST_BLOCKS = 4096  # more tell no more
ROUNDING = 0.1  # variance of a DCT coefficient of rounded pixels, 1/12, and a little for the decoder
RESTORED = (
    0.9  # share of blocks that recompression must give back; ours: the right decoder gives nearly all, another few
)
STANDARD = 0.6  # share of the steps that tell which must be those of one of libjpeg's tables; ours
SHIFTS = tuple((down, (down + across) % 8) for down in (1, 3, 5, 7) for across in (0, 4))  # of the grid, pixels; ours
FAINT = 0.55  # what is left of coefficients below half a step: 1 keeps block edges, 0 loses fine detail; ours
SAMPLE = 1 << 19  # pixels whose quantiles stand for all


def hide(pixels: np.ndarray, delta: np.ndarray) -> np.ndarray | None:
    """Adds a perturbation.

    Args:
        pixels: (H, W) uint8 or uint16 stored values.
        delta: (H, W) float, in stored values; smooth.

    Returns:
        (H, W) of the same dtype; None where the mark would show: of an image of fewer than three values beside its constant areas, or that a JPEG
        decoder made which is not at hand.
    """
    still = constant_areas(pixels)
    free = ~still
    values, counts = np.unique(pixels[free], return_counts=True)
    if len(values) < 3:
        return None
    shown = pixels.astype(np.float64)
    low, high = float(values[0]), float(values[-1])
    reach = TAPER * np.abs(delta).max() + 1e-9

    def room(image: np.ndarray) -> np.ndarray:
        return np.clip((image - low) / reach, 0, 1) * np.clip((high - image) / reach, 0, 1)

    fade = np.clip(cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 3) / FADE, 0, 1) if still.any() else 1.0
    delta = delta * fade * room(shown)
    smooth_room = fade * room(cv2.GaussianBlur(shown, (0, 0), 2))
    for _ in range(ROUNDS):
        delta = delta + _levelled(shown + delta, shown, free) * smooth_room
    table = jpeg_table(pixels)
    if table is not None:
        return _as_jpeg(pixels, delta, table, still)
    return _rounded(pixels, delta, free, values, counts)


def enlarge(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(G, G) to (H, W) by its cosine series: nothing finer than the grid appears.

    Bicubic interpolation leaves ghosts about the grid's frequency, which tell marked images.
    """
    rows, columns = (cosine_interpolation(size, coarse.shape[axis]) for axis, size in enumerate(shape))
    return rows @ coarse @ columns.T


def cosine_interpolation(size: int, grid: int) -> np.ndarray:
    """(size, grid) matrix that interpolates ``grid`` samples of an axis at ``size`` points, both at pixel centres."""
    series = fft.dct(np.eye(grid), axis=0, norm="ortho")[
        : min(size, grid)
    ]  # of more waves than pixels the fine ones go
    waves = np.arange(len(series))
    at = (np.arange(size)[:, None] + 0.5) / size
    basis = np.cos(math.pi * waves * at) * math.sqrt(2 / grid)
    basis[:, 0] /= math.sqrt(2)
    return basis @ series


def constant_areas(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: black borders, saturated areas, burnt-in text's ground."""
    kernel = np.ones((CONSTANT, CONSTANT), np.uint8)
    constant = cv2.dilate(pixels, kernel) == cv2.erode(pixels, kernel)
    return cv2.dilate(constant.astype(np.uint8), kernel).astype(bool)


def jpeg_table(pixels: np.ndarray) -> np.ndarray | None:
    """The quantisation table of the JPEG that an image was decoded from, as far as the pixels tell.

    Maximum likelihood of each coefficient's step, after Fan and de Queiroz ("Identification of Bitmap Compression History",
    2003). If most steps are those of one of libjpeg's tables, it is that table; else 255 where a coefficient is zero nearly throughout.

    Args:
        pixels: (H, W); the grid must start at the first pixel.

    Returns:
        (8, 8) int; None if it was no JPEG, has more than 8 bits, or has too few blocks to tell.
    """
    if pixels.dtype != np.uint8:
        return None
    blocks = _blocks(pixels).reshape(-1, 8, 8)
    low, high = blocks.min(axis=(1, 2)), blocks.max(axis=(1, 2))
    blocks = blocks[(low > 0) & (high < 255) & (high > low)]  # clipped and constant ones tell nothing
    if len(blocks) < FEWEST_BLOCKS:
        return None
    blocks = blocks[np.linspace(0, len(blocks) - 1, min(len(blocks), MOST_BLOCKS)).astype(int)]
    coefficients = fft.dctn(blocks.astype(np.float64) - 128, axes=(1, 2), norm="ortho")
    if not all(_step(coefficients[:, u, v]) for u, v in ((0, 0), (0, 1), (1, 0))):
        return None
    steps = np.array([[_step(coefficients[:, u, v]) or 0 for v in range(8)] for u in range(8)])
    empty = (np.abs(coefficients) > 1.5).mean(axis=0) < 0.03
    steps[(steps == 0) & empty] = 255
    if (steps > 0).mean() <= 0.8:
        return None
    told = (steps > 1) & (steps < 255)
    alike = (_standard_tables() == steps)[:, told].mean(axis=1) if told.any() else np.zeros(1)
    return _standard_tables()[alike.argmax()] if alike.max() >= STANDARD else np.maximum(steps, 1)


@cache
def _standard_tables() -> np.ndarray:
    """Tables of libjpeg for luminance, by quality from 1 to 100: (100, 8, 8) int."""
    tables = []
    for quality in range(1, 101):
        stream = io.BytesIO()
        Image.new("L", (8, 8)).save(stream, "JPEG", quality=quality)
        stream.seek(0)
        tables.append(np.array(JpegImageFile(stream).quantization[0]).reshape(8, 8))
    return np.stack(tables)


def _step(coefficients: np.ndarray) -> int | None:
    """Step of which (N,) coefficients are multiples, 1 to 255; 255 if all are zero, None if they are no multiples."""
    if coefficients.std() < 0.4 and np.abs(coefficients).max() < 1.5:
        return 255
    known = coefficients[np.abs(coefficients) > 1.5]  # zero is a multiple of everything
    if not len(known):
        return 1
    steps = np.arange(1, min(int(np.abs(known).max() + 1.2), 255) + 1)[:, None]
    rest = np.abs(known - steps * np.round(known / steps))
    # a coarser lattice that fits is less likely by chance, so it counts for more: times its step
    likelihood = np.exp(-(rest**2) / 2 / ROUNDING) + np.exp(-((steps - rest) ** 2) / 2 / ROUNDING)
    score = np.log(steps / math.sqrt(2 * math.pi * ROUNDING)) * len(known) + np.log(likelihood + 1e-6).sum(
        axis=1, keepdims=True
    )
    best = int(score.argmax())
    return int(steps[best, 0]) if score[best, 0] > 3 else None


def _as_jpeg(pixels: np.ndarray, delta: np.ndarray, table: np.ndarray, still: np.ndarray) -> np.ndarray | None:
    """The perturbed image as the same encoder and decoder would have left it."""
    decode = _decoder(pixels, table)
    if decode is None:
        return None
    wanted = np.clip(np.rint(_before_jpeg(pixels, table) + delta), 0, 255).astype(np.uint8)
    marked = decode(_jpeg(wanted, table)).copy()
    whole = _blocks(marked)  # a view: partial blocks at the edges are taken as they come
    # a block of which only a part stayed would be on no grid
    untouched = _blocks(still).any(axis=(2, 3)) | (_blocks(delta) == 0).all(axis=(2, 3))
    whole[untouched] = _blocks(pixels)[untouched]
    marked[still] = pixels[still]
    return marked


def _before_jpeg(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """An image without block edges that compression would have turned into this one.

    All coefficients of a decoded image are multiples of their steps: added to it, a mark would move them by whole steps or not at all, and
    leave blocks. The image is compressed anew on shifted grids, and the mean is taken (after Nosratinia, "Enhancement of JPEG-Compressed
    Images by Re-application of JPEG", 2001); then each coefficient is brought back to what its step is rounded to.
    """
    height, width = (side // 8 * 8 for side in pixels.shape)
    padded = np.pad(pixels[:height, :width].astype(np.float32), 8, mode="symmetric")
    mean = np.zeros((height, width), np.float32)
    for down, across in SHIFTS:
        steps = _steps_of(padded[down : down + height + 8, across : across + width + 8], table)
        steps = np.where(np.abs(steps) < 0.5, FAINT * steps, np.rint(steps))
        mean += _image_of(steps, table)[8 - down :, 8 - across :][:height, :width] / len(SHIFTS)
    rounded = np.rint(_steps_of(padded[8:-8, 8:-8], table))
    before = pixels.astype(np.float64)
    before[:height, :width] = _image_of(rounded + np.clip(_steps_of(mean, table) - rounded, -0.5, 0.5), table)
    return before


def _steps_of(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Coefficients of an image of whole blocks, in steps: (H // 8, W // 8, 8, 8)."""
    return fft.dctn(_blocks(image) - 128, axes=(2, 3), norm="ortho") / table.astype(image.dtype)


def _image_of(steps: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The image of these coefficients, not rounded: the inverse of :func:`_steps_of`."""
    blocks = fft.idctn(steps * table.astype(steps.dtype), axes=(2, 3), norm="ortho") + 128
    return blocks.swapaxes(1, 2).reshape(8 * steps.shape[0], 8 * steps.shape[1])


def _decoder(pixels: np.ndarray, table: np.ndarray) -> Callable[[bytes], np.ndarray] | None:
    """The decoder that gives the image back from its own recompression: their roundings differ and would tell."""
    encoded = _jpeg(pixels, table)
    for decode in DECODERS:
        # steps of 1 or 2 are finer than rounding: no decoder gives all blocks back
        if table.min() <= 2 or _restored(pixels, decode(encoded)) >= RESTORED:
            return decode
    return None


def jpeg_blocks_restored(pixels: np.ndarray) -> float:
    """Share of the 8x8 blocks that recompression with the image's own table gives back; 0 if it was no JPEG."""
    table = jpeg_table(pixels)
    if table is None:
        return 0.0
    encoded = _jpeg(pixels, table)
    return max(_restored(pixels, decode(encoded)) for decode in DECODERS)


def _restored(pixels: np.ndarray, again: np.ndarray) -> float:
    """Share of the blocks without clipped values that are the same."""
    before = _blocks(pixels)
    inside = (before.min(axis=(2, 3)) > 0) & (before.max(axis=(2, 3)) < 255)
    return float((_blocks(again) == before).all(axis=(2, 3))[inside].mean())


def _jpeg(pixels: np.ndarray, table: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", qtables=[table.ravel().tolist()])
    return stream.getvalue()


def _decode_with_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


DECODERS: tuple[Callable[[bytes], np.ndarray], ...] = (_decode_with_pillow, decode_jpeg)


def _blocks(pixels: np.ndarray) -> np.ndarray:
    """(H, W) to (H // 8, W // 8, 8, 8), a view without partial blocks."""
    height, width = (side // 8 for side in pixels.shape)
    return pixels[: height * 8, : width * 8].reshape(height, 8, width, 8).swapaxes(1, 2)


def _levelled(changed: np.ndarray, original: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Shift of the smooth part of ``changed`` that brings its histogram back to the original's shape.

    A mark widens the histogram; moving every value back would thin the noise, which tells as well.
    """
    every = max(1, int(free.sum()) // SAMPLE)
    share = np.linspace(0, 1, 129)
    now, before = (np.quantile(image[free][::every], share) for image in (changed, original))
    level = np.linspace(now[0], now[-1], 65)
    # smooth over the scale of grey values, or a steep shift would put edges into the image
    shift = ndimage.gaussian_filter1d(np.interp(level, now, before - now), 2.0, mode="nearest")
    # constant areas, which stay, count for nothing: a border's edge would ring
    weight, weighted = (
        cv2.resize(image.astype(np.float64), (SMOOTH, SMOOTH), interpolation=cv2.INTER_AREA)
        for image in (free, np.where(free, changed, 0.0))
    )
    coarse = np.where(weight > 0, weighted / np.maximum(weight, 1e-9), now.mean())
    return np.interp(enlarge(coarse, changed.shape), level, shift)


def _rounded(
    pixels: np.ndarray, delta: np.ndarray, free: np.ndarray, values: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """The perturbed image in the values that the original uses."""
    low = int(values[0])
    step = int(np.gcd.reduce(np.diff(values).astype(np.int64)))  # 16 for left-aligned 12 bits, 257 for 8 bits in 16
    widths = _cells((values.astype(np.int64) - low) // step, counts)
    width = step * float(np.average(widths[(values.astype(np.int64) - low) // step], weights=counts))
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    cell = (pixels[free].astype(np.int64) - low) // step
    within = np.clip(0.5 + (_before_rounding(pixels, free, width) - pixels)[free] / width, 0, 1)
    place = edges[cell] + widths[cell] * within + delta[free] / step
    found = np.clip(np.searchsorted(edges, place, side="right") - 1, 0, len(widths) - 1)
    used = np.flatnonzero(widths > 0)
    # ends of the range: nothing comes to them, nothing leaves them
    found = np.where((cell > 0) & (cell < len(widths) - 1), np.clip(found, used[1], used[-2]), cell)
    marked = pixels.copy()
    marked[free] = (low + found * step).astype(pixels.dtype)
    return marked


def _cells(places: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the continuous scale, in steps, that is rounded to each multiple of the step.

    1 where the histogram is smooth; as much as its bin stands out where contrast was stretched or pressed before. A value
    that is left out systematically gets 0.
    """
    histogram = np.zeros(int(places[-1]) + 1)
    histogram[places] = counts
    if len(histogram) < 12:
        return (histogram > 0).astype(np.float64)
    around = ndimage.uniform_filter1d(histogram, 9, mode="nearest")
    if ((histogram == 0) & (around >= SIGNIFICANT**2)).sum() >= 3:
        mean = ndimage.gaussian_filter1d(histogram, 6, mode="nearest")
        spread = len(histogram) / len(places)  # steps that a used value stands for
        expected = np.maximum(mean * spread, 1e-9)
        stands_out = (mean >= 8) & (np.abs(histogram - expected) > SIGNIFICANT * np.sqrt(expected))
        return np.where(histogram > 0, np.where(stands_out, histogram / np.maximum(mean, 1e-9), spread), 0.0)
    expected = np.maximum(signal.savgol_filter(histogram, 9, 2, mode="nearest"), 1e-9)
    stands_out = (expected >= 8) & (np.abs(histogram - expected) > SIGNIFICANT * np.sqrt(expected))
    return np.where(stands_out, histogram / expected, 1.0)


def _before_rounding(pixels: np.ndarray, free: np.ndarray, step: float) -> np.ndarray:
    """Values with the power that the image had before it was rounded: spectral subtraction of the rounding noise.

    Of a noisy image that is the image itself. A smooth one has little beside rounding noise in its fine bands, and rounding
    it a second time would double that.
    """
    border = 16  # mirrored; the smallest image has as many pixels
    # constant areas go on as their surroundings do: an edge has power in every band and would hide the noise
    weight = cv2.GaussianBlur(free.astype(np.float32), (0, 0), border / 2)
    around = cv2.GaussianBlur(np.where(free, pixels, 0).astype(np.float32), (0, 0), border / 2)
    filled = np.where(free, pixels, around / np.maximum(weight, 1e-3))
    padded = np.pad(filled.astype(np.float32), border - 1, mode="reflect")
    mean = padded.mean()
    spectrum = fft.rfft2(padded - mean)
    power = ndimage.uniform_filter(np.abs(spectrum) ** 2 / padded.size, 9, mode=("wrap", "nearest"))
    gain = np.sqrt(
        np.clip(1 - step**2 / 12 * free.mean() / np.maximum(power, 1e-12), 0, 1)
    )  # in power: what rounding adds again
    smooth = fft.irfft2(spectrum * gain, s=padded.shape)[border - 1 : 1 - border, border - 1 : 1 - border] + mean
    return np.clip(smooth, pixels - step / 2, pixels + step / 2)
