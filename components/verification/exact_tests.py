"""Ask what a suspect knows of the published images, and join the exact tests: what a lot decided, and the suspect could learn from the release alone.

The tests are of the key, of variants of marked images, and of patients who were held back. Each p-value is exact for a suspect that did not
learn from the release, whatever the other lots were, so Fisher's method joins them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmark.components.evidence.held_back import HELD_BACK, read_held_back
from medmark.components.evidence.variants import has_variants, read_variants
from medmark.components.verification.held_back_test import HeldBackTest, held_back_test
from medmark.components.verification.interrogation import Suspect
from medmark.components.verification.key_test import KeyTest
from medmark.components.verification.variant_test import VariantTest, variant_test
from scipy.stats import combine_pvalues

# of the tests by published images, up to which a suspect that the mark does not speak against is asked for the key, too: up to 2,730 questions.
# Ours; beyond it hardly any rank of the key would do.
WORTH_THE_KEY = 0.1


@dataclass(frozen=True)
class KnownImages:
    """What two tests say of whether a suspect learned from the published images.

    Attributes:
        variants: by variants of marked images; None: the evidence has none.
        held_back: by patients who were held back; None: nobody was.
    """

    variants: VariantTest | None
    held_back: HeldBackTest | None

    @property
    def worth_the_key(self) -> bool:
        """Whether it is likely enough that the rank of the key decides; see :data:`WORTH_THE_KEY`."""
        return joined(None, self) <= WORTH_THE_KEY


def ask_about_images(
    suspect: Suspect, evidence_dir: str | Path, evidence: dict[str, Any], size: int
) -> KnownImages | None:
    """Asks a suspect about the published images; None if the evidence has nothing to ask.

    Args:
        suspect: to be asked; it must give probabilities.
        evidence_dir: private evidence.
        evidence: content of its ``evidence.json``. Places of the published variants and who was held back follow from its seed, as the draw does.
        size: side of the images in pixels.

    Raises:
        MedmarkError: unreadable images, what the suspect raises, or an answer is no probability vector.
    """
    given = {"size": size, "seed": evidence["seed"]}
    variants = held_back = None
    if has_variants(evidence_dir, evidence):
        variants = variant_test(suspect, read_variants(evidence_dir, **given))
    if HELD_BACK in evidence["files"]:
        held_back = held_back_test(suspect, read_held_back(evidence_dir, share=evidence["hold_back"], **given))
    return None if variants is None and held_back is None else KnownImages(variants, held_back)


def joined(key: KeyTest | None, images: KnownImages) -> float:
    """p-value of the exact tests together, by Fisher's method.

    Args:
        key: rank of the key; None: not asked for.
        images: at least one test by the published images.
    """
    tests = [test.p_value for test in (key, images.variants, images.held_back) if test is not None]
    return float(combine_pvalues(tests, method="fisher").pvalue)
