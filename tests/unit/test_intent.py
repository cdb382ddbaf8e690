"""Which words ask for a change, and which names say that a tool only reads."""

# ruff: noqa: RUF001  # other languages have letters that look like those of English

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmstudio_bridge import intent


@pytest.mark.parametrize(
    "task",
    [
        "Write it.",
        "Create a file a.txt with x",
        "Read a.txt, then write a summary to out.md.",
        "Please rename a.txt to b.txt",
        "In notes.txt, replace X with Y.",
        "1. Delete the folder tmp",
        "- Add a line to todo.md",
        "Look at the file. Update the version.",
        "Find the file that mentions X and delete it.",
        "Can you move a.txt to b?",
        "I want you to fix the typo in README.md",
        "Summarize docs/ and save the summary in out.md",
        "Turn off debug in settings.json.",
        "Turn debug off in a.ini.",
        "Make a folder named x.",
        "Put the sum into out.txt.",
        "Remember that Ana likes tea.",
        "Increment the version in package.json.",
        "Convert a.csv to JSON and save it as b.json.",
        "Extract the names into names.txt.",
        "Let's rename a.txt to b.txt.",
        "There should be a file b.txt with x in it.",
        "Write the word heron into b.txt",
        "Set the port to 80",
        "What is in a.txt?\nAppend it to b.txt.",
        "commit the changes",
        "Read notes/meeting.md, and store each person in the memory",
        "Correct the typo in a.md.",
        "Increase the timeout in a.toml to 60.",
        "Enable debug in a.toml.",
        "Set debug to false in a.toml, and add the size to your answer.",
        "Send me a message on Slack.",
        "Write NONE to a.md.",
    ],
)
def test_task_that_plainly_asks_for_a_change(task: str) -> None:
    assert intent.asks_for_change(task)


@pytest.mark.parametrize(
    "task",
    [
        "",
        "Read README.md and tell me what it is",
        "What is the code word?",
        "Read a.txt and write one sentence about it.",
        "Write a summary.",
        "Write a short summary of what you found.",
        "Which functions do read and write operations?",
        "How do I delete a file?",
        "What do create, update and delete do?",
        "Do not change anything.",
        "List the numbers and add up their values.",
        "Never write to files.",
        "Find the commit that broke it",
        "Create a list of all functions",
        "Tell me whether the settings changed.",
        "Read docs/a.md and sum it up in two sentences",
        "Write a summary of docs/a.md",
        "Write a summary of the notes in a.md.",
        "List all TODO comments in the files of the folder src.",
        "Extract the names from the files in src.",
        "Add 7678 and 1056 with the tool.",
        "Read it, add the numbers with the tool, and tell me the sum.",
        "Create a table of the files.",
        "Put the names in alphabetical order.",
        "Translate a.md to German.",
        "Convert 5 km to miles.",
        "Set of names in a.md: how many?",
        "List the names. Write NONE if there is none.",
        "Write a haiku about notes.md.",
        "Write only the number.",
        "Write me the first line of a.md.",
        "Write a commit message for the staged diff.",
        "Add a short explanation to your answer.",
        "Copy the third line of a.md into your answer.",
        "Replace nothing, just read a.md.",
        "Save time: only read the first lines of a.md.",
    ],
)
def test_task_that_only_asks_to_read(task: str) -> None:
    assert not intent.asks_for_change(task)


@pytest.mark.parametrize(
    "task",
    [
        "Lösche den Ordner tmp.",
        "Lies a.txt und ersetze X durch Y.",
        "Bitte benenne a.txt in b.txt um.",
        "Erstelle die Datei a.txt mit dem Wort teal.",
        "Verwijder a.txt.",
        "Lees a.txt en vervang X door Y.",
        "Maak het bestand a.txt.",
        "Supprimez le fichier a.txt.",
        "Lis a.txt, puis remplace X par Y.",
        "Veuillez modifier la ligne 3.",
        "Crée le fichier a.txt.",
        "Borra la carpeta tmp.",
        "Lee a.txt y reemplaza X por Y.",
        "Por favor elimina a.txt.",
        "Elimina il file a.txt.",
        "Leggi a.txt e sostituisci X con Y.",
        "Apague o arquivo a.txt.",
        "Leia a.txt e substitua X por Y.",
        "Usuń plik a.txt.",
        "Przeczytaj a.txt i zamień X na Y.",
        "Удали файл a.txt.",
        "Прочитай a.txt и замени X на Y.",
        "请删除 a.txt 文件。",
        "读取 a.txt，然后修改第三行。",
        "把 a.txt 重命名为 b.txt。",
        "创建一个文件 a.txt。",
        "a.txt を削除してください。",
        "設定を変更してください。",
        "Schalte debug in settings.json aus.",
        "Füge die Zeile x an todo.md an.",
        "Schreibe die Summe in out.txt.",
        "Kannst du a.txt löschen?",
        "Die Datei a.txt soll in b.txt umbenannt werden.",
        "Ajoute la ligne x à la fin de todo.md.",
        "Peux-tu supprimer a.txt ?",
        "Añade la línea x a todo.md.",
        "Dodaj linię x do todo.md.",
        "Добавь строку x в todo.md.",
        "在 todo.md 末尾添加一行 x。",
        "把 debug 设为 false。",
        "todo.md に x の行を追加してください。",
        "a.txt를 삭제해줘.",
        "a.txt dosyasını sil.",
        "a.txt dosyasını b.txt olarak yeniden adlandırın.",
        "a.txt dosyasını siler misin?",
        "Toplamı out.txt dosyasına yaz.",
        "ayarlar.json içinde portu 80 olarak değiştirin.",
        "tmp klasörünü oluştur.",
        "احذف الملف a.txt.",
        "اقرأ a.txt ثم استبدل X بـ Y.",
        "اكتب المجموع في الملف out.txt.",
        "أضف السطر x إلى todo.md.",
        "a.txt फ़ाइल हटा दें।",
        "todo.md में x पंक्ति जोड़ें।",
        "a.txt में X को Y से बदलो",
        "out.txt में योग लिखें।",
    ],
)
def test_task_that_plainly_asks_for_a_change_in_another_language(task: str) -> None:
    assert intent.asks_for_change(task)


@pytest.mark.parametrize(
    "task",
    [
        "Lies a.txt und fasse die Datei zusammen.",
        "Lies a.txt und ändere nichts.",
        "Erstelle eine Liste der Dateien in docs.",
        "Schreibe eine Zusammenfassung von docs/a.md.",
        "Wie lösche ich eine Datei?",
        "Welche Funktion löscht und ersetzt Dateien?",
        "Lees a.txt en vat het samen.",
        "Maak een lijst van de bestanden.",
        "Lis a.txt et résume le fichier.",
        "Écris un résumé de docs/a.md.",
        "Qui modifie le fichier et le supprime ?",
        "Ne modifie rien.",
        "Lee a.txt y dime qué dice.",
        "Crea una lista de los archivos.",
        "¿Quién borra los archivos y edita a.txt?",
        "Leggi a.txt e dimmi cosa dice.",
        "Scrivi un riassunto di docs/a.md.",
        "Leia a.txt e resuma o arquivo.",
        "Przeczytaj a.txt i streść go.",
        "Прочитай a.txt и перескажи его.",
        "Кто удалил файл?",
        "请读取 a.txt 并总结内容。",
        "哪个函数会删除文件？",
        "请列出最近修改的文件。",
        "写一个总结。",
        "a.txt を読んで、要約してください。",
        "最近変更されたファイルを一覧にしてください。",
        "Quelle est la copie la plus récente de a.txt ?",
        "Addiere 3 und 4.",
        "Schreibe eine Zusammenfassung von a.md.",
        "Wie kann ich eine Datei löschen?",
        "Ajoute 3 et 4.",
        "a.txt dosyasını oku ve özetle.",
        "a.txt dosyasında ne yazıyor?",
        "Bir dosya nasıl silinir?",
        "Bir liste oluştur.",
        "اقرأ الملف a.txt ولخصه.",
        "ما الذي تم تغييره؟",
        "كيف أحذف ملفًا؟",
        "a.txt पढ़ें और सारांश दें।",
        "फ़ाइल कैसे हटाएं?",
        "Welche Dateien muss ich löschen?",
    ],
)
def test_task_that_only_asks_to_read_in_another_language(task: str) -> None:
    assert not intent.asks_for_change(task)


@pytest.mark.parametrize(
    ("task", "may"),
    [
        ("Σβήσε το αρχείο a.txt.", True),
        ("מחק את הקובץ a.txt.", True),
        ("ลบไฟล์ a.txt", True),
        ("a.txt ফাইলটি মুছে ফেলো", True),
        ("मुझे a.txt पढ़कर बताओ", True),
        ("Delete a.txt.", True),
        ("ماذا في الملف a.txt؟", False),
        ("a.txt में क्या है?", False),
        ("Read a.txt.", False),
        ("Прочитай a.txt и перескажи его.", False),
        ("读取 a.txt 并总结内容。", False),
    ],
)
def test_task_in_a_script_of_which_few_verbs_are_known_may_ask_for_a_change(task: str, may: bool) -> None:
    assert intent.may_ask_for_change(task) is may


@given(st.text())
def test_any_text_is_a_task(task: str) -> None:
    assert intent.asks_for_change(f"{task}\nDelete a.txt.")


@pytest.mark.parametrize("name", ["read_text_file", "listIssues", "git_status", "getUser", "search-nodes", "LIST"])
def test_name_that_says_that_the_tool_only_reads(name: str) -> None:
    assert intent.only_reads_by_name(name)


@pytest.mark.parametrize(
    "name",
    ["write_file", "create_entities", "search_and_replace", "set_list", "browser_navigate", "log_event", "", "x"],
)
def test_other_name(name: str) -> None:
    assert not intent.only_reads_by_name(name)


@pytest.mark.parametrize(
    ("tool", "files", "takes_away", "makes_folder"),
    [
        ("write_file", True, False, False),
        ("moveFile", True, True, False),
        ("delete_directory", True, True, False),
        ("create_directory", True, False, True),
        ("mkdir", True, False, True),
        ("upload_file", False, False, False),
        ("rename_symbol", False, True, False),
        ("apply_patch", False, False, False),
        ("git_commit", False, False, False),
        ("create_entities", False, False, False),
        ("delete_issue", False, True, False),
        ("read_text_file", False, False, False),
    ],
)
def test_names_of_tools_tell_what_they_do_to_files(
    tool: str, files: bool, takes_away: bool, makes_folder: bool
) -> None:
    assert (intent.changes_files_by_name(tool), intent.takes_away_by_name(tool), intent.makes_folder_by_name(tool)) == (
        files,
        takes_away,
        makes_folder,
    )
