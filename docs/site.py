"""What MkDocs does besides: the README is the site's first page, and links to files beside the docs lead to the repository's."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as `index.md`."""
    from mkdocs.structure.files import File

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to the README into links to the first page; name files that are not part of the site without a link."""
    here = posixpath.dirname(page.file.src_uri)

    def mend(match: re.Match[str]) -> str:
        before, target, anchor, after = match[1], match[2], match[3] or "", match[4]
        place = posixpath.normpath(posixpath.join("docs", here, target))
        if place == "README.md":
            return f"{before}{posixpath.relpath('index.md', here or '.')}{anchor}{after}"
        if files.get_file_from_path(posixpath.normpath(posixpath.join(here, target))) is None:
            return f"] (`{place}`)" if not config.repo_url else f"{before}{config.repo_url}/blob/main/{place}{after}"
        return match[0]

    return LINK.sub(mend, markdown)
