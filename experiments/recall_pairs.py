"""The flag of what is on the task of recall: absl knows a flag by one definition alone."""

from absl import flags

PAIRS = flags.DEFINE_list("pairs", None, "P, pairs in the context, or of a day; comma-separated.")
