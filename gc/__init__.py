"""The collector: prunes what no manifest needs. Imported as ``registryd_gc``."""
