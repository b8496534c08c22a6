"""What can be known to go wrong before a step is trained. `checks` runs it all."""
