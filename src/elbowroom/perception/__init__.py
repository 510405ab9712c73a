"""How different two images look, and whether a distance agrees with labels."""

from elbowroom.perception.alignment import (
    ClassDistances,
    Histogram,
    Recall,
    Triples,
    across,
    class_distances,
    recall,
    violated_triples,
)
from elbowroom.perception.calibrate import NoticeableNoise, Threshold, threshold_from_changes
from elbowroom.perception.distance import L0, Lp, PerceptualDistance, VectorDistance, psnr
from elbowroom.perception.features import FeatureDistance, representation
from elbowroom.perception.lpips import LPIPS
from elbowroom.perception.noise import Noise, matched_noise
from elbowroom.perception.ssim import SSIM
from elbowroom.perception.statistics import (
    MedianInterval,
    median_interval,
    rescale_by_dimension,
    rescale_by_typical,
)

__all__ = [
    "L0",
    "LPIPS",
    "SSIM",
    "ClassDistances",
    "FeatureDistance",
    "Histogram",
    "Lp",
    "MedianInterval",
    "Noise",
    "NoticeableNoise",
    "PerceptualDistance",
    "Recall",
    "Threshold",
    "Triples",
    "VectorDistance",
    "across",
    "class_distances",
    "matched_noise",
    "median_interval",
    "psnr",
    "recall",
    "representation",
    "rescale_by_dimension",
    "rescale_by_typical",
    "threshold_from_changes",
    "violated_triples",
]
