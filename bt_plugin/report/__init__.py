"""One HTML page about one run, or about several runs side by side. It needs no network."""
