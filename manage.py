#!/usr/bin/env python
"""Run a management command of the control plane."""

import gc
import os
import sys


def main() -> None:
    # Until all apps are ready: it would look through all that Django and models are made of again and again.
    gc.disable()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as exc:
        sys.exit(f"ballast: {exc}")


if __name__ == "__main__":
    main()
