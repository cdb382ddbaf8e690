"""Replies that only say which call comes next, and answers that sound like it."""

# ruff: noqa: RUF001  # other languages have letters that look like those of English

from __future__ import annotations

import pytest

from lmstudio_bridge.agent.announcements import LONGEST, announces_call

NAMES = ("notes__read_note", "notes__list_notes")


@pytest.mark.parametrize(
    "text",
    [
        "To answer this, I'll need to access the file a.md.",
        "Let me read the file.",
        "I shall read a.md.",
        "I am about to open the file.",
        "Allow me to read the file.",
        "To answer this I have to see a.md.",
        "First step: read a.md.",
        "The first thing to do is read a.md.",
        "Zuerst lese ich die Datei.",
        "Please call notes__read_note with path a.md.",
        "Ich benutze jetzt das Werkzeug notes__read_note.",
        "Ahora llamo a notes__read_note.",
        "Let me read the note a.md to find out which colour it names.",
        "I will read the note a.md now.",
        "First, I'll look at a.md.",
        "I'm going to check the note.",
        "Okay, let me look at the note first.",
        "Sure! I'll read the note a.md and tell you the colour.",
        "Sure, I can help with that. Let me read the note.",
        "I need to see a.md first.",
        "I should check whether a.md exists.",
        "I'll read a.md now. One moment please.",
        "Let me check the note. Please wait a moment.",
        "I'll start by reading the note.",
        "I'll start by reading the note:",
        "Let's open it.",
        "The note a.md is short.\n\nNext, I will read b.md.",
        "The user wants the colour in a.md. I need to use the read_note tool.",
        "I will use the tool for that.",
        "I will now call notes__read_note with path a.md",
        "I'll call `notes__read_note` with path `a.md`.",
        'Calling notes__read_note with path "a.md"',
        "Reading the note a.md...",
        "Reading the note…",
        "Step 1: Call notes__read_note with path=a.md.\nStep 2: Answer the question.",
        '1. notes__read_note(path="a.md")\n2. Answer.',
        "Ich rufe notes__read_note mit path=a.md auf.",
        "Plan:\n1. Use notes__read_note to read a.md\n2. Report the colour.",
        "Ich werde jetzt die Notiz lesen.",
        "Lass mich in der Datei nachsehen.",
        "Ik ga het bestand lezen.",
        "Je vais lire la note a.md.",
        "Voy a leer la nota a.md.",
        "Vou ler a nota.",
        "Najpierw przeczytam plik.",
        "Прочитаю a.md.",
        "让我先读取 a.md 文件。",
        "好的，我将查看文件。",
        "まず、ファイルを読みます。",
        "Plan:\n1. Read the file\n2. Report the colour",
        "My plan: 1. Read a.md. 2. Find the colour. 3. Answer.",
        "调用工具 notes__read_note，参数为 a.md",
        "The user wants the colour. We need to read a.md.",
        "Now I have to find the colour.",
        "Checking a.md for the colour.",
        "Thought: I should read the file first.",
        "I'm reading the file now.",
        "I am going through this step by step. I am looking at a.md.",
        "One moment, reading a.md...",
        "Reading the file now.",
        "One moment please.",
        "Please wait while I read the file.",
        "The next step is to read a.md.",
        "I would need to read the file to answer.",
        "Ich lese jetzt die Datei a.md.",
        "Ich schaue in a.md nach.",
        "Je suis en train de lire le fichier.",
        "Estoy leyendo el archivo.",
        "Leggo il file a.md.",
        "Zaraz przeczytam plik.",
        "Nejprve přečtu soubor.",
        "Я сейчас прочту файл.",
        "Мне нужно сначала прочитать файл.",
        "Я прочитаю файл a.md.",
        "Спочатку я перевірю файл.",
        "Jag ska läsa filen.",
        "Jeg vil læse filen.",
        "Önce a.md dosyasını okuyacağım.",
        "Dosyayı kontrol ediyorum.",
        "Saya akan membaca berkas.",
        "Tôi sẽ đọc tệp.",
        "سأقرأ الملف.",
        "دعني أقرأ الملف أولاً.",
        "मैं फ़ाइल पढ़ता हूँ।",
        "मुझे पहले फ़ाइल पढ़ना होगा।",
        "a.mdを確認します。",
        "ファイルを読んでみましょう。",
        "파일을 읽어보겠습니다.",
        "먼저 a.md를 확인하겠습니다.",
    ],
)
def test_what_comes_next_is_told_from_an_answer(text: str) -> None:
    assert announces_call(text, NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The colour is teal.",
        "The colour is teal. Let me know if you need anything else.",
        "Please call Ada before noon; snake_case is fine.",
        "I will be brief: the colour is teal.",
        "I will not read the file, since the task forbids it.",
        "I'll stop here.",
        "Let me sum up: the colour is teal.",
        "I need more information: which note do you mean?",
        "I need to see the log to say more. Please share it.",
        "I will read b.md too if you want.",
        "Once you confirm, I'll write the file.",
        "I cannot read b.md, because it does not exist.",
        "I have read all notes. Next, you should run the tests.",
        "The note says: Let me read the file.",
        "Next step: open the valve.",
        "Step 1: read a.md, step 2: start the server.",
        "I am about to leave, says the captain.",
        'The plan says: "I will read the note a.md."',
        "\u201cI will read the note.\u201d",
        "You need to read CONTRIBUTING.md first.",
        "Read the README, then run make.",
        "I read the note: it is teal.",
        "I used notes__read_note.",
        "I will use the name teal.",
        "They call it teal.",
        "Reading is fun.",
        "Calling it teal would be wrong.",
        "She said that she will read it.",
        "The next step of the plan is to read the notes.",
        "Die Notiz nennt teal. Ich werde nichts ändern.",
        "La note parle de ce que je vais lire.",
        "a.md 中提到的颜色是青色。",
        "1. notes__read_note(path): reads a note\n2. notes__list_notes(): lists them",
        "我使用了 notes__read_note",
        "read_note",
        'I will read you the line: "The harbor is teal."',
        "I am reading this as a request: it asks for teal.",
        "I am looking forward to the meeting that was moved.",
        "Checking the file takes an hour, says the note.",
        "Reading files is what it is for.",
        "Reading now costs nothing, says the note.",
        "Ich sehe in a.md keine Farbe.",
        "Ich lese in a.md nach: Die Farbe ist türkis.",
        "Cerco lavoro, dice la nota.",
        "我会读书，他说。",
        "社員は報告書を読みます。",
        "Dosya turkuaz rengini anıyor.",
        "الملف يذكر اللون الأزرق.",
        "फ़ाइल में रंग नीला है।",
        "파일에 따르면 색은 청록색입니다.",
        "Saya membaca berkas: warnanya hijau.",
        "Tôi đã đọc tệp: màu xanh.",
    ],
)
def test_an_answer_stays_one(text: str) -> None:
    assert not announces_call(text, NAMES)


@pytest.mark.parametrize(("length", "announced"), [(LONGEST, True), (LONGEST + 1, False)])
def test_a_long_text_is_an_answer_however_it_ends(length: int, announced: bool) -> None:
    ending = " Let me read it."

    assert announces_call("x" * (length - len(ending) - 1) + "." + ending) is announced


def test_a_plan_may_be_what_was_asked_for() -> None:
    assert not announces_call("Plan:\n1. Read the file\n2. Report the colour", read=["Show the plan in plan.md."])


def test_what_was_read_is_a_quotation() -> None:
    assert not announces_call("Let me read the file.", read=["Translate: Let me read the file."])
