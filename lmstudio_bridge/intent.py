"""What words intend: whether a task asks for a change, and whether a tool's name says that it reads or changes.

They only decide what a result says about a run and what a small model begins with, never what a run may do.
"""

# ruff: noqa: RUF001  # other languages have letters that look like those of English

from __future__ import annotations

import re

_MAX_SENTENCE = 2_000  # characters that are looked at
_CHANGES = (
    "write|create|edit|change|rename|replace|delete|remove|add|append|move|update|fix|set|commit|insert|save|store|"
    "overwrite|rewrite|modify|copy|install|send|upload|push|merge|"
    "duplicate|increment|bump|uncomment|refactor|swap|revert|archive|unzip|initiali[sz]e|rename|empty|touch|record in|"
    "remember that|turn (?:on|off)|turn \\w+ (?:on|off)|"
    "(?:enable|disable|close|clear|drop|mark|tag|stage|assign) (?:the|all)|"
    "make (?:an?|the) (?:new )?(?:file|folder|directory|branch|copy)|(?:mark|make) \\w+ (?:true|false|as)|"
    "sort (?:\\S+ ){1,6}in place"
)
_CHANGES_WITH_FILE = (  # what is made goes into a file, or else into the answer
    "put|convert|extract|generate|dump|translate|export|download|correct|increase|decrease|enable|disable|prepend|toggle"
    "|switch"
)
_BEFORE = (
    r"please|and|then|also|now|next|first|finally|you(?: must| should| to| have to)?|task is to|job is to|so|but|"
    r"kindly|just|let's|must be|should be|to be"
)
_ASKS = re.compile(
    rf"(?:^[\s>*\-\d.)(]*(?:(?:can|could|would|will) you (?:please )?)?|[,;:(]\s*|\b(?:{_BEFORE})\s+)"
    rf"(?P<verb>{_CHANGES}|{_CHANGES_WITH_FILE})\b(?!\s+(?:up|out|operations?|access|permissions?|of|nothing|time"
    r"|tokens)\b)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCES = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[\u3002\uff01\uff1f])|\n+")
_QUESTION = re.compile(
    r"\s*(?:what|which|who|whose|where|when|why|how|does|do|did|is|are|was|were|has|have|should|may)\b.*\?[\"')\]]*\s*",
    re.IGNORECASE | re.DOTALL,
)
_TEXT_VERBS = frozenset({"write", "create", "send"})
_IS_SUM = re.compile(
    r"\s+(?:the |these |those |all |both |two |three |their )*"
    r"(?:numbers?|values?|amounts?|prices?|\d[\d.,]*\s+(?:and|to|,))",
    re.I,
)
_IS_ANSWER = re.compile(
    r"\s+(?:back|only|just)\b|\s+[\"'`]?(?-i:[A-Z]{2,})\b[\"'`]?\s*(?:[.,;]|\Z|if\b|when\b|otherwise\b)"
    r"|\s+me\b(?!.*\b(?:e-?mail|mail|message|sms|slack|telegram)\b)"
    r"|\s+(?:me\s+)?(?:an?|the|your|one|two|three|\w+-\w+)?\s*(?:\w+[\s-]){0,3}?"
    r"(?:summar(?:y|ies)|lists?|sentences?|tables?|reports?|answers?|overviews?|paragraphs?|explanations?|words?|"
    r"descriptions?|poems?|haikus?|outlines?|bullets?|numbers?|names?|jokes?|stor(?:y|ies)|commit messages?)\b",
    re.IGNORECASE,
)
_INTO_ANSWER = re.compile(
    r"(?:(?!\b(?:and|then)\b)[^,;])*?\b(?:in|into|to|of|from) your (?:answer|reply|response|output)\b", re.IGNORECASE
)
_THING = (
    r"(?:files?|folders?|director(?:y|ies)|database|repository|memory|notes?|issue|page|disk)\b"
    r"|\S*\w\.[a-z]\w{0,4}\b|\S*[/\\]\w"
)
_DESTINATION = re.compile(
    r"(?:\b(?:to|into|as|under)|\A(?:(?!\b(?:of|from|about|for)\b).)*\b(?:in|on|at))"
    r"\s+(?:(?:the|an?|new|text|file|folder|called|named)\s+){0,3}"
    rf"[\"'`]?(?:{_THING})",
    re.IGNORECASE,
)
_WANTED = re.compile(
    r"\bI (?:need|want) a new (?:file|folder)\b|\bthere (?:should|must) be a (?:file|folder)\b", re.IGNORECASE
)
# Other languages, with the verbs that mean nothing but a change; "write" and "create" only with a file behind them.
_CHANGES_ELSEWHERE = (
    # German, Dutch
    "ändere|ändern sie|setze|schalte|ergänze|sortiere|merke? dir"
    "|bearbeite|benenne|ersetze|lösche|entferne|verschiebe|aktualisiere|korrigiere|speichere|kopiere|überschreibe"
    "|wijzig|bewerk|hernoem|vervang|verwijder|verplaats|kopieer|overschrijf|zet"
    # French, Spanish, Italian, Portuguese
    "|(?:modifie|renomme|remplace|supprime|efface|déplace|corrige|enregistre|copie)[rz]?"
    "|mets|mettez|pon|pond|agrega|añade|edit[ae]|cambia|renombra|reemplaza|borra|elimina|mueve|actualiza|corrige|guarda|copia|sobrescribe"
    "|aggiungi|imposta|adicione|mude|modifica|rinomina|sostituisci|cancella|rimuovi|sposta|aggiorna|correggi|salva|sovrascrivi"
    "|altere|renomeie|substitua|apague|exclua|remova|mova|atualize|corrija|salve|copie"
    # Polish, Russian
    "|dodaj|ustaw|zmień|edytuj|zamień|usuń|przenieś|zaktualizuj|popraw|skopiuj|nadpisz"
    "|(?:добавь|установи|измени|отредактируй|переименуй|замени|удали|перемести|обнови|исправь|сохрани|скопируй)(?:те)?"
    # Swedish, Czech, Ukrainian
    "|ta bort|lägg till|byt namn|přidej|smaž|přejmenuj|видали|додай|перейменуй"
)
_CHANGES_IN_PARTS = re.compile(  # verbs in two parts, infinitives behind "can you", and languages with the verb last
    r"\b(?:füge|hänge|trage)\b.*\b(?:hinzu|an|ein)\b|\bvoeg\b.*\btoe\b|\bajoute[rz]?\b.*\b(?:à|dans)\b"
    r"|\b(?:kannst|könntest|würdest|bitte|soll|sollen|muss)\b.*\b(?:löschen|ändern|umbenennen|verschieben|ersetzen|speichern|hinzufügen)\b"
    r"|\b(?:soll|muss)\b.*\b(?:gelöscht|geändert|umbenannt|verschoben|ersetzt|gespeichert)\b"
    r"|\b(?:peux-tu|pouvez-vous|pourrais-tu|puedes|podrías|puoi|potresti|pode)\b.{0,40}?\b(?:supprimer|modifier|renommer|remplacer|ajouter"
    r"|borrar|eliminar|cambiar|renombrar|añadir|cancellare|eliminare|rinominare|aggiungere|apagar|excluir|renomear|adicionar)\b"
    r"|(?:추가|삭제|수정|변경|저장)해\s?(?:줘|주세요)"
    r"|\b(?:sil|ekle|değiştir|kaydet|güncelle|taşı|kopyala|düzelt|düzenle|yeniden adlandır|kaldır)"
    r"(?:y?[iıuü]n(?:[iıuü]z)?|(?:[eaıiuü]?r|t[iıuü]r) m[iıuü]s[iıuü]n(?:[iıuü]z)?)?\b"
    r"|\b(?:dosya|klasör)\w*\b.{0,60}\b(?:oluştur|yarat|yaz)(?:[iıuü]n\w*)?\b"
    r"|\.\w{1,5}['\u2019]?\w* .{0,40}\byaz(?:[iı]n(?:[iı]z)?)?\b"
    r"|(?<!\w)(?:و|ثم )?(?:احذف|امسح|أضف|اضف|عدّل|عدل|غيّر|استبدل|انقل|انسخ|احفظ|حدّث|حدث|صحّح|أعد تسمية)(?!\w)"
    r"|(?<!\w)(?:اكتب|أنشئ).{0,60}(?:ملف|مجلد|\w\.\w)"
    r"|(?:हटा|मिटा|जोड़|बदल|सहेज|सेव कर|कॉपी कर|अपडेट कर|संपादित कर|डिलीट कर)(?:\s?(?:दो|दें|दीजिए)|ें|ो|िए|िये|कर)"
    r"|(?:फ़?ाइल|फ़ाइल|फोल्डर|\.\w{1,5}).{0,60}(?:लिख|बना)(?:\s?(?:दो|दें|दीजिए)|ें|ो|िए|ाएं|ाओ)",
    re.IGNORECASE,
)
_OTHER_SCRIPT = re.compile("[\u0370-\u03ff\u0530-\u109f\u1200-\u139f\u1780-\u17ff]")
"""Letters of languages whose verbs are known only in part, or not: from Greek and Hebrew to Thai and Khmer."""
_MAKES_ELSEWHERE = (
    "schreib|schreibe|erstelle|lege|schrijf|maak|écris|écrivez|crée|créez|escribe|crea|scrivi|escreva|crie|zapisz|utwórz"
    "|stwórz|(?:создай|запиши)(?:те)?"
)
_FILES_ELSEWHERE = (
    r"dat(?:ei(?:en)?)|ordner|verzeichnis|bestand|map|fichier|dossier|archivo|fichero|carpeta|file|cartella|arquivo"
    r"|ficheiro|pasta|plik|folder|файл|папку|\S*\w\.[a-z]\w{0,4}"
)
_BEFORE_ELSEWHERE = (
    "bitte|und|dann|danach|anschließend|alsjeblieft|en|dan|daarna|et|puis|ensuite|veuillez|y|luego|después|por favor"
    "|e|poi|per favore|depois|então|i|potem|następnie|proszę|и|затем|потом|пожалуйста"
)
_ASKS_ELSEWHERE = re.compile(
    rf"(?:^[\s>*\-\d.)(]*|[,;:]\s*|\b(?:{_BEFORE_ELSEWHERE})\s+)(?:"
    rf"(?:{_CHANGES_ELSEWHERE})\b(?!.{{0,40}}\b(?:nichts|nicht|keine?n?|niets|niet|geen|rien|nada|niente|niczego|ничего)\b)"
    rf"|(?:{_MAKES_ELSEWHERE})\s+(?:\w+\s+){{0,2}}(?:{_FILES_ELSEWHERE})\b"
    rf"|(?:{_MAKES_ELSEWHERE})\s+(?:\w+\s+){{0,6}}(?:in|nach|dans|en|a|su|em|para|naar|do|в)\s+"
    rf"(?:\w+\s+)?(?:{_FILES_ELSEWHERE})\b)",
    re.IGNORECASE,
)
_ASKS_IN_CHINESE_OR_JAPANESE = re.compile(
    r"(?:^[\s>*\-\d.)(]*|[\uff0c\u3001,;\uff1b\uff1a:]\s*|然后|并且?|再)(?:请|帮我|请你)*"
    r"(?:修改|编辑|重命名|替换|删除|移动|更新|修复|覆盖|写入|保存到|(?:创建|新建).{0,20}(?:文件|目录))"
    r"|在.{1,80}?(?:添加|插入|写入)|(?:把|将).{1,80}?(?:设为|设置为|改成|改为|改名|重命名|写入|写到|替换|删除|删掉|移动|移到|保存|复制到|添加到|加到)"
    r"|(?:追加|設定|リネーム|書き込|編集|削除|変更|移動|更新|修正|保存|置換|置き換え|上書き|名前を変更)(?:し|んで|え)?(?:て)?(?:ください|下さい|おいて)"
)
_QUESTION_ELSEWHERE = re.compile("[?\uff1f\u061f;\u037e][\"')\\]]*\\s*\\Z")
_READING = re.compile(
    "read|get|list|search|find|show|view|describe|count|query|lookup|look|fetch|status|info|diff|explain|compare|"
    "validate|ls|cat|stat|tree|glob|grep|head|tail|inspect|browse|history"
)
_CHANGING = re.compile(
    f"{_CHANGES}|make|mkdir|rm|mv|cp|run|exec|execute|apply|patch|drop|reset|checkout|stash|clear|wipe|purge|post|pay|"
    "buy|book|order|put|convert|cancel|close|click|type|fill|submit|start|stop|kill|restart|enable|disable|"
    "upsert|sync|import"
)
_FILE_CHANGING = re.compile(
    "write|edit|create|change|modify|overwrite|rewrite|update|replace|append|prepend|insert|patch|apply|move|rename|"
    "copy|delete|remove|save|make|mkdir|rm|rmdir|mv|cp|touch|truncate|trash|unlink"
)
_OUTWARD = re.compile(
    "upload|send|push|post|publish|share|commit|stage|attach|import|load|index|ingest|run|exec|execute|start|git|"
    "rename|patch|refactor|symbols?|"  # may change files that the call does not name
    "issue|comment|message|note|memory|entit(?:y|ies)|record|row|table|task|ticket|event|page|observations?|relations?"
)
_TAKING_AWAY = re.compile("move|rename|mv|delete|remove|rm|rmdir|trash|unlink")
_FOLDER_MAKING = re.compile("mkdir|directory|directories|dir|folder|folders")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def asks_for_change(task: str) -> bool:
    """Whether a task plainly asks to change something: a sentence or a clause that begins with such a verb.

    Questions do not, nor does "write a summary" where no file or the like is named for it: that is the answer.
    """
    sentences = (
        " ".join(sentence.split())[:_MAX_SENTENCE]
        for sentence in _SENTENCES.split(task)
        if not _QUESTION.fullmatch(sentence)
    )
    return any(_sentence_asks(sentence) or _asks_elsewhere(sentence) for sentence in sentences)


def may_ask_for_change(task: str) -> bool:
    """The same; where the task is in a script of which few verbs are known, everything but a question may."""
    return asks_for_change(task) or (bool(_OTHER_SCRIPT.search(task)) and not _QUESTION_ELSEWHERE.search(task))


def _asks_elsewhere(sentence: str) -> bool:
    """The same in the languages that are read most after English; where it is not plain, it is no change."""
    if _CHANGES_IN_PARTS.search(sentence):
        how = r"\W*(?:wie|wo|was|welche\w*|wann|warum|wer|comment|cómo|come|como|jak|nasıl|كيف|ما|هل تم|من)\b"
        how += r"|.*(?:कैसे|nasıl)\b"
        return not re.match(how, sentence, re.IGNORECASE)
    if _QUESTION_ELSEWHERE.search(sentence):
        return False
    return bool(_ASKS_ELSEWHERE.search(sentence) or _ASKS_IN_CHINESE_OR_JAPANESE.search(sentence))


def _sentence_asks(sentence: str) -> bool:
    if _WANTED.search(sentence):
        return True
    if sentence.rstrip("\"')] ").endswith("?") and not re.search(
        r"\b(?:can|could|would|will) you\b", sentence, re.IGNORECASE
    ):
        return False
    start = 0
    while found := _ASKS.search(sentence, start):
        rest = found["rest"]
        verb = found["verb"].lower()
        is_text = verb in _TEXT_VERBS and _IS_ANSWER.match(rest)
        needs_place = is_text or re.fullmatch(_CHANGES_WITH_FILE, verb)
        is_answer = _INTO_ANSWER.match(rest) or (needs_place and not _DESTINATION.search(rest))
        if not is_answer and not (verb == "add" and _IS_SUM.match(rest)):
            return True
        start = found.start("rest")
    return False


def only_reads_by_name(tool: str) -> bool:
    """Whether a tool's name has a word for reading and none for changing something, as `list_issues`."""
    words = _words(tool)
    return any(map(_READING.fullmatch, words)) and not changes_by_name(tool)


def changes_by_name(tool: str) -> bool:
    """Whether a tool's name has a word for changing something, as `add_observations`."""
    return any(map(_CHANGING.fullmatch, _words(tool)))


def changes_files_by_name(tool: str) -> bool:
    """Whether a tool's name has a word for changing the files that a call names, and none for an effect elsewhere."""
    words = _words(tool)
    return any(map(_FILE_CHANGING.fullmatch, words)) and not any(map(_OUTWARD.fullmatch, words))


def takes_away_by_name(tool: str) -> bool:
    """Whether a tool's name says that it moves or deletes something: with a folder, all that is in it."""
    return any(map(_TAKING_AWAY.fullmatch, _words(tool)))


def makes_folder_by_name(tool: str) -> bool:
    """Whether a tool's name says that it makes a folder, and changes none that is there."""
    words = _words(tool)
    return any(map(_FOLDER_MAKING.fullmatch, words)) and not any(map(_TAKING_AWAY.fullmatch, words))


def _words(tool: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(tool)]
