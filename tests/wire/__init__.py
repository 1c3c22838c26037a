"""The bytes of the API, seen by a client that shares no code with the daemon."""
