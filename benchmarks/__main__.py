"""`python -m benchmarks`: all of them."""

from benchmarks import asking, reading

if __name__ == "__main__":
    reading.main()
    asking.main()
