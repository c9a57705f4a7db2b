"""Memory in the context: documents that were read, found again and put before what is read next."""
