"""Matching and average precision: what validation during training needs. A change here trains anew."""
