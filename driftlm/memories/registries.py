"""The registries of memories and of what they are made of; no heavy import.

An entry is one file and one line here, or a line in the entry points of another package.
"""

from driftlm.core.registry import Registry

WEIGHTS = "driftlm.memories.weights"

MEMORIES = Registry(
    "`MemorySettings.memory`",
    "driftlm.memories",
    {
        "weights": f"{WEIGHTS}.dynamic:WeightMemory",
        "mixture": f"{WEIGHTS}.mixture:MixtureMemory",
        "bank": "driftlm.memories.composed:BankMemory",
        "bm25": "driftlm.memories.retrieval:BM25Memory",
        "dense": "driftlm.memories.retrieval:DenseMemory",
    },
)
SOURCES = Registry(
    "`MemorySettings.sources`",
    "driftlm.sources",
    {
        "bank": "driftlm.memories.bank.source:BankSource",
        "bm25": "driftlm.memories.context.source:BM25Source",
        "dense": "driftlm.memories.context.source:DenseSource",
    },
)
ENCODERS = Registry(
    "`MemorySettings.encoder`",
    "driftlm.encoders",
    {
        "states": "driftlm.memories.context.named_encoders:states",
        "contriever": "driftlm.memories.context.named_encoders:pooled",
        "mean": "driftlm.memories.context.named_encoders:pooled",
        "bge": "driftlm.memories.context.named_encoders:pooled",
        "dpr": "driftlm.memories.context.named_encoders:pooled",
        "sentence": "driftlm.memories.context.named_encoders:sentence",
    },
)
RULES = Registry(
    "`Learning.rule`",
    "driftlm.rules",
    {
        "sgd": f"{WEIGHTS}.rules:SGD",
        "adam": f"{WEIGHTS}.rules:Adam",
        "rms": f"{WEIGHTS}.rules:RMS",
        "relative": f"{WEIGHTS}.relative:Relative",
    },
)
PARAMETRISATIONS = Registry(
    "`Learning.learn`",
    "driftlm.parametrisations",
    {
        "all": f"{WEIGHTS}.parametrisations:of_model",
        "lora": f"{WEIGHTS}.parametrisations:of_model",
        "dora": f"{WEIGHTS}.parametrisations:of_model",
        "norms": f"{WEIGHTS}.parametrisations:of_model",
        "none": f"{WEIGHTS}.parametrisations:of_model",
    },
)
SALIENCES = Registry(
    "`Learning.salience`",
    "driftlm.saliences",
    {
        "uniform": f"{WEIGHTS}.salience:uniform",
        "spans": f"{WEIGHTS}.salience:spans",
        "tfidf": f"{WEIGHTS}.salience:tfidf",
        "camels": f"{WEIGHTS}.salience:camels",
    },
)
PROTECTIONS = Registry("`Learning.protect`", "driftlm.protections", {"none": f"{WEIGHTS}.protection:nothing"})
