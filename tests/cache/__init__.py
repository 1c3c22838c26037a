"""Tests of the pull-through cache."""
