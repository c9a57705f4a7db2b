"""What reading costs: floating-point operations, bytes moved, memory and seconds, counted and estimated."""
