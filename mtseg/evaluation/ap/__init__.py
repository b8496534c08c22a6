"""Matching and average precision, which validation during training uses: a change here makes DVC train again."""
