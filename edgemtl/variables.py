"""The environment variables that are ours: recipe keys, and a few others."""

from __future__ import annotations

from collections.abc import Container

from edgemtl.errors import UsageError

ENVIRONMENT_PREFIX = "EDGEMTL_"
#: between section and key; variables without it are no recipe keys
ENVIRONMENT_SEPARATOR = "__"
#: these are the ones; another one is a slip that nobody would notice
OTHER_VARIABLES = frozenset(
    f"{ENVIRONMENT_PREFIX}{name}"
    for name in (
        *("CACHE", "DATA", "DEBUG", "ENGINES", "FARM_CERTIFICATES", "FIRST_RUN_MB"),
        *("FIRST_RUN_SECONDS", "ISOLATED", "SSH_CONFIG", "TRACE", "TRTEXEC", "TVM_WHEELS"),
        "XCLBIN",
    )
)
#: of the project's own tests and tools
OWN_VARIABLES = ("EDGEMTL_TEST_", "EDGEMTL_ROBUSTNESS_")


def check_variable(name: str, sections: Container[str]) -> None:
    """Refuse a variable that looks like one of ours and is none.

    Args:
        name: of the variable.
        sections: of the recipe.

    Raises:
        UsageError: saying what it may have been meant to be.
    """
    if not name.startswith(ENVIRONMENT_PREFIX) or name.startswith(OWN_VARIABLES):
        return
    if ENVIRONMENT_SEPARATOR in name or name in OTHER_VARIABLES:
        return
    section, _, key = name[len(ENVIRONMENT_PREFIX) :].partition("_")
    hint = f"there are {', '.join(sorted(OTHER_VARIABLES))}, and EDGEMTL_SECTION__KEY"
    if section.lower() in sections and key:
        hint = f"a recipe key is {ENVIRONMENT_PREFIX}{section}{ENVIRONMENT_SEPARATOR}{key}"
    raise UsageError(f"unknown variable '{name}'", where="environment", hint=hint)
