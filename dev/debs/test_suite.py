# SPDX-License-Identifier: Apache-2.0
"""Reading the host's sources."""

import unittest

from debs.suite import Source, parse_line, parse_stanza

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Stanza(unittest.TestCase):
    def check(self, text, *expected):
        self.assertEqual(list(parse_stanza(text)), [Source(*fields) for fields in expected])

    def test_every_uri_has_every_suite(self):
        self.check(
            f"Types: deb\n# a comment\nURIs: mirror://a\nSuites: one two\nComponents: main contrib\nSigned-By: {KEYRING}",
            (f"[signed-by={KEYRING}] ", "mirror://a", "one", "main contrib"),
            (f"[signed-by={KEYRING}] ", "mirror://a", "two", "main contrib"),
        )

    def test_a_field_may_go_on_in_the_next_line(self):
        self.check("Types: deb\nURIs: mirror://a\nSuites: one\n two\nComponents: main",
                   ("", "mirror://a", "one", "main"), ("", "mirror://a", "two", "main"))

    def test_sources_of_sources_and_disabled_ones_are_not_used(self):
        self.check("Types: deb-src\nURIs: mirror://a\nSuites: one\nComponents: main")
        self.check("Enabled: no\nTypes: deb\nURIs: mirror://a\nSuites: one\nComponents: main")

    def test_an_embedded_key_is_not_taken_for_a_file(self):
        self.check("Types: deb\nURIs: mirror://a\nSuites: one\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc",
                   ("", "mirror://a", "one", "main"))


class Line(unittest.TestCase):
    def test_options_are_kept(self):
        self.assertEqual(parse_line("deb [arch=amd64 signed-by=/k] mirror://a one main contrib"),
                         Source("[arch=amd64 signed-by=/k] ", "mirror://a", "one", "main contrib"))

    def test_anything_else_is_not_a_source(self):
        for line in ("", "# deb mirror://a one main", "deb-src mirror://a one main"):
            self.assertIsNone(parse_line(line))
