"""The upstream of a mirror: against a hostile registry of our own, and real ones."""
