"""One page about a run, or several beside each other, that needs no network."""
