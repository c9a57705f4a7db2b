"""`python -m benchmarks`: all of them."""

from benchmarks import reading

if __name__ == "__main__":
    reading.main()
