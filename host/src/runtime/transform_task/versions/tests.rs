//! Versions of a plugin that fail on certain numbers, swapped for one another as the coordinator would have it.
