# SPDX-License-Identifier: Apache-2.0
"""A kernel's messages and the lines they become; the environment of each language. No kernel is needed."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cube_interpreter import languages, outputs  # noqa: E402


class Lines(unittest.TestCase):
    def test_a_result_has_all_its_forms_and_says_that_it_is_the_main_one(self):
        content = {"data": {"text/plain": "'a'", "image/png": "iVBO", "application/x-own": 1}}
        wanted = {"type": "result", "is_main_result": True, "text": "a", "png": "iVBO", "extra": {"application/x-own": 1}}
        self.assertEqual(outputs.line("execute_result", content), wanted)

    def test_what_is_displayed_is_not_the_main_result(self):
        self.assertFalse(outputs.line("display_data", {"data": {}})["is_main_result"])

    def test_only_quotes_around_the_whole_text_go(self):
        for text, wanted in (("'a'", "a"), ('"it\'s"', "it's"), ("a'", "a'"), ("'", "'"), ("", ""), ("3", "3")):
            self.assertEqual(outputs.unquoted(text), wanted)

    def test_streams_and_errors_are_told(self):
        line = outputs.line("stream", {"name": "stderr", "text": "x\n"})
        self.assertEqual((line["type"], line["text"]), ("stderr", "x\n"))
        error = outputs.line("error", {"ename": "E", "evalue": "v", "traceback": ["1", "2"]})
        self.assertEqual(error, {"type": "error", "name": "E", "value": "v", "traceback": "1\n2"})

    def test_what_nobody_asked_about_is_left_out(self):
        for kind in ("status", "comm_open", "clear_output"):
            self.assertIsNone(outputs.line(kind, {}))


class Languages(unittest.TestCase):
    def test_a_language_has_several_names(self):
        for name, wanted in ((None, "python"), ("", "python"), ("PY", "python"), ("js", "javascript"), ("sh", "bash")):
            self.assertEqual(languages.find(name).name, wanted)

    def test_an_unknown_one_is_named_with_those_that_are_there(self):
        with self.assertRaisesRegex(languages.UnknownLanguage, "'cobol'.*bash, javascript, python"):
            languages.find("cobol")

    def test_values_are_quoted_for_the_language(self):
        values = {"A": "it's $HOME", "B": None}
        self.assertEqual(languages.bash_environment(values), "export A='it'\"'\"'s $HOME'\nunset B")
        self.assertEqual(
            languages.javascript_environment(values), 'process.env["A"] = "it\'s $HOME";delete process.env["B"];void 0',
        )
        self.assertIn(repr(values), languages.python_environment(values))
