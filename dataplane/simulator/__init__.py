"""The provider simulator: three vendors' wire formats, with faults on demand. A fixture for demo and tests; the
engine never imports it.
"""
