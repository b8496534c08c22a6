"""Studies: each is a file in studies/, its runs are DVC experiments, its table is in docs/results.md."""
