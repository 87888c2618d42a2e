"""Results as frozen values that know how to show themselves, and no framework."""
