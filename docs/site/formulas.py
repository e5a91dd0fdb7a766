"""Site hook: formulas become MathML when the site is built, so that no script has to typeset them in the browser."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_NORM = "&#x02016;"


def on_page_content(content: str, **_: object) -> str:
    """Convert every formula of a page."""

    def converted(match: re.Match[str]) -> str:
        display = "inline" if match[2] == "(" else "block"
        formula = convert(html.unescape(match[3]).strip(), display=display)
        return formula.replace(f"<mo>{_NORM}", f'<mo stretchy="false">{_NORM}')  # else as tall as what is around it

    return _FORMULA.sub(converted, content)
