"""The three memories behind one protocol, and the loop that reads a stream with any of them."""
