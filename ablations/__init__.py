"""Studies of the system: each is a file in studies/, run through DVC's queue, and told in docs/results.md."""
