"""Whether a reply only says which call the model would make next: then it is no answer, and no call was made."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

LONGEST = 400  # characters; a longer text is an answer, however it ends

_SENTENCE_END = re.compile(r"(?<=[.!?\u2026])[*_\"')]{0,3}\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_OPEN_END = re.compile(
    r"\b(let me|let's|i'll|i will|i am going to|i'm going to|i need to|now i|next,? i|first,? i)\b"
    r"[^.!?\n]*(?:[:\u2026]|\.\.\.)\s*\Z",
    re.IGNORECASE,
)
_WAIT = re.compile(
    r"(?:one moment|just a moment|please wait|please hold|wait a moment|hold on|give me a (?:moment|second)|stand by)\b"
    r"[^.!?\n]{0,40}[.!\u2026]*",
    re.IGNORECASE,
)
_OFFER = re.compile(
    r"\b(?:(?:if|unless|once|when|whether) (?:you|that|this|needed|necessary|wanted)|would you|could you|do you"
    r"|should you|let me know|please (?:provide|tell|give|share|confirm|specify)|not)\b|\?",
    re.IGNORECASE,
)
_ADVERBS = (
    r"(?:(?:now|first|then|also|just|quickly|next|please|go ahead and|begin by|start by|try to|have to|need to),?\s)*"
)
_ACT = (
    r"(?:(?:access|analy[sz]e|browse|check|consult|examine|explore|fetch|find out|gather|get|inspect|list|locate|look"
    r"|open|query|re-?read|read|retrieve|review|scan|search|see|take a look|view|write|edit|create|delete|update|save"
    r"|reading|checking|looking|searching|opening|listing|fetching|retrieving|examining|inspecting|accessing)\b"
    # "use" and the like only of a tool
    r"|(?:call|use|run|execute|invoke|make|perform)\b(?=.*?(?:\btools?\b|\bfunctions?\b|\w_\w)))"
)
_BEGINNINGS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(?:[^:\"\u201c\u201d`]{0,120},\s)?(?:(?:okay|ok|sure|alright|now|first|next|then|so|great)[,!.]?\s)*"
        r"(?:let me|let's|let us|i'll|i will|i am going to|i'm going to|i need to|i must|i should|i have to|i want to"
        rf"|i'd like to)\s{_ADVERBS}{_ACT}",
        r"(?:reading|checking|looking|searching|opening|listing|fetching|retrieving|accessing|calling|running|using)\b"
        r"[^!?\n]*(?:\.\.\.|\u2026)\Z",
        r"(?:calling|invoking|executing)\b[^!?\n]*\w_\w",
        # German, Dutch
        r"(?:(?:zuerst |jetzt |nun )?(?:ich werde|werde ich|lass mich|lassen sie mich)"
        r" (?=.*?\b(?:lesen|\u00f6ffnen|ansehen|pr\u00fcfen|suchen|nachsehen|aufrufen|abrufen)\b)"
        r"|(?:ik ga|ik zal|laat me) (?=.*?\b(?:lezen|openen|bekijken|controleren|zoeken|aanroepen)\b))",
        # French, Spanish, Italian, Portuguese
        r"(?:je vais|laissez-moi) (?:d'abord |maintenant )?"
        r"(?:lire|ouvrir|v\u00e9rifier|chercher|consulter|examiner|appeler|regarder)\b",
        r"(?:voy a|d\u00e9jame|perm\u00edtame|necesito) (?:primero )?"
        r"(?:leer|abrir|verificar|revisar|buscar|consultar|llamar)\b",
        r"(?:sto per|lasciami|lasciatemi) (?:leggere|aprire|controllare|cercare|verificare|chiamare)\b",
        r"(?:vou|deixe-me|preciso) (?:primeiro )?(?:ler|abrir|verificar|procurar|buscar|consultar|chamar)\b",
        # Polish, Russian
        r"(?:najpierw |teraz )?(?:przeczytam|sprawdz\u0119|otworz\u0119|wyszukam|poszukam)\b",
        r"(?:\u0441\u043d\u0430\u0447\u0430\u043b\u0430 |\u0441\u0435\u0439\u0447\u0430\u0441 )?(?:\u044f )?"
        r"(?:\u043f\u0440\u043e\u0447\u0438\u0442\u0430\u044e|\u043e\u0442\u043a\u0440\u043e\u044e"
        r"|\u043f\u0440\u043e\u0432\u0435\u0440\u044e|\u043f\u043e\u0441\u043c\u043e\u0442\u0440\u044e"
        r"|\u043d\u0430\u0439\u0434\u0443)\b",
        # Chinese, Japanese
        r"(?:\u597d\u7684|\u9996\u5148|\u73b0\u5728|\u63a5\u4e0b\u6765)?[,\uff0c\u3001]?"
        r"(?:\u8ba9\u6211|\u6211\u5c06|\u6211\u4f1a|\u6211\u6765|\u6211\u5148|\u6211\u9700\u8981|\u6211\u8981)"
        r"(?:\u5148|\u73b0\u5728|\u6765|\u4f7f\u7528|\u8c03\u7528)*"
        r"(?:\u8bfb\u53d6|\u8bfb|\u67e5\u770b|\u770b|\u68c0\u67e5|\u6253\u5f00|\u641c\u7d22|\u67e5\u627e|\u83b7\u53d6"
        r"|\u8bbf\u95ee|\u5217\u51fa|\w*\u5de5\u5177)",
        r"(?:\u307e\u305a|\u6b21\u306b|\u3067\u306f)[\u3001,]?.{0,60}[\u3092\u3067]"
        r"(?:\u8aad\u307f(?:\u8fbc\u307f|\u53d6\u308a)?|\u78ba\u8a8d\u3057|\u958b\u304d|\u691c\u7d22\u3057|\u8abf\u3079)\u307e\u3059",
    )
)
"""Beginnings of sentences in which a model says which call it makes next, in the languages of which most is read."""


def announces_call(text: str, names: Collection[str] = (), *, read: Iterable[str] = ()) -> bool:
    """Whether the text says which look or which change comes next and stops there, or hardly more than names a tool.

    A sentence that stands in what was `read` is a quotation. So are those behind a colon or in quotes.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return False
    words = text.split(maxsplit=2)
    if 1 <= len(words) <= 2 and words[0].strip("`*\"'.:") in names:
        return True  # the name of a tool, perhaps with one argument
    if _OPEN_END.search(text.rpartition("\n")[2]):
        return True
    sentences = [each.strip() for each in _SENTENCE_END.split(text)]
    last = next((each for each in reversed(sentences) if each and not _WAIT.fullmatch(each)), "")
    if _OFFER.search(last) or not any(pattern.match(last) for pattern in _BEGINNINGS):
        return False
    return not any(last in each for each in read)
