"""`python -m benchmarks`: all of them."""

from benchmarks import amortizing, answering, asking, backpropagation_dropout, reading, retrieving

if __name__ == "__main__":
    reading.main()
    asking.main()
    answering.main()
    amortizing.main()
    retrieving.main()
    backpropagation_dropout.main()
