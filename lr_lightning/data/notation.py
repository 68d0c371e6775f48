"""Notations of numbers, dates and times in text: the values of a text, and the notation that a column's texts share.

The decimal mark (`.` or `,`) and the order of day and month are properties of a column. Everything else that is read
here is unambiguous: blanks and apostrophes between thousands, digits of other scripts, other minus signs, and
parentheses around negative numbers.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from typing import NamedTuple

POINT, COMMA = "1234.5", "1234,5"
POINT_GROUPED, COMMA_GROUPED = "1,234.5", "1.234,5"
DAY_FIRST, MONTH_FIRST, YEAR_FIRST = "day/month/year", "month/day/year", "year-month-day"
TIME = "hour:minute"
UTC = "UTC"
NOTATION_OF_MARK: dict[str | None, str] = {".": POINT, ",": COMMA}
KINDS = {  # the kind of a column, by its notation
    **dict.fromkeys((POINT, COMMA, POINT_GROUPED, COMMA_GROUPED), "number"),
    **dict.fromkeys((DAY_FIRST, MONTH_FIRST, YEAR_FIRST), "date"),
    TIME: "time",
}
_UNGROUPED = {POINT_GROUPED: POINT, COMMA_GROUPED: COMMA}
LARGEST_EXACT_INTEGER = 2**53

_CURRENCY = (
    r"(?:[A-Z]{0,3}[$£¥֏؋฿\u20a0-\u20cf]|[元円원]|Rs\.?|Rp\.?|kr\.?|zł|Kč"
    r"|(?i:USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|BRL))"
)
_SAME = str.maketrans(
    {
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),  # non-breaking and thin blanks
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2019\u02bc\u066c", "'"),  # the last is the Arabic thousands separator
        **dict.fromkeys("\u200b\u200e\u200f\u061c\u2060\ufeff", None),  # invisible marks
        **dict(zip("\u066b\uff0b\uff0e\uff0c\uff0f\uff1a\uff05\u066a\uff04\uffe1\uffe5", ".+.,/:%%$£¥", strict=True)),
    }
)
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_DAY_SECONDS = 86_400
_EPOCH = date(1970, 1, 1)


class Meaning(NamedTuple):
    """The meaning of a text in a notation.

    Attributes:
        value: a number; for a date, days since 1970-01-01; for a time, days.
        affix: a currency, `%` or UTC, which must be the same in all texts of a column.
        grouped: whether thousands are separated by the mark (`.` or `,`) that is not the decimal mark.
        loose: whether the text may be a code instead, such as 4D0, 1_001 and (1). A column of loose texts alone is not
            taken for numbers.
    """

    value: float
    affix: str = ""
    grouped: bool = False
    loose: bool = False


def _number_pattern(decimal: str, other: str) -> re.Pattern[str]:
    groups = "|".join(rf"[1-9]\d{{0,2}}(?:{mark}\d{{3}})+" for mark in (other, " ", "'", "_"))
    indian = rf"[1-9]\d?(?:{other}\d\d)+{other}\d{{3}}"
    return re.compile(
        rf"(?P<sign>[+-]? ?)(?P<before>{_CURRENCY})? ?(?P<inner>[+-]?)(?=[\d{decimal}])"
        rf"(?P<whole>{groups}|{indian}|\d*)(?:{decimal}(?:--?|(?P<fraction>\d*)))?"
        rf"(?:[eEdD](?P<exponent>[+-]?\d{{1,9}})|(?P<owed>(?<={decimal}\d)-|(?<={decimal}\d\d)-))?"
        rf" ?(?P<after>%|{_CURRENCY})?",
        re.ASCII,
    )


_NUMBERS = {".": _number_pattern(r"\.", ","), ",": _number_pattern(",", r"\.")}
_IN_PARENTHESES = re.compile(rf"({_CURRENCY})? ?\(([^()+-]*)\) ?(%|{_CURRENCY})?")
_LOOSE = re.compile(r"\d+[dD]\d+|[\d_]*_\d+", re.ASCII)
_NOT_DIGITS = re.compile(r"\D", re.ASCII)
_WITH_UNIT = re.compile(r"(?P<number>[^\w\s]?\d[\d.,' ]*?) ?(?P<unit>[^\s\d.,'%$€][^\d]{0,4})")
_A_NUMBER = r"[+-]?\d+(?:[.,]\d+)?"
_MONTH_NAME = "|".join(rf"{name[:3]}(?:{name[3:]})?" for name in _MONTHS)
_LOOKS = {  # for the warning that a column of such texts becomes a category
    what: re.compile(pattern, re.IGNORECASE)
    for what, pattern in {
        "months": r"(?:1[89]|20)\d\d[-/. ]?(?:M?(?:0[1-9]|1[0-2]))|(?:0?[1-9]|1[0-2])[-/.](?:1[89]|20)\d\d"
        rf"|(?:{_MONTH_NAME})\.?[-/ ']{{0,2}}(?:\d\d)?\d\d|\d{{4}}[-/ ]?(?:{_MONTH_NAME})"
        r"|\d{4}年\d{1,2}月",
        "fractions": r"(?:\d+[ -])?\d+/\d+|\d*[½⅓⅔¼¾⅕-⅞]",
        "times": r"\d+:\d\d(?::\d\d(?:[.,]\d+)?)?|(?:\d+ ?h ?)?\d+ ?(?:min|m) ?(?:\d+ ?s)?|\d+ ?h ?(?:\d+)?"
        r"|PT(?:\d+H)?(?:\d+M)?(?:\d+S)?",
        "numbers": rf"[~≈=']{{1,2}}\"?{_A_NUMBER}\"?|{_A_NUMBER} ?(?:±|\+/-) ?{_A_NUMBER}"
        rf"|{_A_NUMBER} ?[x×*·] ?10\^?{_A_NUMBER}|10\^{_A_NUMBER}|\d+[.,]\d*[+-]\d{{3}}|{_A_NUMBER} ?e ?[+-]? ?\d+"
        r"|\d+d\d+|\(\d+[.,]\d+\)|\d{1,3}(?:_\d{3})+|0x[\da-f]+"
        r"|\d+ ?['′] ?\d+(?:\.\d+)? ?[\"″]?|\d+° ?(?:\d+['′] ?)?[NSEW]?",
    }.items()
}
_PLAIN_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9})\d*)?)?"
    r"(?:\ ?(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_TIME = re.compile(_CLOCK, re.ASCII)
_CHINESE_DATE = re.compile(r"^(\d{4})年(\d\d?)月(\d\d?)日", re.ASCII)
_DATE = re.compile(
    rf"""(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\ )?
    (?:(?P<y1>\d{{4}})(?P<mark1>[-/.])(?P<m1>\d{{1,2}})(?P=mark1)(?P<d1>\d{{1,2}})
      |(?P<a>\d{{1,2}})(?P<mark2>[-/.\ ])(?P<b>\d{{1,2}})(?P=mark2)(?P<y2>\d{{4}}|\d\d)
      |(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?[-/.,\ ]{{0,2}}(?P<m3>[a-z]{{3,9}})[-/.,\ ]{{0,2}}(?P<y3>\d{{4}}|\d\d)
      |(?P<m4>[a-z]{{3,9}})\.?[-\ ](?P<d4>\d{{1,2}})(?:st|nd|rd|th)?(?:,\ ?|[-\ ])(?P<y4>\d{{4}}))
    (?:(?:[Tt]|,?\ )(?:{_CLOCK}|(?P<only_hour>\d\d))
      \ ?(?P<zone>Z|UTC|GMT|(?P<east>[+-]\d\d):?(?P<east_minute>\d\d)?)?)?""",
    re.ASCII | re.VERBOSE | re.IGNORECASE,
)


def _unified(text: str) -> str:
    """The text with digits and marks of other scripts replaced by those of ASCII."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(char, char)) for char in text.translate(_SAME))


def _number(text: str, decimal: str) -> Meaning | None:
    text = _unified(text)
    loose = _LOOSE.fullmatch(text) is not None
    if "(" in text and (owed := _IN_PARENTHESES.fullmatch(text)):  # (5) is −5 in accounting
        text, loose = f"-{owed[1] or ''}{owed[2]}{owed[3] or ''}", True
    match = _NUMBERS[decimal].fullmatch(text)
    if match is None:
        return None
    sign, before, inner, whole, fraction, exponent, owed, after = match.groups()
    signs = (sign.strip(), inner, owed)
    if sum(map(bool, signs)) > 1 or (before and after) or not (whole or fraction):
        return None
    affix = (before or after or "").rstrip(".")
    affix = affix.upper() if len(affix) == 3 and affix.isalpha() else affix
    power = int(exponent or 0) - (2 if affix == "%" else 0)
    digits = whole if whole.isdigit() else _NOT_DIGITS.sub("", whole)
    value = float(f"{''.join(filter(None, signs))}{digits}.{fraction or ''}e{power}")
    return Meaning(value, affix, ("," if decimal == "." else ".") in whole, loose)


def _clock_seconds(match: re.Match[str]) -> int | None:
    """Whole seconds since midnight."""
    hour, minute, second = (int(match[part] or 0) for part in ("hour", "minute", "second"))
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"] in "pP" else 0)
    return hour * 3600 + minute * 60 + second if hour < 24 and minute < 60 and second < 60 else None


def _in_days(seconds: int, fraction: str | None) -> float:
    if not fraction:
        return seconds / _DAY_SECONDS
    return float(seconds * 10**9 + int(fraction.ljust(9, "0"))) / (_DAY_SECONDS * 10**9)


def _time(text: str) -> Meaning | None:
    match = _TIME.fullmatch(_unified(text))
    seconds = None if match is None else _clock_seconds(match)
    return None if match is None or seconds is None else Meaning(_in_days(seconds, match["fraction"]))


def _date(text: str, day_first: bool) -> Meaning | None:
    match = _DATE.fullmatch(_CHINESE_DATE.sub(r"\1-\2-\3", _unified(text)))
    if match is None:
        return None
    year, month, day = match["y1"], match["m1"], match["d1"]
    if match["a"]:
        day, month = (match["a"], match["b"]) if day_first else (match["b"], match["a"])
        year = match["y2"]
    elif name := match["m3"] or match["m4"]:
        day, year = match["d3"] or match["d4"], match["y3"] or match["y4"]
        month = next((i for i, full in enumerate(_MONTHS, 1) if full.startswith(name.lower())), 0)
        month = 9 if name.lower() == "sept" else month
    if len(year) == 2:
        return None
    try:
        days = (date(int(year), int(month), int(day)) - _EPOCH).days
    except ValueError:
        return None
    seconds = int(match["only_hour"]) * 3600 if match["only_hour"] else _clock_seconds(match) if match["hour"] else 0
    if seconds is None or seconds >= _DAY_SECONDS:
        return None
    if match["east"]:
        east = int(match["east"]) * 60
        seconds -= (east + int(match["east_minute"] or 0) * (-1 if match["east"][0] == "-" else 1)) * 60
    return Meaning(_in_days(days * _DAY_SECONDS + seconds, match["fraction"]), UTC if match["zone"] else "")


_BASIC: dict[str, Callable[[str], Meaning | None]] = {
    POINT: lambda text: _number(text, "."),
    COMMA: lambda text: _number(text, ","),
    DAY_FIRST: lambda text: _date(text, True),
    MONTH_FIRST: lambda text: _date(text, False),
    TIME: _time,
}
_OF_KIND = {kind: tuple(name for name in _BASIC if KINDS[name] == kind) for kind in ("number", "date", "time")}


def kind_of_text(text: str) -> str | None:
    """The kind of a text in any notation, number, date or time; else None. The year of a date may have two digits."""
    if not any(char.isdecimal() for char in text):
        return None
    meanings = ((name, meaning(text)) for name, meaning in _BASIC.items())
    kind = next((KINDS[name] for name, found in meanings if found is not None and not found.loose), None)
    return kind or ("date" if has_short_year(text) else None)


def has_short_year(text: str) -> bool:
    """Whether a text is a date whose year has two digits."""
    match = _DATE.fullmatch(_unified(text))
    year = None if match is None else match["y2"] or match["y3"]
    if match is None or year is None or len(year) > 2:
        return False
    start = match.start("y2" if match["y2"] else "y3")
    longer = f"{_unified(text)[:start]}20{_unified(text)[start:]}"
    return _date(longer, True) is not None or _date(longer, False) is not None


def unit_of(text: str) -> str | None:
    """The unit in a text such as 12 kg or 3.5k; None if the text is not a number with a unit."""
    match = _WITH_UNIT.fullmatch(text)
    return None if match is None or kind_of_text(match["number"]) != "number" else match["unit"]


def looks_like(text: str) -> str | None:
    """The kind of text without a value in any notation, such as "months" or "fractions"; None for other text."""
    return next((what for what, pattern in _LOOKS.items() if pattern.fullmatch(_unified(text))), None)


def is_integer(text: str) -> bool:
    """Whether a text consists of digits, with or without a sign."""
    return _PLAIN_INTEGER.fullmatch(_unified(text)) is not None


def decimal_mark(texts: Iterable[str]) -> str | None:
    """The decimal mark of a column's texts.

    It is that of the first number that can be read with only one of the two marks. It is None if there is no such
    number, or at most half of the first 100 texts are numbers.
    """
    texts = [text for text in texts if text]
    first = texts[:100]
    if 2 * sum(kind_of_text(text) == "number" for text in first) <= len(first):
        return None
    marked = (text for text in texts if "," in text or "." in text)
    readable = ([mark for mark in ".," if _number(text, mark) is not None] for text in marked)
    return next((marks[0] for marks in readable if len(marks) == 1), None)


def doubt_in_words(text: str, kind: str) -> str | None:
    """The values that an ambiguous text can have in a column of the kind, in words; None if it is not ambiguous."""
    values = [meaning.value for name in _OF_KIND[kind] if (meaning := _BASIC[name](text)) is not None]
    if len(set(values)) < 2:
        return None
    way = "a decimal point and nothing between thousands" if kind == "number" else "the year first"
    return f"which can mean {' or '.join(in_words(value, kind) for value in values)}; write all values with {way}"


def in_words(value: float, kind: str) -> str:
    """A value as messages show it: a date as year-month-day, a number with 15 digits."""
    if kind == "date" and -719_162 <= value < 2_932_896:  # years from 1 to 9999
        return f"{_EPOCH + timedelta(days=value):%Y-%m-%d}"
    return f"{value:.15g}"


def is_notation(name: str, kind: str) -> bool:
    """Whether `name` is a notation of columns of the kind."""
    basic, _, affix = name.partition(" ")
    return KINDS.get(basic) == kind and len(affix) <= 8


def read(text: str, kind: str, notation: str | None) -> float | None:
    """The value of a text in a column of the kind; None if it has no value, or is ambiguous.

    Args:
        text: the text, without outer blanks.
        kind: "number", "date" or "time".
        notation: the notation of the column in the fit; None if it is unknown, in which case the text must have the
            same value in every notation that can read it.
    """
    basic, _, affix = (notation or "").partition(" ")
    # Without its currency an amount is the same number; without its % a percentage is another number.
    allowed = (affix,) if affix in ("%", UTC) else ("", affix, UTC if notation is None else "")
    own = _BASIC.get(_UNGROUPED.get(basic, basic))
    meaning = None if own is None else own(text)
    if meaning is not None and meaning.affix in allowed and (basic in _UNGROUPED or not meaning.grouped):
        return meaning.value
    found = filter(None, (_BASIC[name](text) for name in _OF_KIND[kind]))
    values = {meaning.value for meaning in found if meaning.affix in allowed}
    return values.pop() if len(values) == 1 else None


class Evidence:
    """The notations in which all texts of a column so far can be read.

    Attributes:
        notations: these notations, without regard to the grouping of thousands; after the first text at most two,
            which differ in the decimal mark or in the order of day and month.
        doubt: the first text to which two of the notations give different values; None if there is none.
        example: the first text.
    """

    def __init__(self) -> None:
        self.notations = list(_BASIC)
        self.doubt: str | None = None
        self.example: str | None = None
        self._affix = ""
        self._grouped: dict[str, str] = {}  # the first text with grouped thousands, by notation
        self._commas = self._leading_zeros = False
        self._only_digits = True
        self._only_loose = True
        self._largest = 0.0

    def add(self, texts: Iterable[str]) -> str | None:
        """Add texts; stop at the first that has no notation in common with all before it, and return it; else None."""
        for text in texts:
            found = {name: meaning for name in self.notations if (meaning := _BASIC[name](text)) is not None}
            affix = next((meaning.affix for meaning in found.values()), "")
            if not found or (self.example is not None and affix != self._affix):
                return text
            if self.example is None:
                self.example, self._affix = text, affix
            self.notations = list(found)
            if self.doubt is None and len({meaning.value for meaning in found.values()}) > 1:
                self.doubt = text
            for name, meaning in found.items():
                if meaning.grouped:
                    self._grouped.setdefault(name, text)
            self._commas = self._commas or "," in _unified(text)
            self._only_digits = self._only_digits and text.isdecimal()
            self._only_loose = self._only_loose and all(meaning.loose for meaning in found.values())
            self._leading_zeros = self._leading_zeros or (text[0] == "0" and len(text) > 1)
            self._largest = max(self._largest, *(abs(meaning.value) for meaning in found.values()))
        return None

    @property
    def telling(self) -> str:
        """A text that shows the notation of the column."""
        return str(self.doubt or self._grouped.get(self.notations[0]) or self.example)

    @property
    def kind(self) -> str:
        """The kind of the column: number, date or time."""
        return KINDS[self.notations[0]]

    @property
    def codes(self) -> bool:
        """Whether the texts are codes rather than numbers, such as 01234 or 4D0."""
        return (self._only_digits and self._leading_zeros) or self._only_loose

    @property
    def beyond_exact_integers(self) -> bool:
        """Whether the texts are integers and some are above 2⁵³, where float64 rounds integers."""
        return self._only_digits and self._largest > LARGEST_EXACT_INTEGER

    @property
    def ambiguous(self) -> bool:
        """Whether two notations read all texts, with different values, as of 1,234 or 03.02.2021."""
        return self._open and (self.kind == "date" or self._commas)

    @property
    def plain(self) -> bool:
        """Whether two notations read all texts, one of them as plain numbers such as 1.234."""
        return self._open and not self.ambiguous

    @property
    def _open(self) -> bool:
        return self.doubt is not None and len(self.notations) > 1

    @property
    def notation(self) -> str:
        """The name of the notation, with the currency, `%` or UTC that all texts share."""
        name = self.notations[0]
        if name in self._grouped and not self.plain:
            name = {POINT: POINT_GROUPED, COMMA: COMMA_GROUPED}[name]
        if name == DAY_FIRST and len(self.notations) > 1:
            name = YEAR_FIRST
        return f"{name} {self._affix}".rstrip()
