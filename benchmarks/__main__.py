"""`python -m benchmarks`: all of them."""

from benchmarks import amortizing, asking, backpropagation_dropout, reading

if __name__ == "__main__":
    reading.main()
    asking.main()
    amortizing.main()
    backpropagation_dropout.main()
