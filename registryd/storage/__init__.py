"""Where a registry's tree lies, and how."""
