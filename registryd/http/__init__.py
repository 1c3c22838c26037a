"""The HTTP front: the v2 API over any registry, as Klein resources."""
