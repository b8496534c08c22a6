"""Whether probabilities mean what they say: expected calibration error (Guo et al., ICML 2017), by hotcoco."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import metrics

BINS = 10
DECIMALS = 4


def calibration(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """`ece`, 0 to 1, and 10 `bins` of equal width: lower, upper, confidence, accuracy and count.

    confidence [n], 0 to 1. right: bool [n]. None where there is nothing: the ECE, a bin's confidence and accuracy.
    """
    bins = [
        {
            "lower": round(each["bin_lower"], DECIMALS),
            "upper": round(each["bin_upper"], DECIMALS),
            "confidence": round(each["avg_confidence"], DECIMALS) if each["count"] else None,
            "accuracy": round(each["avg_accuracy"], DECIMALS) if each["count"] else None,
            "count": each["count"],
        }
        for each in metrics.calibration_curve(confidence, right, BINS)
    ]
    error = round(metrics.calibration_error(confidence, right, BINS)[0], DECIMALS) if len(right) else None
    return {"ece": error, "bins": bins}
