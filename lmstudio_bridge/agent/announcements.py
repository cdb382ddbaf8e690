"""Whether a reply only says which call the model would make next: then it is no answer, and no call was made."""

# ruff: noqa: RUF001  # other languages have letters that look like those of English

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

LONGEST = 400  # characters; a longer text is an answer, however it ends

_SENTENCE_END = re.compile(r"(?<=[.!?…])[*_\"')]{0,3}\s+|(?<=[。！？])|\n+")
_OPEN_END = re.compile(
    r"\b(let me|let's|i'll|i will|i am going to|i'm going to|i need to|now i|next,? i|first,? i)\b"
    r"[^.!?\n]*(?:[:…]|\.\.\.)\s*\Z",
    re.IGNORECASE,
)
_STEP = re.compile(
    r"^\W{0,6}(?:step )?\d[.):]\W{0,3}(?:(?:call|use|run|invoke) (?:the )?[`*]*(\w+)|[`*]*(\w+)\([^\n]*=[^\n]*\)\W*$)",
    re.IGNORECASE | re.MULTILINE,
)
_WAIT = re.compile(
    r"(?:one moment|just a moment|please wait|please hold|wait a moment|hold on|give me a (?:moment|second)|stand by)\b"
    r"[^.!?\n]{0,40}[.!…]*",
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
    r"(?:(?:access|analy[sz]e|browse|check|consult|examine|explore|fetch|find|gather|get|inspect|list|locate|look"
    r"|open|query|re-?read|read|retrieve|review|scan|search|see|take a look|view|write|edit|create|delete|update|save"
    r"|reading|checking|looking|searching|opening|listing|fetching|retrieving|examining|inspecting|accessing)\b"
    # "use" and the like only of a tool
    r"|(?:call|use|run|execute|invoke|make|perform)\b(?=.*?(?:\btools?\b|\bfunctions?\b|\w_\w)))"
)
_ING = r"(?:reading|checking|looking|searching|opening|listing|fetching|retrieving|accessing|calling|running|using)"
_PLAN = re.compile(
    rf"\W*(?:(?:my|the|here is my|here's my) )?plan\W{{0,3}}:\W*(?:1\W+|step 1\W+)?(?:i will )?{_ACT}", re.IGNORECASE
)
_LABEL = re.compile(r"\W*(?:thought|thinking|reasoning|plan|step \d+)\W{0,3}:\W*", re.IGNORECASE)
_TELLS = re.compile(r":\s+[\"'\u201c\u201e\u00ab]?(?:[^\s\"']+\s+){2}\S")  # what was announced follows
_BEGINNINGS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"(?:[^:\"\u201c\u201d`]{0,120},\s)?(?:(?:okay|ok|sure|alright|now|first|next|then|so|great)[,!.]?\s)*"
        r"(?:let me|let's|let us|i'll|i will|i am going to|i'm going to|i need to|i must|i should|i have to|i want to"
        r"|we need to|we must|we should|we have to|we are asked to|i shall|i would now|i(?:'m| am) about to|allow me to"
        r"|to (?:do|answer) (?:this|that|it)\b,? i (?:have|need) to"
        rf"|i'd like to|i(?: would|'d) (?:first )?(?:need|have) to|(?:the|my) (?:next"
        rf"|first) step is to)\s{_ADVERBS}{_ACT}",
        rf"(?:[^:\"\u201c\u201d`]{{0,60}},\s)?(?:please wait while )?i(?:'m|\u2019m| am) (?:now |currently |just "
        rf"|still )?{_ING}\b"
        r"(?!.*\b(?:that|because)\b)",
        rf"(?:one moment(?: please)?[,:.\s]+)?(?:now )?{_ING}\b[^!?\n]*(?:\.\.\.|…|\bnow[.!]?)\Z",
        rf"please wait while i {_ACT}",
        r"(?:reading|checking|searching|opening|looking)(?: (?:for|in|at|into|through|up))? (?:the |all )?"
        r"(?:files?|folders?|notes?|[\w/-]+\.\w{1,5})\b(?!.*\b(?:is|are|was|were|shows?|gives?|takes?|fails?|needs?"
        r"|can|will|would)\b)",
        r"(?:calling|invoking|executing)\b[^!?\n]*\w_\w",
        rf"(?:(?:the )?(?:first|next) (?:step|thing)|step \d+)(?: to do)?(?: is(?: to)?)?\W+{_ACT} (?:the |all )?"
        r"(?:files?|folders?|notes?|[\w/-]+\.\w{1,5})\b\W*\Z",
        r"please (?:call|invoke)(?: the)?(?: tool| function)? [`*]*\w+_\w",
        # German, Dutch
        r"(?:(?:zuerst |jetzt |nun )?(?:ich werde|werde ich|lass mich|lassen sie mich)"
        r" (?=.*?\b(?:lesen|öffnen|ansehen|prüfen|suchen|nachsehen|aufrufen|abrufen)\b)"
        r"|(?:ik ga|ik zal|laat me) (?=.*?\b(?:lezen|openen|bekijken|controleren|zoeken|aanroepen)\b))",
        r"(?:(?:jetzt|ahora|ora|agora|сейчас) )?"
        r"(?:ich (?:rufe|(?:be)?nutze|verwende)|j'(?:appelle|utilise)|llamo|chiamo|chamo|вызываю|我(?:调用|使用))\b"
        r"(?=.*?\w_\w)",
        r"(?:zuerst|nun|jetzt) (?:lese|öffne|prüfe) ich (?:die|das|den|in|nach)\b(?!.*:)",
        r"ich (?:lese|öffne|prüfe|überprüfe|durchsuche|schaue|sehe)\b(?!.*:)[^!?\n]*\b(?:jetzt|nun|zuerst|zunächst"
        r"|nach|mal)\b",
        # French, Spanish, Italian, Portuguese
        r"(?:je vais|laissez-moi|je dois|je suis en train de) (?:d'abord |maintenant )?"
        r"(?:lire|ouvrir|vérifier|chercher|consulter|examiner|appeler|regarder)\b",
        r"(?:voy a|déjame|permítame|necesito|debo) (?:primero )?"
        r"(?:leer|abrir|verificar|revisar|buscar|consultar|llamar)\b",
        r"(?:sto per|lasciami|lasciatemi|devo) (?:prima )?(?:leggere|aprire|controllare|cercare|verificare|chiamare)\b",
        r"(?:ora |adesso |prima )?(?:leggo|apro|cerco) (?:subito |ora )?(?:il|la|l'|i|nel|nella)\b(?!.*:)",
        r"(?:vou|deixe-me|preciso|devo) (?:primeiro )?(?:ler|abrir|verificar|procurar|buscar|consultar|chamar)\b",
        r"(?:estoy|estou|sto) (?:leyendo|abriendo|buscando|revisando|lendo|abrindo|procurando|leggendo|aprendo"
        r"|cercando)\b",
        # Polish, Czech, Russian, Ukrainian
        r"(?:najpierw |teraz |zaraz )*(?:przeczytam|sprawdzę|otworzę|wyszukam|poszukam)\b",
        r"(?:nejprve |nejdřív |teď )*(?:přečtu|zkontroluji|otevřu|vyhledám|podívám se)\b",
        r"(?:(?:сначала|сейчас|теперь|давайте|я|мне) )*(?:прочитаю|прочту|открою|проверю|посмотрю|найду|поищу|загляну"
        r"|(?:нужно|надо) (?:сначала )?(?:прочитать|открыть|проверить|посмотреть|найти))\b",
        r"(?:(?:спочатку|зараз|я) )*(?:прочитаю|відкрию|перевірю|подивлюся|знайду)\b",
        # Swedish, Danish, Norwegian
        r"(?:jag ska|jag kommer att|låt mig|jeg vil|jeg skal|lad mig|la meg) (?:\w+ ){0,2}?(?:läsa|öppna|kontrollera"
        r"|söka|titta|hämta|læse|åbne|kontrollere|søge|lese|åpne|sjekke|tjekke|se på|kigge)\b",
        # Turkish, Indonesian, Vietnamese
        r"[^!?:\n]{0,100}\b(?:okuyorum|okuyacağım|okuyayım|kontrol ed(?:iyorum|eceğim|eyim)|açıyorum|açacağım|arıyorum"
        r"|arayacağım|inceliyorum|inceleyeceğim|bakıyorum|bakacağım|bakayım|listeliyorum)\W*\Z",
        r"(?:pertama,? |sekarang )?(?:saya akan|saya perlu|saya harus|mari saya|biarkan saya"
        r"|izinkan saya) (?:\w+ ){0,2}?"
        r"(?:membaca|membuka|memeriksa|mencari|melihat|mengecek|memanggil)\b",
        r"(?:trước tiên,? |bây giờ )?(?:hãy )?(?:tôi sẽ|để tôi|tôi cần|tôi phải) (?:\w+ ){0,2}?(?:đọc|mở|kiểm tra|tìm"
        r"|xem|gọi)\b",
        # Arabic, Hindi
        r"(?:(?:حسنًا|حسنا|أولاً|أولا|الآن)[،,]? ?)*(?:سأقرأ|سأفتح|سأبحث|سأتحقق|سأقوم ب|سأطلع|سأراجع|سأستخدم|سأستعرض"
        r"|سوف أ(?:قرأ|فتح|بحث|تحقق|قوم)|(?:دعني|دعوني) أ(?:قرأ|فتح|بحث|تحقق|لقي|راجع)|(?:أحتاج|يجب|علي) (?:إلى "
        r"|أن )*(?:قراءة|أقرأ))",
        r".{0,80}(?:पढ़|देख|खोल|खोज|जाँच|जांच)(?:ता|ती| रहा| रही)?(?: कर(?:ता|ती))?\s?(?:हूँ|हूं|ूँगा|ूंगा|ूँगी|ूंगी"
        r"| करूँगा| करूंगा| लेता हूँ)\W*\Z",
        r"मुझे .{0,80}(?:पढ़ना|देखना|खोलना|खोजना) (?:होगा|है|पड़ेगा)\W*\Z",
        # Chinese, Japanese, Korean
        r"(?:现在|首先)?(?:调用|使用)(?:工具|函数)?\s*[`*]*\w+_\w",
        r"(?:好的|首先|现在|接下来)?[,，、]?(?:让我|我将|我会|我来|我先|我需要|我要)(?:先|现在|来|使用|调用)*"
        r"(?:读取|读(?!书)|查看|看|检查|打开|搜索|查找|获取|访问|列出|\w*工具)",
        r"(?:まず|次に|では)[、,]?.{0,60}[をで](?:読み(?:込み|取り)?|確認し|開き|検索し|調べ)ます",
        r"[^はが、。:：\n]{1,40}を(?:読み(?:込み|取り)?|読んでみ|確認し|開き|検索し|調べ)(?:ます|てみます|ましょう)\W*\Z",
        r"(?:먼저|이제|그럼)?[^!?:\n]{0,60}(?:읽어|확인해|열어|찾아|살펴|검색해|조회해) ?(?:보겠습니다|볼게요)\W*\Z",
        r"(?:먼저|이제|그럼)?[^!?:\n]{0,60}(?:읽겠습니다|확인하겠습니다|열겠습니다|찾겠습니다|검색하겠습니다)\W*\Z",
    )
)
"""Beginnings of sentences in which a model says which call it makes next, in the languages of which most is read."""


def announces_call(text: str, names: Collection[str] = (), *, read: Iterable[str] = ()) -> bool:
    """Whether the text says which look or which change comes next and stops there.

    A sentence that stands in what was `read` is a quotation. So are those behind a colon or in quotes.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return False
    read = list(read)
    if _PLAN.match(text) and not any("plan" in each.casefold() for each in read):
        return True
    if any((step[1] or step[2]) in names for step in _STEP.finditer(text)):
        return True
    if _OPEN_END.search(text.rpartition("\n")[2]):
        return True
    sentences = [each.strip() for each in _SENTENCE_END.split(text)]
    last = next((each for each in reversed(sentences) if each and not _WAIT.fullmatch(each)), "")
    last = _LABEL.sub("", last, count=1) if _LABEL.match(last) else last
    if not last:  # nothing but words to wait
        return bool(text) and not any(text in each for each in read)
    if _OFFER.search(last) or _TELLS.search(last) or not any(pattern.match(last) for pattern in _BEGINNINGS):
        return False
    return not any(last in each for each in read)
