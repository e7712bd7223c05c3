"""How the console's static files are named and kept: compressed, and with their digest in the name.

Such a file can be cached for ever, and a page never mixes the scripts of two versions.
"""

from typing import Any

from whitenoise.storage import CompressedManifestStaticFilesStorage


class CollectedFiles(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # whitenoise ships no types
    """Files by hashed names once `collectstatic` has run; before that, in tests say, by the names they lie under."""

    # Ours refer to each other by `url()`, `@import` and `import`. Source maps are not shipped, so the vendored files'
    # mention of theirs is left alone; nor is minified code of others searched for anything that looks like an import.
    patterns = (
        (
            "*.css",
            (
                r"""(?P<matched>url\(['"]{0,1}\s*(?P<url>.*?)["']{0,1}\))""",
                (r"""(?P<matched>@import\s*["']\s*(?P<url>.*?)["'])""", """@import url("%(url)s")"""),
            ),
        ),
        ("js/*.js", CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns[1]),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._urls: dict[tuple[str, bool], str] = {}

    def url(self, name: str, force: bool = False) -> str:
        """Return the address of `name`; errors as `stored_name`.

        A page asks for dozens, for the sprite of icons once with each icon. What was found stays: files are collected
        before a process starts, and by another one.
        """
        key = (name, force)
        if key not in self._urls:
            self._urls[key] = str(super().url(name, force))
        return self._urls[key]

    def stored_name(self, name: str) -> str:
        """Return the name to serve `name` by; ValueError when files were collected and it was not among them."""
        if not self.hashed_files:
            return str(self.clean_name(name))
        return str(super().stored_name(name))
