"""Make the README the home page and the tutorials pages, and resolve links to the rest of the repository.

Pictures are copied into the site. Of other files the path is shown, as the site has no copy of them. A link to a file
that does not exist fails.
"""

import re
from pathlib import Path, PurePosixPath

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
COPIES = "repository"  # the folder of the site with pictures from elsewhere


def on_files(files, config):
    """Add the README as index.md, and every picture that a page shows from outside of docs/."""
    readme = (ROOT / "README.md").read_text("utf-8")
    files.append(File.generated(config, "index.md", content=LINK.sub(_from_readme, readme)))
    for path in sorted((ROOT / "docs" / "tutorials").glob("*.py")):
        page = _from_notebook(path.read_text("utf-8"))
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
    pages = [(PurePosixPath("docs") / file.src_uri, file.content_string) for file in files.documentation_pages()]
    for page, text in [*pages, (PurePosixPath("README.md"), readme)]:
        for is_picture, _, target, _ in LINK.findall(text):
            path = _resolve(page.parent, target)
            if is_picture and not path.is_relative_to("docs"):
                uri = f"{COPIES}/{path}"
                if not files.get_file_from_path(uri):
                    files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Replace links that lead out of docs/."""
    folder = PurePosixPath("docs") / PurePosixPath(page.file.src_uri).parent

    def replace(match: re.Match) -> str:
        is_picture, text, target, anchor = match.groups()
        path = _resolve(folder, target)
        if path.is_relative_to("docs") or target.startswith(COPIES):
            return match[0]
        if not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: {target} does not exist")
        if is_picture:
            depth = len(PurePosixPath(page.file.src_uri).parts) - 1
            return f"![{text}]({'../' * depth}{COPIES}/{path})"
        return f"{text} (`{path}`)"

    return LINK.sub(replace, markdown)


def _from_notebook(text: str) -> str:
    """Return a notebook in jupytext's percent format as Markdown."""
    parts = []
    for kind, cell in re.findall(r"^# %%(.*)\n((?:(?!# %%).*\n?)*)", text, re.MULTILINE):
        if "markdown" in kind:
            lines = re.sub(r"^# ?", "", cell.strip(), flags=re.MULTILINE)
            parts.append(re.sub(r"\((\w+)\.py\)", r"(\1.md)", lines))
        else:
            parts.append(f"```python\n{re.sub(r'^# !', '!', cell.strip(), flags=re.MULTILINE)}\n```")
    return "\n\n".join(parts) + "\n"


def _from_readme(match: re.Match) -> str:
    """Return a link of the README as one of index.md, which lies in docs/."""
    is_picture, text, target, anchor = match.groups()
    if is_picture:
        return f"![{text}]({COPIES}/{target})"
    moved = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
    moved = re.sub(r"^(tutorials/\w+)\.py$", r"\1.md", moved)
    return f"[{text}]({moved}{anchor or ''})"


def _resolve(folder: PurePosixPath, target: str) -> PurePosixPath:
    """Return the path of a link's target, relative to the root of the repository."""
    parts: list[str] = []
    for part in (folder / target).parts:
        if part == "..":
            if not parts:
                raise PluginError(f"{folder}: {target} leads out of the repository")
            parts.pop()
        elif part != ".":
            parts.append(part)
    return PurePosixPath(*parts)
