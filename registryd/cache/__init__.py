"""The pull-through cache: a local registry that is filled from an upstream as it is asked.

``registry`` ties the rest together: ``manifests`` and ``lists`` know when the upstream is asked again, ``blobs`` and
``fills`` fetch each blob once for everybody who wants it, ``fetching`` resumes what breaks off, ``following`` reads
what is still coming, and ``mirrored`` is the tree's side of it.
"""
