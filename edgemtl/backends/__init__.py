"""Compilers and runtimes: one interface, and who compiles for which target."""
