"""Odd words and damage: what people, editors and disks do to a text or a file."""

from typing import Any

from hypothesis import strategies as st

ODD_WORDS = [
    "", " ", "\t", "\n", "\r\n", "\r", "\0", "\ufeff", "\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\xa0", "\u200b",
    "\u202e", "\u200f", "e\u0301", "\u0301", "\ud800", "\udcff", "💥", "👨‍👩‍👧", "ß", "İ", "ı", "ﬁ", "Ａ", "١٢",
    "½", "一", "я", "ก", "0", "-0", "1", "-1", "2", "7", "0.0", "-0.0", "0.5", "1.0", "1e3", "1e-320", "1e400",
    "-1e400", "1e38", "nan", "NaN", ".nan", "inf", ".inf", "-inf", "-.inf", "Infinity", "null", "~", "None", "true",
    "True", "false", "yes", "no", "on", "0x10", "0o7", "0b1", "1_000", "007", "1:30", "1.2.3", "2020-01-01", "+1",
    "1.", ".5", "1e", "1,5", "1/2", "9" * 25, "9" * 5000, "9223372036854775808", "-9223372036854775809", "4294967296",
    "1" + "0" * 400, "[", "]", "{", "}", "[]", "{}", "[[]]", "[1]", "[1, 2]", "[1,", "[null]", "[nan]", "['a']",
    "{a: 1}", "{a: }", "{1: 2}", "{[1]: 2}", "{a: {b: 1}}", "[" * 200, "[" * 60 + "]" * 60, "{a: " * 60 + "}" * 60,
    "[{a: 1}]", "[[1, 2], [3]]", "'", '"', "''", '""', "'a'", '"\\x24{oc.env:HOME}"', "${x}", "${oc.env:HOME}", "$",
    "&a [*a]", "*a", "&a 1", "!!python/object:os.system", "!!int a", "!!binary x", "!x", "<<", "<<: 1",
    "{<<: {a: 1}}", "|", ">", "?", "-", "- 1", ":", ": ", "a: 1", "#", "# x", "%YAML 9.9", "---", "...", "%s", "%",
    "{0}", "\\", "\\n", "../x", "..", ".", "/", "/etc/passwd", "a/b", "~/x", "C:\\x", "con", ".hidden", "a b",
    "x" * 300, "x" * 3000, "\x1b[31m", "[/bold]", "[link=x]", "<b>", "a|b", "_a", "--help", "-x", "=", "a=b", "auto",
    "cpu", "cuda", "novograd", "sgd", "tuned", "8steps", "1ep", "0ep", "-1ep", "1e400ep", "nanep", "1e9tokens",
    "1.5steps", "ep", "os:system", "torch.optim:SGD", "torch.optim:Adam", "novobench.optim:NovoGrad", "this:x",
    "a:b:c", ":", "x.y:", "math:pi",
]  # fmt: skip
"""Words that some parser may take for something else."""

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
"""Includes lone surrogates and unassigned characters."""
SAFE_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
"""Text that UTF-8 can encode."""


def words() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(ODD_WORDS), ANY_TEXT, numbers())


def numbers() -> st.SearchStrategy[str]:
    return st.one_of(
        st.integers(-4, 70).map(str),
        st.integers().map(str),
        st.floats().map(repr),
        st.floats(0, 2).map(lambda value: f"{value:.3g}"),
    )


def argument(text: str) -> str:
    """Text as an argument of the command line: no null characters, and surrogates only for bytes that are not UTF-8."""
    content = text.replace("\0", "").encode("utf-8", "surrogatepass")
    return content.decode("utf-8", "surrogateescape")


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 2) -> bytes:
    """A file after up to `most` damages: bytes flipped, cut, duplicated, replaced or moved. Most are near its start,
    where headers are."""
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from(["set", "flip", "cut", "drop", "double", "insert", "zero", "swap"]))
        end = len(content)
        at = draw(st.one_of(st.integers(0, min(end, 64)), st.integers(0, end)))
        size = draw(st.integers(1, 16))
        if kind == "set":
            content = content[:at] + draw(st.binary(min_size=1, max_size=4)) + content[at + 1 :]
        elif kind == "flip" and at < end:
            content = content[:at] + bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) + content[at + 1 :]
        elif kind == "cut":
            content = content[:at]
        elif kind == "drop":
            content = content[:at] + content[at + size :]
        elif kind == "double":
            content = content[:at] + content[at : at + size] + content[at:]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(max_size=8)) + content[at:]
        elif kind == "zero":
            content = content[:at] + bytes(min(size, end - at)) + content[at + size :]
        elif kind == "swap":
            content = content[at:] + content[:at]
    return content


@st.composite
def edited(draw: st.DrawFn, text: str, most: int = 2, odd: Any = None) -> bytes:
    """A text file after up to `most` mistakes: words replaced, lines lost, duplicated or exchanged, odd words inserted,
    another encoding, Windows line ends."""
    odd = odd or words()
    for _ in range(draw(st.integers(1, most))):
        lines = text.split("\n")
        kind = draw(st.sampled_from(["word", "insert", "lose", "double", "exchange", "cut", "indent", "line"]))
        number = draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        at = draw(st.integers(0, len(line)))
        if kind == "word":
            parts = _split(line)
            if parts:
                parts[draw(st.integers(0, len(parts) - 1))] = draw(odd)
            lines[number] = "".join(parts)
        elif kind == "insert":
            lines[number] = line[:at] + draw(odd) + line[at:]
        elif kind == "lose":
            del lines[number]
        elif kind == "double":
            lines.insert(number, line)
        elif kind == "exchange":
            other = draw(st.integers(0, len(lines) - 1))
            lines[number], lines[other] = lines[other], lines[number]
        elif kind == "cut":
            lines = [*lines[:number], line[:at]]
        elif kind == "indent":
            lines[number] = draw(st.sampled_from([" ", "  ", "\t", "\xa0"])) + line
        else:
            lines.insert(number, draw(odd))
        text = "\n".join(lines)
    form = draw(st.sampled_from(["plain"] * 6 + ["crlf", "bom", "latin1", "utf-16"]))
    if form == "crlf":
        text = text.replace("\n", "\r\n")
    if form == "latin1":
        return text.encode("latin1", "replace")
    if form == "utf-16":
        return text.encode("utf-16", "surrogatepass")
    return (b"\xef\xbb\xbf" if form == "bom" else b"") + text.encode("utf-8", "surrogatepass")


def _split(line: str) -> list[str]:
    """Words and the text between them."""
    parts = [""]
    for sign in line:
        if parts[-1] and (sign.isalnum() or sign in "._-+") != (parts[-1][-1].isalnum() or parts[-1][-1] in "._-+"):
            parts.append("")
        parts[-1] += sign
    return [part for part in parts if part]


def data(depth: int = 3) -> st.SearchStrategy[Any]:
    """Any data that YAML or JSON can express."""
    leaf = st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-2, 9), st.floats(), words(),
    )  # fmt: skip
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words(), inner, max_size=3), max_leaves=depth
    )


@st.composite
def replaced(draw: st.DrawFn, tree: Any) -> Any:
    """Nested data in which one value, key or entry is replaced, removed or added."""
    if not isinstance(tree, dict | list) or not tree or draw(st.integers(0, 3)) == 0:
        return draw(data())
    if isinstance(tree, list):
        place = draw(st.integers(0, len(tree) - 1))
        kind = draw(st.sampled_from(["inside", "inside", "inside", "lose", "double"]))
        middle = {"lose": [], "double": [tree[place]] * 2}.get(kind)
        return [*tree[:place], *([draw(replaced(tree[place]))] if middle is None else middle), *tree[place + 1 :]]
    key = draw(st.sampled_from(sorted(tree, key=str)))
    kind = draw(st.sampled_from(["inside", "inside", "inside", "lose", "rename", "new"]))
    if kind == "inside":
        return {**tree, key: draw(replaced(tree[key]))}
    if kind == "new":
        return {**tree, draw(words()): draw(data())}
    others = {name: value for name, value in tree.items() if name != key}
    return {**others, draw(words()): tree[key]} if kind == "rename" else others
