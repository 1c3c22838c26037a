"""Another registry as an ``IUpstream``: what is mirrored is asked of it over HTTP.

Agents in layers dial (``agent``, ``proxies``) and leave alone who fails (``guard``, ``availability``); a ``Remote`` is
one URL with its login (``challenge``, ``tokens``, ``credentials``) and redirects; ``registry`` asks remotes in order.
"""

from registryd.upstream.agent import AuthorityError, Patience
from registryd.upstream.ratelimit import RateLimit
from registryd.upstream.registry import UpstreamRegistry

__all__ = ["AuthorityError", "Patience", "RateLimit", "UpstreamRegistry"]
