"""Where everything lies in the storage: pure functions from names to paths.

::

    /docker/registry/v2/
        blobs/<alg>/<hh>/<hex>/data                                     bytes of layers, configs and manifests
        repositories/<name>/
            _layers/<alg>/<hex>/link                                    the digest of a blob that the repository holds
            _manifests/
                revisions/<alg>/<hex>/link                              a manifest that the repository holds
                revisions/<alg>/<hex>/mediatype                     *   only where the manifest does not tell its type
                tags/<tag>/current/link                                 what a tag names
                tags/<tag>/index/<alg>/<hex>/link                       what a tag has named
                referrers/<alg>/<subject>/<alg>/<hex>/link          *   a manifest whose subject is that one
                tags/<tag>/checked                                  *   what the upstream told of the tag, and when
            _uploads/<id>/data, startedat                               an upload session
            _uploads/<alg>-<hex>/data, size                         *   a blob on its way from an upstream
            _mirror/upstream                                        *   the upstream that the repository mirrors
            _upstream/tags, referrers/<alg>/<hex>                   *   lists that the upstream told, and when
        _trash/<run>/, verify                                       *   what a run of the collector has set aside;
                                                                        how far a verification is
        _trash.lock                                                 *   held by the collector that runs
        _damaged/<alg>/<hex>.<run>                                  *   blobs whose bytes were wrong, out of the way

``<hh>`` are the first two digits of ``<hex>``; a link holds a digest as text, without a newline. All but the lines
marked * is CNCF Distribution's, which does not see the rest.

Source: Distribution, registry/storage/paths.go.
"""

from __future__ import annotations

import re
from typing import Final

from registryd.reference import Digest, RepositoryName, Tag

ROOT: Final = "/docker/registry/v2"
REPOSITORIES: Final = f"{ROOT}/repositories"
TRASH: Final = f"{ROOT}/_trash"
BLOBS: Final = f"{ROOT}/blobs"

_TEMPORARY = re.compile(r".*\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp", re.ASCII | re.DOTALL)


def is_temporary(name: str) -> bool:
    """Whether a name is that of content that is being written, or was, by whoever then died."""
    return _TEMPORARY.fullmatch(name) is not None


def blob_data(digest: Digest) -> str:
    return f"{ROOT}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def repository(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}"


def layers(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_layers"


def layer_link(name: RepositoryName, digest: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_layers/{digest.algorithm}/{digest.hex}/link"


def manifests(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_manifests"


def revisions(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/revisions"


def revision_link(name: RepositoryName, digest: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/revisions/{digest.algorithm}/{digest.hex}/link"


def revision_media_type(name: RepositoryName, digest: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/revisions/{digest.algorithm}/{digest.hex}/mediatype"


def tags(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags"


def tag(name: RepositoryName, tag: Tag) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}"


def tag_link(name: RepositoryName, tag: Tag) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/current/link"


def tag_history(name: RepositoryName, tag: Tag) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/index"


def tag_history_link(name: RepositoryName, tag: Tag, digest: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/index/{digest.algorithm}/{digest.hex}/link"


def referrers(name: RepositoryName, subject: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/referrers/{subject.algorithm}/{subject.hex}"


def referrer_link(name: RepositoryName, subject: Digest, referrer: Digest) -> str:
    return f"{referrers(name, subject)}/{referrer.algorithm}/{referrer.hex}/link"


def uploads(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_uploads"


def upload(name: RepositoryName, id: str) -> str:
    return f"{REPOSITORIES}/{name}/_uploads/{id}"


def upload_data(name: RepositoryName, id: str) -> str:
    return f"{REPOSITORIES}/{name}/_uploads/{id}/data"


def upload_started(name: RepositoryName, id: str) -> str:
    return f"{REPOSITORIES}/{name}/_uploads/{id}/startedat"


def tag_checked(name: RepositoryName, tag: Tag) -> str:
    return f"{REPOSITORIES}/{name}/_manifests/tags/{tag}/checked"


def mirror_folder(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_mirror"


def mirror(name: RepositoryName) -> str:
    # Not in the repository's folder itself: where content there has a name that begins with "_", Distribution lists no
    # further, and its collector takes the images of the repositories below for garbage.
    return f"{mirror_folder(name)}/upstream"


def upstream(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_upstream"


def upstream_tags(name: RepositoryName) -> str:
    return f"{REPOSITORIES}/{name}/_upstream/tags"


def upstream_referrers(name: RepositoryName, subject: Digest) -> str:
    return f"{REPOSITORIES}/{name}/_upstream/referrers/{subject.algorithm}/{subject.hex}"


def fill_id(digest: Digest) -> str:
    """The upload session of a blob on its way from an upstream, found by its digest."""
    return f"{digest.algorithm}-{digest.hex}"


def upload_size(name: RepositoryName, id: str) -> str:
    """How large a blob on its way will be, for processes that follow it."""
    return f"{REPOSITORIES}/{name}/_uploads/{id}/size"
