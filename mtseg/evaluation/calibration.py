"""Calibration of probabilities: expected calibration error (Guo et al., ICML 2017), by hotcoco."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import metrics

BINS = 10
DECIMALS = 4


def calibration(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """`ece`, 0 to 1, and 10 `bins` of equal width with lower, upper, confidence, accuracy and count.

    confidence: [n], 0 to 1. correct: bool [n]. The ECE is None if n is 0, confidence and accuracy of an empty bin too.
    """
    bins = [
        {
            "lower": round(each["bin_lower"], DECIMALS),
            "upper": round(each["bin_upper"], DECIMALS),
            "confidence": round(each["avg_confidence"], DECIMALS) if each["count"] else None,
            "accuracy": round(each["avg_accuracy"], DECIMALS) if each["count"] else None,
            "count": each["count"],
        }
        for each in metrics.calibration_curve(confidence, correct, BINS)
    ]
    error = round(metrics.calibration_error(confidence, correct, BINS)[0], DECIMALS) if len(correct) else None
    return {"ece": error, "bins": bins}
