"""For all tests: shapes in the signatures of the loss are checked on every call, and our own warnings are errors.

Annotations are checked in tests only; users get the ``ConfigError``s of the functions themselves. The ``unchecked``
fixture switches the check off, for the tests of those errors.
"""

from collections.abc import Iterator

import jaxtyping
import pytest

# Before anything imports these modules. They are the ones of core/ that take tensors.
jaxtyping.install_import_hook(
    ["balanced_thinking.core.loss", "balanced_thinking.core.linear_cross_entropy"], "shapes.checked"
)


def pytest_configure(config: pytest.Config) -> None:
    # Only what our own code causes: the libraries below us warn in every release about their next one.
    config.addinivalue_line("filterwarnings", r"error:::balanced_thinking\..*")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Calls pass the shape check, so that a function's own checks can be seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
