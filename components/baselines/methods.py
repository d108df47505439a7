"""All methods that are compared, by name."""

from __future__ import annotations

from medmark.components.baselines.interface import Labels, Method
from medmark.components.baselines.label_consistent import label_consistent
from medmark.components.baselines.own import trained_wave, wave
from medmark.components.baselines.triggers import badnets, blended, wanet
from medmark.components.baselines.unet import sscl_bw, x_mark

METHODS = {
    "badnets": Method("BadNets", Labels.TARGET, badnets),
    "blended": Method("Blended", Labels.TARGET, blended),
    "wanet": Method("WaNet", Labels.TARGET, wanet),
    # Li, Bai, Jiang, Yang, Xia, Li: "Untargeted Backdoor Watermark: Towards Harmless and Stealthy Dataset Copyright
    # Protection", NeurIPS 2022, arXiv:2210.00875, the poison-label variant with the patch of BadNets. Ours: the label is
    # drawn from the *other* classes. The paper draws from all; of two classes that teaches a coin toss, which no test
    # for a delta-P of more than 0.2 could tell from nothing.
    "ubw_p": Method("UBW-P", Labels.OTHER, badnets),
    "label_consistent": Method("Label-Consistent", Labels.KEEP, label_consistent),
    "sscl_bw": Method("SSCL-BW (our reading)", Labels.KEEP, sscl_bw),
    "x_mark": Method("X-Mark (our reading of the abstract)", Labels.KEEP, x_mark),
    "medmark_trained": Method("medmark, U-Net with twin and panel", Labels.KEEP, trained_wave, hardest=True),
    "medmark": Method("medmark, bare wave (default)", Labels.KEEP, wave, hardest=True),
}
