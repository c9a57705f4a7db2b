"""What every other part rests on: the one error that a user is meant to read."""
