"""What is wrong with a reply, and the plain form of a request for templates that take no other.

The faults were seen in LM Studio (reference, sections 8 and 9) and in llama.cpp's server.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from lmstudio_bridge.agent.announcements import LONGEST, announces_call
from lmstudio_bridge.agent.arguments import is_readable
from lmstudio_bridge.agent.first_call import names_file
from lmstudio_bridge.agent.json_calls import as_turns, tool_line
from lmstudio_bridge.agent.leaked_calls import ASKS_FOR_TOOLS, holds_bare_arguments, holds_leaked_call
from lmstudio_bridge.agent.prompts import DATA_BEGINS, is_own_text
from lmstudio_bridge.agent.schemas import ObjectSchema
from lmstudio_bridge.messages import (
    AssistantMessage,
    Completion,
    Message,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from lmstudio_bridge.text import clean_text

ReplyKind: TypeAlias = Literal[
    "calls",
    "answer",
    "lost_call",
    "leaked_call",
    "cut_call",
    "announced",
    "own_words",
    "nothing",
    "endless",
    "filtered",
    "thought_only",
    "empty",
]

LOST_CALL = "lost_tool_call"  # our own finish reason of a reply that the server reported as lost
CUT_CALL = "cut_tool_call"  # our own finish reason of a reply that ended in the middle of a call
ENDLESS = "endless_reply"  # our own finish reason of a reply that was stopped because it repeated itself
_ENDS_IN_CALL = (
    *(LOST_CALL, "tool_calls", "tool_call", "toolcalls", "tool_use", "function_call"),
    *("malformed_function_call", "unexpected_tool_call"),  # Gemini
)
_FILTERED = ("content_filter", "safety", "recitation", "blocklist")  # finish reasons of a reply that was stopped
_PREFACE = re.compile(r"\b(let me|let's|i'll|i will|i am going to|i'm going to|i need to)\b", re.IGNORECASE)
_CODE = re.compile(r"[\w@][\w@.:/\\-]*\w")
_NO_WORD = re.compile(r"(?:<\|[^|<>]{1,30}\|>|[\s.\u2026`\u2800\u3164])*+")  # left of a reply that has nothing to say
_BARE_MARKS = re.compile(r"(?:assistantfinal|</?(?:answer|response)>|\s)++")
_WANTS_TOOL = re.compile(r"(?<!not )(?<!n't )\b(?:use|using|with|call) (?:the |a |its |your )?tools?\b", re.IGNORECASE)
_SHORT_TASK = 40  # characters
_SHORT_QUESTION = 8
_DIGITS = 3  # in a number that nobody could have reckoned from a task in passing
_GAVE_UP = re.compile(
    r"\b(?:can ?not|can't|could(?: not|n't)|unable|impossible|not possible|sorry|unknown"
    r"|(?:do|does)(?: not|n't) (?:have|know|exist)|no (?:access|information))\b",
    re.IGNORECASE,
)
_WORD_WANTED = re.compile(
    r"\b(?i:answer|reply|respond|say|write|return|output|give|print)\b"
    r"(?: (?:me|back|with|only|just|exactly|the|an?|one|single|word|text|string)){0,6}:?"
    r" [\"'`\u201c*]*(?P<word>[A-Z][A-Z_/-]{1,30}[A-Z])\b"
)
_TRANSLATE = re.compile(  # with the text behind a colon or in quotes
    r"(?:translat|\u00fcbersetz|tradu|vertaal|przet\u0142umacz|\u043f\u0435\u0440\u0435\u0432\u0435\u0434|\u7ffb\u8bd1|\u7ffb\u8a33|\u8a33\u3057|\ubc88\uc5ed|\u00e7evir)"
    r".{0,200}?(?:[:\uff1a]\s*\S|[\"\u201c\u201e\u00ab\u300c]\S)",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(  # that something fails or is missing
    r"\b(?:otherwise|else|unless)\b|\b(?:if|when|where|in case|should)\b.{0,400}?(?:n['\u2019]t"
    r"|\b(?:not|no|none|nothing|nobody|neither|nowhere|cannot|without|missing|absent|empty|unknown|unclear|impossible"
    r"|fail\w*|lack\w*)\b)",
    re.IGNORECASE,
)
_OTHER_WORD = re.compile(r"\b(?:or|else|otherwise|and)\b[^a-z.]{1,4}[A-Z]{2,}\b|\b[A-Z]{2,}\b\W{1,3}otherwise\b")
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAIM = re.compile(r"\b(?:I(?:'ve| have)|(?:has|have) been|successfully)\b", re.IGNORECASE)

_ALREADY = re.compile(
    r"(?<!\bI )\balready\b(?! been)|\bup to date\b|\b(?:bereits|schon|d\u00e9j\u00e0"
    r"|ya (?:est\u00e1|es|tiene|era|contiene)|gi\u00e0|j\u00e1 (?:est\u00e1|\u00e9|tem)|reeds|ju\u017c|u\u017ee|zaten"
    r"|redan|allerede)\b|\u0443\u0436\u0435|\u5df2\u7ecf|\u65e2\u306b|\u3059\u3067\u306b|\uc774\ubbf8",
    re.IGNORECASE,
)
_LONGEST_NOTHING = 300  # characters
_OKAY = (
    r"(?:sure|okay|ok|understood|got it|certainly|of course|absolutely|alright|all right|no problem|will do|noted"
    r"|(?:great|perfect|well|klar|claro|certo)(?=[!,])|i see|hmm+|on it|thank you|thanks|you(?:'|\u2019)re welcome"
    r"|(?:let me|i'll|i will) do (?:that|it|so)|(?:working on it|processing|loading)(?=\W*\Z)"
    r"|nat\u00fcrlich|gerne|mache ich|bien s\u00fbr|d'accord|tamam"
    r"|\u043a\u043e\u043d\u0435\u0447\u043d\u043e|\u0445\u043e\u0440\u043e\u0448\u043e|\u597d\u7684"
    r"|\u627f\u77e5\u3057\u307e\u3057\u305f|\uc54c\uaca0\uc2b5\ub2c8\ub2e4)"
)
_HALF = r"(?:[^.!?:\n]|\.(?=\w)){0,160}"  # of a sentence; a dot may be that of a file's name
_NOTHING = re.compile(  # a yes to the task, an offer to do it, or half a sentence
    rf"\W*{_OKAY}\b(?:[!,.\s]+{_OKAY}\b)*\W*"
    rf"|\W*(?:(?:{_OKAY}|hello|hi|hey)(?: there)?\b[!,.\s]*)*"
    r"(?:(?:how (?:can|may) i|what can i|i(?:'m| am) (?:ready|here|happy|glad) to|i can|i'd be happy to) (?:help"
    r"|assist)\b[^.?!:\n]{0,60}|what (?:would|do) you (?:like|want|need) (?:me )?to (?:do|know)\b[^.?!\n]{0,30}"
    r"|i understand(?: the task)?)\W*"
    r"|\W*i(?:'ve| have)? (?:now |successfully )?(?:read|opened|looked at|checked|reviewed) (?:the|all) (?:files?"
    r"|notes?)\b(?: successfully)?\W*|\W*the (?:files?|notes?|contents?) (?:has|have|was"
    r"|were) (?:been )?(?:successfully )?(?:read|opened)"
    r"(?: successfully)?\W*|\W*(?:see|as|the) ?(?:the )?(?:results?|output|answer|contents?)? ?(?:is|are)?"
    r" ?(?:shown|given|listed|displayed)? above\W*"
    r"|\W*(?:the|so|i think)|(?:#{1,6} |\*\*)\W*(?:the |final |my )?(?:answer|results?|summary|response|output)\W*"
    rf"|\W*(?:{_OKAY}[!,.]?\s+)*(?:(?:[\w ,'\u2019-]|\.(?=\w)){{0,120}}\W)?"
    r"(?:answer|results?|output|summary|list|information|response|details|following)\b"
    r"(?:[^.!?:\n]|\.(?=\w)){0,60}:[*_]*"
    rf"|\W*(?:see|please see) the (?:tool )?(?:results?|output)(?: above)?\W*"
    r"|\W*the (?:tool|file|result)s? (?:returned the (?:contents?|results?)|was received)\W*",
    re.IGNORECASE,
)
_HALF_SENTENCE = re.compile(
    rf"\W*(?:{_OKAY}[!,.]?\s+)*(?:here (?:is|are)|here's|the|its|these are|this is|that is|based on|according to"
    rf"|after reading)\b{_HALF}(?:,|\b(?:is|are|the|an|of|and|or|with))[*_]*"
    r"|(?![^\n]*\b(?:what|which|who|how|everything|all)\b)"  # the file has all that it describes
    rf"\W*\w+\W{_HALF}\b(?:the|of|with|that|and|contains|describes|says|because|its|their)[*_]*",
    re.IGNORECASE,
)
_ALL_THAT = (
    r"\b(?:(?:the (?:one|only \w+|things?)|(?:any|some|every|no)thing|all|nobody|none)(?: that)?|(?:the|an?) \w+ that)"
)
_WHOLE = re.compile(  # ends like half a sentence, and is none: the team that she works with
    r"[*_\"'`\u201c]\w+[*_\"'`\u201d]+\Z|\b(?:do|does|did|like) that\Z"
    rf"|\A(?!\W*{_OKAY}\b).*\w,? as (?:the )?[\w.]+ says\Z"
    rf"|{_ALL_THAT} (?:\w+ ){{1,3}}(?:aware|fond|think|thinking|know|knows|knew|speaks?|heard|dreamed) of\Z"
    rf"|{_ALL_THAT} (?:\w+ ){{1,3}}(?:\w+ it|works|deals|agrees) with\Z"
    rf"|{_ALL_THAT} (?:it|the [\w.]+|[A-Z\d][\w.]*) (?:contains|describes|says)\Z"
    r"|\b(?:nobody|none|nothing|tests) to \w+ with\Z",
    re.IGNORECASE,
)
_SAYS_WHAT_IT_DOES = re.compile(
    r"(?!.*\b(?:i|we|my|let|now|next|please|moment|answer)\b)"
    r"\W*(?:reading|checking|searching|opening) (?:files|folders|notes)(?:,? (?:and|or) \w+ing\b[^\n._\u2026]*)?\.?"
    # no file, folder, note, content, memo
    r"|(?!.*(?:\u30d5\u30a1\u30a4\u30eb|\u30d5\u30a9\u30eb\u30c0|\u30ce\u30fc\u30c8|\u5185\u5bb9|\u30e1\u30e2"
    r"|\u307e\u305a|\u6b21\u306b|\u3067\u306f|\u79c1))"
    r"[^\n._\u2026]*\u3092\u8aad\u307f\u8fbc\u307f\u307e\u3059\u3002?",
    re.IGNORECASE,
)
_ASKS_DOING = re.compile(
    r"\bwhat (?:does|do|is|are)\b[^?\n]{0,80}\b(?:do|does|doing)\b|\u4f55\u3092(?:\u3057|\u3059\u308b|\u884c)",
    re.IGNORECASE,
)
_SMALL_TALK = re.compile(  # tasks to which a greeting or a yes is the answer
    r"\W*(?:please )?(?:(?:hello|hi|hey|test)(?: there)?|say (?:hello|hi)|acknowledge(?: (?:this|that|receipt))?"
    r"|(?:write|draft|compose|suggest|give me) an? (?:\w+ ){0,2}greeting(?: (?:for|to) an? \w+)?"
    r"|(?:do|did|have) you (?:understand|understood)(?: (?:this|that|me))?|(?:can|do) you hear me"
    r"|are you there|what can you do"
    r"|(?:what(?:'s| is)|give me|name) (?:an?|another) (?:synonym|word) for \W?\w+(?: \w+)?)\W*",
    re.IGNORECASE,
)
_YES = re.compile(r"\W*(?:sure|certainly|of course|absolutely)\W*", re.IGNORECASE)
_ASKS_WHETHER = re.compile(  # and nothing else
    r"(?!.*\b(?:which|what|how|who|where|list)\b)\W*(?:(?:is|are|was|were|does|did|has|have)|(?:\w+ ){0,4}whether)\b"
    r"(?:[^.?!\n]|\.(?=\w))*\W*",
    re.IGNORECASE,
)
_BLANK = re.compile(  # The color is [color]
    r"(?:[\w' :,-]{0,80}[\s:])?(?:[\[{<]{1,2}(?:insert [^\]}>\n]{1,40}|(?!\d+\W)(\w[\w' ]{0,30}))[\]}>]{1,2}|_{3,})\W*",
    re.IGNORECASE,
)
_PLACEHOLDERS = ("answer", "your answer", "summary", "result", "response", "output", "content", "your response")
_SHOWN_CALL = re.compile(r"<\w{1,20}>\s*(\w+_\w+)\s*</\w{1,20}>|(\w+_\w+)\[[^\]\n]{1,200}\]")
_SHELL = re.compile(  # a command that would read what no tool was called for
    r"[`$ ]*(?:cat|grep|rg|ls|sed|awk|wc|(?:head|tail) -\S+) (?:-\S+ )*(?:(?:\"[^\"\n]*\"|'[^'\n]*'|\w+) )?"
    r"[\w./~*-]+\.\w{1,8}[` ]*"
)
_ASKS_FOR_COMMAND = re.compile(
    r"command|shell|bash|script|terminal|\bcli\b|one-?liner|\bcmd|\brun\b|\bhow (?:do|to|can|would)\b|befehl"
    r"|\bon (?:linux|unix)\b|\b(?:linux|unix|posix) (?:equivalent|way|counterpart)|\b(?:user|i|you|we|one|to) type\b",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\A```\w*\s*|\s*```\Z")
_WANTS_BRACKETS = re.compile(
    r"[\[\]{}<>]|bracket|list|array|json|xml|html|tag|template|placeholder|blank|usage|syntax"
    r"|command|cloze|regex|\bhow (?:do|to|can) (?:(?:i|you|we) )?(?:call|run|use|invoke|start)\b",
    re.IGNORECASE,
)
_LONGEST_PERIOD = 400  # characters of what is repeated without end
_REPEATS = 50
_LONG_REPETITION = 1_000  # characters; half a minute of a slow model
_FEW = 4  # characters, as in `0, `: those may come more often, in tables and lists
_LONG_RUN = 2_000
LONGEST_REPETITION = _REPEATS * _LONGEST_PERIOD  # characters of a reply that have to be looked at

_LONGEST_FRAME = 4_000  # characters; a longer reply holds more than the bridge's words around results
_QUOTED = r"(?:'[^'\n]{0,200}'|\"[^\"\n]{0,200}\")"
_END = r"(?=[.:;]?\s*(?:\n|\Z)|[.:;] )"
_HEADS = re.compile(  # of composite tools: they count what comes behind them
    rf"(?:{_QUOTED}(?: or {_QUOTED}){{0,9}}(?: was not found, but {_QUOTED}(?: (?:and|or) {_QUOTED})*)?:\s"
    r"|\b[\w.-]{1,80}:\s|\b)(?:\d+ lines? in \d+ files?\b"
    r"|\d+ commits?(?:, the first \d+)?, the oldest first; (?:all|the newest) \d+ commits? searched\b)"
    rf"|\b\d+ files? searched in [^\n:;]{{1,200}}?{_END}|\bThe first \d+ are\b"
    r"|\b\d+ files? read\b(?=[.;:]|\s*\Z)|^== [^\n]{1,200} ==$|; [^;\n]{1,300} could not be read(?: \([^\n]{1,300}\))?"
    r"|\b[1-9]\d* differences? between \S+ and \S+?(?=[,:.]?\s|[,:.]?\Z)(?:, and no others)?"
    r"(?:, except in (?:comments|order or spacing|line ends))?"
    rf"|\b\d+ lines? in \S+ but not in \S+?{_END}"
    r"|\b\d+ files? in (?:the working folder|\S+) and its subfolders\b(?:, without [^\n:;]+)?",
    re.IGNORECASE | re.MULTILINE,
)
_FRAMES = re.compile(
    r"\(no output\)|\{\"answer\": ?\"(?:<text>)?\"\}|\bDid you mean: \w+__\w+|\bData, up to the line\b(?: \w+)?"
    r"|\bYou have not read [^\n]+\. Read that first\b|\bResult of [\w.-]+:|\bThe call failed:"
    r"|\bNot allowed: [^\n]+ Continue without it\b"
    r"|\[?\br\d+, characters \d+ to \d+ of \d+(?:; (?:read on with offset=\d+|this is its end)\]?)?"
    r"|\bthere are more, the next at \d+|\br\d+ has [\d,]+ characters; offset must be from 0 to \d+"
    r"|\[[^\n]{1,300}, not shown any more; read_result\([^)\n]*\) gives them\]"
    rf"|{_QUOTED} does not occur in r\d+\b|\[(?:image|audio): [^\]\n]+\]|\b\d+ more blocks of this result were left out"
    r"|\b(?:read_result|search_result|find_tools) (?:was not done:[^\n]*|needs '\w+')"
    r"|\bThese can be called now:(?:\n- \w+: [^\n]*)*|^You sent: \{[^\n]*"
    r"|\bThe text to (?:find|replace|add) is empty\b|\bOld and new text are the same\b"
    r"|\bOnly numbers, [-+*/% ]+ and parentheses can be calculated, in a short expression\b"
    rf"|\bNot done: (?:{_QUOTED} stands in several places|it would undo your replacement of [^\n]*)"
    r"|\bGive more of the line to change as old\b"
    r"|[^\n]{1,200} holds more than \d+ (?:files|folders); name a smaller (?:folder|one)\b",
    re.IGNORECASE | re.MULTILINE,
)
"""What the bridge writes around results and in place of them, apart from `prompts`."""
_ANYONES = re.compile(  # sentences of ours that may be an answer, too
    r"this file does not exist yet\W*|nothing has been changed yet\W*"
    r"|(?!\w+__)[^\n]{1,80} has failed \d+ times in a row with the same error\W*",
    re.IGNORECASE,
)
_DATA = re.compile(DATA_BEGINS.format(mark=r"(\w+)") + r"\n(.*?)\n\1$", re.DOTALL | re.MULTILINE)
_SHORTEST_QUOTATION = 12  # characters; `(no output)` is the bridge's
_SHOWN_RESULT = re.compile(r"(?:\A|\n)Result of \w[\w-]*__[\w-]+:[ \t]*\n")
_LONGEST_LIST = 10_000  # characters; about that of 40 tools
_LISTED = 25  # characters behind a tool's name that nobody but the list of tools has by chance
_DEFINITION = re.compile(  # {"type": "function", "function": {"name": "f", "description": …
    r"(?:</?\w{1,20}>|```\w*|[\s\[])*+(?P<begins>\{\s*(?:\"type\"\s*:\s*\"function\"\s*,\s*\"function\"\s*:\s*\{\s*)?"
    r"\"name\"\s*:\s*\"(?P<name>\w[\w-]*__[\w-]+)\"\s*,\s*\"description\"\s*:)"
)
_ASKS_FOR_DEFINITION = re.compile(
    r"tool|function|funktion|fonction|funci\u00f3n|schema|definition|werkzeug|outil|herramienta|mcp"
    r"|\u0444\u0443\u043d\u043a\u0446\u0438|\u0438\u043d\u0441\u0442\u0440\u0443\u043c\u0435\u043d\u0442|\u5de5\u5177|\u51fd\u6570|\u95a2\u6570|\u30c4\u30fc\u30eb",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\b(?:above|again|answer|are|at|below|call|done|files?|follow(?:ing|s)|found|here|in|its?|okay|output|results?"
    r"|search|shown|sure|that|the|there|these|this|tool|was|were|i|a|is|as|of|ok)\b|\W+",
    re.IGNORECASE,
)
_ASKS_COUNT = re.compile(
    r"how (?:many|much|often)|count|number of|total|whether|\bif (?:there|any|it|they|the)\b"
    r"|(?:\A|[.!?:]\s+|\n)(?:is|are|was|were|do|does|did|has|have)\b"
    r"|wie ?viel|anzahl|zähl|gibt es|\bob\b|combien|nombre|y a-t-il|est-ce|cuánt|número|\bhay\b|quant[oiea]|numero"
    r"|\bci sono|c'è|\bhá\b|hoeveel|aantal|zijn er|\bile\b|liczb|\bczy\b|сколько|количеств|\bли\b|多少|几|幾|数量|行数"
    r"|件数|吗|是否|有没有|いくつ|何|ですか|ますか|몇|개수|kaç|كم|कितन",
    re.IGNORECASE,
)
"""Tasks to which a number, or yes or no, is the answer."""


def classify_reply(
    reply: Completion,
    *,
    tools_offered: bool,
    names: Collection[str] = (),
    schemas: Mapping[str, ObjectSchema] = MappingProxyType({}),
    messages: Sequence[Message] = (),
) -> ReplyKind:
    """What kind of reply a complete one is. `names` are the tools of the run, whether or not they were offered.

    `schemas` are those of the tools whose arguments alone are no answer, unless it is explicit.

    `messages` are the conversation so far: what the reply repeats from the task or a result announces nothing, and may
    be the name of a tool that was asked for.
    A call that LM Studio could not parse is dropped silently: the reply is a 200 with the
    preface as its text and a usage of zeros (bug-tracker #942). Other servers still say that it ended in a call.
    """
    cut = reply.finish_reason == "length"
    if reply.finish_reason == ENDLESS:
        return "endless"
    if reply.calls:
        return "cut_call" if cut and not is_readable(reply.calls[-1].arguments) else "calls"
    if reply.finish_reason == CUT_CALL:
        return "cut_call"
    if reply.text and holds_leaked_call(reply.text, names, messages=messages):
        return "cut_call" if cut and tools_offered else "leaked_call"
    if not reply.is_explicit and holds_bare_arguments(reply.text, schemas, messages=messages):
        return "leaked_call"
    finish_reason = reply.finish_reason.casefold()
    if tools_offered and (_is_uncounted(reply) or finish_reason in _ENDS_IN_CALL):
        return "lost_call"
    if finish_reason in _FILTERED:
        return "filtered"
    told = (message.text for message in messages if not isinstance(message, AssistantMessage))
    if (
        (tools_offered or names)
        and not (_is_translation(reply.text, messages) or _says_what_it_does(reply.text, messages))
        and (announces_call(reply.text, names, read=told) or _names_tool_instead(reply.text, names, messages))
    ):
        return "announced"
    if not _is_blank(reply.text):
        if is_bridge_text(reply.text, messages):
            return "own_words"
        return "nothing" if names and not cut and says_nothing(reply.text, messages) else "answer"
    return "thought_only" if reply.reasoning else "empty"


def _is_translation(text: str, messages: Sequence[Message]) -> bool:
    """Whether the task holds a text to be translated and names no file: what sounds like a plan may be that text."""
    tasks = [message.text for message in messages if isinstance(message, UserMessage)]
    return any(_TRANSLATE.search(task) and not names_file(task) for task in tasks) and not names_file(text)


def _says_what_it_does(text: str, messages: Sequence[Message]) -> bool:
    """Whether a text without the name of a file comes after a result, and the task asks what something does."""
    if names_file(text) or not any(isinstance(each, ToolMessage) for each in messages):
        return False
    asked = any(_ASKS_DOING.search(message.text) for message in messages if isinstance(message, UserMessage))
    return asked and bool(_SAYS_WHAT_IT_DOES.fullmatch(text.strip()))


def _names_tool_instead(text: str, names: Collection[str], messages: Sequence[Message]) -> bool:
    """Whether a short text before any call speaks of a tool of the run, though the task does not: a call is missing."""
    if len(text) > LONGEST or "\n" in _FENCE.sub("", text.strip()):
        return False
    if any(isinstance(message, ToolMessage) for message in messages):
        return False
    text = _FENCE.sub("", text.strip())
    shown = _SHOWN_CALL.fullmatch(text)
    short = shown and (shown[1] or shown[2])
    named = [name for name in names if "__" in name and (name in text or name.rpartition("__")[2] == short)]
    asked = [message.text for message in messages if isinstance(message, UserMessage)]
    if _SHELL.fullmatch(text):
        return bool(asked) and not any(_ASKS_FOR_COMMAND.search(task) or text in task for task in asked)
    return bool(named and asked) and not any(
        ASKS_FOR_TOOLS.search(task) or (short or named[0]) in task for task in asked
    )


def is_bridge_text(text: str, messages: Sequence[Message] = ()) -> bool:
    """Whether a text says nothing but what the bridge wrote: its hints, or its words around the results of tools.

    What counts lines, files or differences may be the answer to a task among the `messages` that asks for a number, or
    whether there are any.
    """
    if _is_made_up_result(text, messages):
        return True
    if _ANYONES.fullmatch(text.strip()) and not any(text.strip(" .") in message.text for message in messages):
        return False
    if _is_quotation(text, messages):
        return False
    if is_own_text(text):
        return True
    if len(text) > _LONGEST_FRAME:
        return False
    asks_count = any(isinstance(message, UserMessage) and _ASKS_COUNT.search(message.text) for message in messages)
    text = re.sub(r"\*\*|`|^> ", "", text, flags=re.MULTILINE)
    rest = _FRAMES.sub(" ", text)
    rest = rest if asks_count else _HEADS.sub(" ", rest)
    return rest != text and (is_own_text(rest) or not _FILLER.sub("", rest))


def _is_made_up_result(text: str, messages: Sequence[Message]) -> bool:
    """Whether a text has the form in which `plain_turns` shows a result, and no line of it stands in one."""
    shown = _SHOWN_RESULT.search(text)
    if shown is None:
        return False
    results = [f" {_words(message.text)} " for message in messages if isinstance(message, ToolMessage)]
    lines = [words for line in text[shown.end() :][:_LONGEST_FRAME].splitlines() if (words := _words(line))]
    return bool(lines) and not any(f" {words} " in result for words in lines for result in results)


def copies_tools(text: str, specs: Sequence[ToolSpec], messages: Sequence[Message]) -> bool:
    """Whether a text begins with the definition of a tool that the model was given, or, for a task on a file, at least
    half of it is lines from the list of tools.

    Not if the task asks for tools or names one; what stands in the task or in a result is no copy.
    """
    messages = [each for each in messages if not (isinstance(each, UserMessage) and is_own_text(each.text))]
    tasks = [message.text for message in messages if isinstance(message, UserMessage)]
    called = [call.name for each in messages if isinstance(each, AssistantMessage) for call in each.calls]
    if (defined := _DEFINITION.match(text)) and defined["name"] in (*called, *(spec.name for spec in specs)):
        asked = any(_ASKS_FOR_DEFINITION.search(task) or defined["name"] in task for task in tasks)
        return not asked and not any(_words(defined["begins"]) in each for each in _told(messages))
    if len(text) > _LONGEST_LIST:
        return False
    named = [spec for spec in specs if spec.name in text]
    listed = [(_words(tool_line(spec)), spec.name) for spec in named]
    # A project may have a function called like a tool of the bridge: of these, the whole line.
    sizes = [(line, len(name) + _LISTED if "__" in name else len(line)) for line, name in listed]
    heads = tuple(line[:size] for line, size in sizes if len(line) >= size)
    lines = [re.sub(r"^\d+ ", "", _words(line)) for line in text.splitlines()]
    copied = [line for line in lines if line.startswith(heads)]
    if not copied or not any(map(names_file, tasks)):
        return False
    if any(ASKS_FOR_TOOLS.search(task) or any(spec.name in task for spec in specs) for task in tasks):
        return False
    told = _told(messages)
    own = {line for line in copied if not any(line in each for each in told)}
    return 2 * sum(len(line) for line in copied if line in own) > sum(map(len, lines))


def _told(messages: Sequence[Message]) -> list[str]:
    """The words of all messages that are not the model's."""
    return [_words(message.text) for message in messages if not isinstance(message, AssistantMessage)]


def _is_quotation(text: str, messages: Sequence[Message]) -> bool:
    """Whether a text stands in the data of a server's result, as a line of a log does; composite tools write theirs."""
    words = _words(text)
    if len(words) < _SHORTEST_QUOTATION or _HEADS.search(text):
        return False
    calls = (call for message in messages if isinstance(message, AssistantMessage) for call in message.calls)
    served = {call.id for call in calls if "__" in call.name}
    results = (message.text for message in messages if isinstance(message, ToolMessage) and message.call_id in served)
    return any(f" {words} " in f" {_words(data[2])} " for each in results for data in _DATA.finditer(each))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text))


def _is_blank(text: str) -> bool:
    """Whether nothing of a text is seen but marks around an answer that is not there."""
    text = clean_text(text)[0]
    return bool(_NO_WORD.fullmatch(text) or _BARE_MARKS.fullmatch(text))


def says_nothing(text: str, messages: Sequence[Message] = ()) -> bool:
    """Whether a text only greets, agrees to the task, or breaks off where its answer would begin.

    What stands in the task or in a result may be the answer.
    """
    text = text.strip()
    tasks = [message.text for message in messages if isinstance(message, UserMessage)]
    results = [message.text for message in messages if isinstance(message, ToolMessage)]
    asked = "\n".join(tasks).casefold()
    blank = _BLANK.fullmatch(text)
    whole = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
    if blank and not (_WANTS_BRACKETS.search(asked) or any(map(whole.search, results))):
        name = (blank[1] or "").casefold()
        return not name or name in _PLACEHOLDERS or f" {_words(name)} " in f" {_words(asked)} "
    if len(text) > _LONGEST_NOTHING:
        return False
    is_half = bool(_HALF_SENTENCE.fullmatch(text)) and not _WHOLE.search(text)
    if not (is_half or _NOTHING.fullmatch(text)):
        return _is_blank(text)
    if not (is_half or text.endswith(":")) and any(map(_SMALL_TALK.fullmatch, tasks)):
        return False
    if results and _YES.fullmatch(text) and any(map(_ASKS_WHETHER.fullmatch, tasks)):
        return False
    if any((found := _TRANSLATE.search(task)) and _NOTHING.fullmatch(task[found.end() - 1 :]) for task in tasks):
        return False
    words = re.compile(rf"(?<!\w){re.escape(text.strip('.!?,:*# '))}(?!\w)", re.IGNORECASE)
    return not any(words.search(each) and not is_own_text(each) for each in (*tasks, *results))


def find_repetition(text: str) -> int | None:
    """Where the endless repetition begins in which a text ends; None if it ends in none.

    Up to `_LONGEST_PERIOD` characters must come so often in a row as they do in no table, list of numbers or log.
    """
    probe = text[-_LONGEST_PERIOD:]  # nearest behind itself after one period, if it is so long as that at least
    at = text.rfind(probe, max(0, len(text) - 2 * _LONGEST_PERIOD), len(text) - 1)
    period = len(text) - len(probe) - at
    need = max(_REPEATS * period, _LONG_REPETITION if period > _FEW else _LONG_RUN)
    if at < 0 or len(text) < need or text[-need:-period] != text[period - need :]:
        return None
    start = len(text) - need
    while start and text[start - 1] == text[start - 1 + period]:
        start -= 1
    return start


def repeats_task(answer: str, task: str) -> bool:
    """Whether an answer is just the task again, or its first sentences; a short text may be what the task asks for.

    A question is no answer to itself.
    """
    shortest = _SHORT_QUESTION if task.rstrip().endswith(("?", "\uff1f")) else _SHORT_TASK
    answer, task = (" ".join(re.findall(r"\w+", text.casefold())) for text in (answer, task))
    return len(answer) >= shortest and task.startswith(answer) and 2 * len(answer) > len(task)


def as_answer(reply: Completion, *, counts_tokens: bool) -> Completion | None:
    """The reply that looked like a lost call as an answer: some servers count no tokens, or say that all ends in calls.

    None if its text reads like the preface of a call, or a server that otherwise counts tokens counted none.
    """
    last_line = reply.text.strip().rpartition("\n")[2]
    uncounted = _is_uncounted(reply)
    if not reply.text or _PREFACE.search(last_line) or (uncounted and counts_tokens):
        return None
    finish_reason = "stop" if reply.finish_reason.casefold() in _ENDS_IN_CALL else reply.finish_reason
    usage = None if uncounted else reply.usage
    return Completion(reply.text, reply.reasoning, reply.calls, finish_reason, reply.model, usage)


def without_half_call(reply: Completion) -> Completion:
    """The reply so that a call which was cut off before its arguments is refused, and not run without any."""
    if not reply.calls or reply.calls[-1].arguments.strip():
        return reply
    *whole, last = reply.calls
    return replace(reply, calls=(*whole, ToolCall(last.id, last.name, "{")))


def _is_uncounted(reply: Completion) -> bool:
    return reply.usage is not None and reply.usage.completion_tokens == 0


def is_unfounded(answer: str, *, task: str, known: str, tools: Sequence[ToolSpec]) -> bool:
    """Whether an answer that was given before any call must be rejected.

    It gives up without a look, claims to have done something, names a tool in place of calling it, or
    holds a number or a name with digits, dots or the like that stands nowhere in `known`: it is made up.
    Nor can a task be answered so that names a file, or asks for a tool to be used.
    """
    if names_file(task) or _WANTS_TOOL.search(task):
        return True
    if gives_up(answer) or _CLAIM.search(answer) or any(spec.name in answer for spec in tools):
        return True
    known = known.casefold()
    return any(_is_telling(word) and word.casefold() not in known for word in _CODE.findall(answer))


def gives_up(answer: str) -> bool:
    """Whether an answer says that it cannot be done or known."""
    return bool(_GAVE_UP.search(answer))


def says_already(answer: str) -> bool:
    """Whether an answer says that all is as the task wants it, and not that the model has just made it so."""
    return bool(_ALREADY.search(answer)) and not _CLAIM.search(answer)


def rule_for_failure(task: str) -> tuple[str, str] | None:
    """The word in capitals that the answer must be if the task cannot be done, and the sentence that says so.

    None where the task wants one of two words, or the word for what was found.
    """
    for sentence in _SENTENCES.split(task):
        wanted = _WORD_WANTED.search(sentence)
        if wanted and _CONDITION.search(sentence) and not _OTHER_WORD.search(sentence):
            return wanted["word"], sentence.strip()
    return None


def _is_telling(word: str) -> bool:
    digits = sum(map(str.isdigit, word))
    return digits >= _DIGITS or bool(re.search(r"\w[.:/\\_@]\w", word))


def names_call(reply: Completion, offered: Sequence[ToolSpec]) -> bool:
    """Whether a reply without calls spells one inside a code fence, where it must not be taken for one."""
    if reply.calls or "{" not in reply.text or not reply.text.lstrip().startswith(("```", "{")):
        return False
    return any(f'"{spec.name}"' in reply.text for spec in offered)


def plain_turns(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with nothing but user and assistant in turn, for templates that take no more.

    The system text goes before the first user turn; calls and results become text.
    """
    texts = (UserMessage(message.text) if isinstance(message, UserMessage) else message for message in messages)
    return as_turns(texts, say=_in_words)


def _in_words(message: AssistantMessage) -> str:
    called = [f"I call {call.name} with {call.arguments or '{}'}" for call in message.calls]
    return "\n".join(part for part in (message.text, *called) if part)
