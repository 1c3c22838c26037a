"""The tests of registryd."""
