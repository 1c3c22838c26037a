"""The keys of each storage driver.

Source: Distribution's storage driver references, of 3 and, for swift and oss, 2.8.
"""

from __future__ import annotations

from registryd.config.kinds import MapOf, Section
from registryd.config.leaves import ANYTHING, FLAG, INTEGER, PATH, SECONDS, TEXT, TEXTS

DRIVERS = {
    "filesystem": Section({"rootdirectory": PATH, "maxthreads": INTEGER}, bare=True),
    "inmemory": Section({}, bare=True),
    "s3": Section(
        {
            **dict.fromkeys(
                ("accesskey", "secretkey", "region", "regionendpoint", "redirectendpoint", "bucket", "keyid"), TEXT
            ),
            **dict.fromkeys(("rootdirectory", "storageclass", "useragent", "objectacl", "loglevel"), TEXT),
            "sessiontoken": TEXT,
            **dict.fromkeys(("forcepathstyle", "encrypt", "secure", "skipverify", "v4auth"), FLAG),
            **dict.fromkeys(("usedualstack", "accelerate", "usefipsendpoint"), FLAG),
            **dict.fromkeys(("chunksize", "multipartcopychunksize", "multipartcopymaxconcurrency"), INTEGER),
            "multipartcopythresholdsize": INTEGER,
        },
        bare=True,
    ),
    "gcs": Section(
        {
            **dict.fromkeys(("bucket", "rootdirectory"), TEXT),
            **dict.fromkeys(("chunksize", "maxconcurrency"), INTEGER),
            "keyfile": PATH,
            "credentials": MapOf(ANYTHING),
        },
        bare=True,
    ),
    "azure": Section(
        {
            **dict.fromkeys(("accountname", "accountkey", "container", "rootdirectory", "realm"), TEXT),
            "credentials": Section(dict.fromkeys(("type", "clientid", "tenantid", "secret"), TEXT)),
            "max_retries": INTEGER,
            "retry_delay": SECONDS,
            "copy_status_poll_max_retry": INTEGER,
            "copy_status_poll_delay": SECONDS,
        },
        bare=True,
    ),
    "swift": Section(
        {
            **dict.fromkeys(("username", "password", "authurl", "tenant", "tenantid", "domain", "domainid"), TEXT),
            **dict.fromkeys(("tenantdomain", "tenantdomainid", "trustid", "region", "container"), TEXT),
            **dict.fromkeys(("rootdirectory", "prefix", "endpointtype", "accesskey", "secretkey"), TEXT),
            "insecureskipverify": FLAG,
            "tempurlcontainerkey": FLAG,
            "tempurlmethods": TEXTS,
            "chunksize": INTEGER,
            "authversion": INTEGER,
        },
        bare=True,
    ),
    "oss": Section(
        {
            **dict.fromkeys(("accesskeyid", "accesskeysecret", "region", "endpoint", "bucket"), TEXT),
            **dict.fromkeys(("rootdirectory", "encryptionkeyid"), TEXT),
            **dict.fromkeys(("internal", "encrypt", "secure"), FLAG),
            "chunksize": INTEGER,
        },
        bare=True,
    ),
}
"""The storage drivers, of which a configuration has exactly one."""
