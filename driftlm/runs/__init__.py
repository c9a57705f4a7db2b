"""A reading as a folder: driven, checkpointed, resumed, and written for other tools."""
