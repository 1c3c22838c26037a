"""A container registry daemon on Twisted."""
