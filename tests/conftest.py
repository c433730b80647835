"""For all tests: what Hypothesis tries is the same in each run (`tests/doses` tries other things), and an example may
take as long as a busy machine makes it."""

from hypothesis import settings

settings.register_profile("swarmd", deadline=None, derandomize=True)
settings.load_profile("swarmd")
