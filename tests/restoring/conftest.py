"""As for models/: no network, and the global random state is left alone."""

from tests.models.conftest import global_random_state_is_left_alone, offline  # noqa: F401
