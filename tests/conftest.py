"""What holds for all tests."""

import os

from hypothesis import settings

# In CI the same examples each time, so that a change is judged by what it changed; new ones are found elsewhere.
# No deadline anywhere: how long an example takes says more about the machine than about the code.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("default", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")
