"""Makes ``twistd registryd`` known to twistd."""

from twisted.application.service import ServiceMaker

registryd = ServiceMaker("registryd", "registryd.tap", "A container registry", "registryd")
