"""Between stored values and what a viewer shows.

Marks are made in *display units*: the image as a radiologist's viewer shows it, in [0, 1]. They are written back into
stored values at native depth, so window, rescale and MONOCHROME1 keep their meaning.
"""

from __future__ import annotations

import math

import numpy as np
from medmark.components.base.errors import MedmarkError

# What a viewer needs to show the stored values, and nothing that names a person, a place or a time.
DISPLAY_ATTRIBUTES = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "PhotometricInterpretation",
    "BitsStored",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "PixelSpacing",
    "ImagerPixelSpacing",
)
GRAY = ("MONOCHROME1", "MONOCHROME2")
# Free text may name a person, so only these terms travel; DICOM PS3.3 C.7.3.1.1.1, PS3.16 Annex L, PS3.3 C.8.
TERMS = {
    "Modality": frozenset("CR CT DX IO IVUS MG MR NM OCT OP OPT PT PX RF RG SC US XA OT".split()),
    "BodyPartExamined": frozenset(
        "ABDOMEN ABDOMENPELVIS ANKLE AORTA ARM BLADDER BRAIN BREAST CALCANEUS CALF CAROTID CEREBELLUM CERVIX CHEEK CHEST"
        " CHESTABDOMEN CHESTABDPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE ELBOW ESOPHAGUS EXTREMITY EYE FACE FEMUR FINGER"
        " FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER"
        " LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NOSE ORBIT OVARY PANCREAS PAROTID PATELLA"
        " PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SELLA SHOULDER SIJOINT SINUS SKULL"
        " SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA TIBFIB TLSPINE TMJ TOE TONGUE TRACHEA"
        " TSPINE UPRARM URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA".split()
    ),
    "ViewPosition": frozenset(
        "AP PA LL RL RLD LLD RLO LLO RAO LAO RPO LPO LATERAL LAT CC ML MLO LM LMO LMR XCC XCCL XCCM FB SIO ISO".split()
    ),
    "PhotometricInterpretation": frozenset(GRAY),
}
# Bounds of a plausible window, ours; real CR files have windows of 0.92 to 1 of their range that end up to 0.04 outside.
WIDEST = 1.1  # of what the stored bits can hold: wider, and a mark in display units exceeds what is seen
NARROWEST = 1 / 256  # likewise, and at least MIN_SPAN stored values
MIN_SPAN = 16
OUTSIDE = 0.25  # how far beyond the stored range a window may begin or end, as a share of the range
REACH = 1.25  # arbitrary: images that use four fifths of the display's range or more are marked in full
MIN_INSIDE = 0.01  # share of the pixels that must be neither black nor white


def check_window(pixels: np.ndarray, bits: int, dicom: object) -> None:
    """Refuses display attributes that would make a mark invisible, or ruin the image.

    Args:
        pixels: (H, W) stored values.
        bits: significant bits, 1 to 16.
        dicom: display attributes, from a header or a release; hostile. None means the full range, which is never refused.

    Raises:
        MedmarkError: an attribute that is none of :data:`DISPLAY_ATTRIBUTES`, a text that is none of :data:`TERMS`, a number that is none or not finite, a slope
            that is not positive, a width or centre that does not fit the stored bits, or a window with fewer than 1 % of
            the pixels inside. The message says which, not which file: the caller knows.
    """
    if dicom is None:
        return
    if not isinstance(dicom, dict) or not set(dicom) <= set(DISPLAY_ATTRIBUTES):
        raise MedmarkError("attributes that are none of a display; ingest the raw images")
    for name, value in dicom.items():
        if name in TERMS:
            if not isinstance(value, str) or value not in TERMS[name]:  # free text may name a person
                raise MedmarkError(f"{name} is none of the defined terms; ingest the raw images")
        else:
            for number in value if isinstance(value, list) else [value]:
                _number(name, number)
    values = {
        name: _number(name, dicom[name])
        for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
        if name in dicom
    }
    if values.get("RescaleSlope", 1.0) <= 0:
        raise MedmarkError(f"RescaleSlope {values['RescaleSlope']:g} is not positive; export it with a positive slope")
    if not {"WindowWidth", "WindowCenter"} <= set(values):
        return
    full = float(2**bits)
    if values["WindowWidth"] <= 1:
        raise MedmarkError(f"WindowWidth {values['WindowWidth']:g} is not above 1; export it with its window or none")
    low, span, _ = _window(bits, dicom)
    least = max(NARROWEST * full, MIN_SPAN) - 1
    if not least <= span <= WIDEST * full:
        raise MedmarkError(
            f"WindowWidth {values['WindowWidth']:g} is {span:.4g} stored values, not {least:g} to {WIDEST * full:.0f} as"
            f" {bits} bits allow; correct it or RescaleSlope"
        )
    if not (-OUTSIDE * full <= low and low + span <= (1 + OUTSIDE) * full):
        raise MedmarkError(
            f"WindowCenter {values['WindowCenter']:g} puts the window at {low:.4g} to {low + span:.4g}, outside what {bits}"
            " bits hold; correct it or RescaleIntercept"
        )
    inside = float(((pixels > low) & (pixels < low + span)).mean())
    if inside < MIN_INSIDE:
        raise MedmarkError(
            f"WindowCenter and WindowWidth leave {inside:.1%} of the pixels between black and white, fewer than"
            f" {MIN_INSIDE:.0%}; correct them"
        )


def _number(name: str, value: object) -> float:
    """The first value as a finite number."""
    try:
        number = float(_first(value, math.nan))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e9:  # ours: float32 pixels lose their values beyond
        raise MedmarkError(f"{name} is not a number that can be used; correct it")
    return number


def _window(bits: int, dicom: dict | None) -> tuple[float, float, bool]:
    """Stored value shown darkest, span to the brightest, and whether the scale is inverted."""
    low, span, inverted = 0.0, float(2**bits - 1), False
    if dicom:
        inverted = dicom.get("PhotometricInterpretation") == "MONOCHROME1"
        slope = float(_first(dicom.get("RescaleSlope"), 1.0)) or 1.0
        intercept = float(_first(dicom.get("RescaleIntercept"), 0.0))
        width = float(_first(dicom.get("WindowWidth"), 0.0))
        if width > 1 and "WindowCenter" in dicom:
            center = float(_first(dicom["WindowCenter"], 0.0))
            # DICOM PS3.3 C.11.2.1.2: linear VOI LUT
            low = (center - 0.5 - (width - 1) / 2 - intercept) / slope
            span = (width - 1) / slope
    return low, span, inverted


def _first(value: object, default: float) -> object:
    if isinstance(value, list):
        value = value[0] if value else None
    return default if value is None else value


def to_unit(pixels: np.ndarray, bits: int, dicom: dict | None = None) -> np.ndarray:
    """The image as shown.

    Args:
        pixels: (H, W) stored values.
        bits: significant bits.
        dicom: display attributes; the first window is used, MONOCHROME1 is inverted. Without a window, the full range.

    Returns:
        (H, W) float32 in [0, 1].
    """
    low, span, inverted = _window(bits, dicom)
    unit = np.clip((pixels.astype(np.float32) - low) / span, 0.0, 1.0).astype(np.float32)
    return 1.0 - unit if inverted else unit


def stored_delta(delta: np.ndarray, pixels: np.ndarray, bits: int, dicom: dict | None = None) -> np.ndarray:
    """A perturbation in stored values.

    Args:
        delta: (H, W) in units of the display's full range.
        pixels: (H, W) stored values; the display's range counts for no more than :data:`REACH` times theirs, so that a window
            that is much wider than the image cannot drown it.
        bits: significant bits.
        dicom: display attributes.

    Returns:
        (H, W) float64, to be added.
    """
    _, span, inverted = _window(bits, dicom)
    span = min(span, REACH * float(np.ptp(pixels)))
    return delta.astype(np.float64) * (-span if inverted else span)
