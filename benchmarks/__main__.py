"""`python -m benchmarks`: all of them."""

from benchmarks import amortizing, answering, asking, backpropagation_dropout, batching, reading, retrieving

if __name__ == "__main__":
    reading.main()
    batching.main()
    asking.main()
    answering.main()
    amortizing.main()
    retrieving.main()
    backpropagation_dropout.main()
