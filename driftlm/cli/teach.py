"""The verb `teach`."""

from pathlib import Path

from driftlm.models.machine import Machine


def teach(bank: str, seed: int = 0, threads: int = 0) -> int:
    """Watch a bank learn ten documents about invented people, places and firms, and answer about them at once.

    Args:
        bank: folder for the bank, which must be new.
        seed: of what is invented.
        threads: CPU threads; 0 measures whether 1, half or all of them are fastest now.
    """
    from driftlm.homes.teach import lesson

    taught, answers = lesson(Path(bank), seed, Machine(threads=threads))
    print(f"taught {taught.documents} documents from {taught.text}")
    for asked, found in answers:
        expected = asked.answers[0]
        right = "right" if found["answer"].lower() == expected.lower() else f"the document says {expected}"
        best = found["documents"][0]
        print(f"{asked.text}  {found['answer']}  ({right}; {best['weight']:.0%} of the attention on {best['id']})")
    return 0
