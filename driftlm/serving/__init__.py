"""An HTTP server of homes, one for every tenant, over one frozen model."""
